// Pages in a file or on a block device, past the page cache: io_uring with O_DIRECT. A tier for what is colder than
// memory is dear, and a place of last resort when servers are gone.
//
// A disk is somebody else's: pages are sealed unless that is declined. Beside "store/data" and "store/table" the key is
// held, as "store/secret", and dies with the last who holds it. Whatever stands in the file is judged by the
// table in this host's memory (version, tag, checksum), so that a page that changed, moved or grew old on the disk is
// kCorrupt and never handed out. Demand reads overtake prefetch, which overtakes writes; writes leave a part of the
// depth free.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "pool/client/vm_secret.h"
#include "pool/store/embedded_store.h"

namespace tidepool::pool {

struct FileStoreOptions {
  // A block device that nobody uses and whose first MiB is zeros, or a file that holds no data; a file that does not
  // exist is created, and unlinked at once.
  std::string path{};
  Bytes capacity{};  // most that pages may take of it
  // The key, of a VM or of this store alone; null: pages are written as they are.
  std::shared_ptr<VmSecret> secret{};
  unsigned depth = 128;  // requests under way, 8 to 1024
};

// Errors say what is wrong with the path: no O_DIRECT there, in use, holds data, too small.
Result<std::unique_ptr<EmbeddedStore>> create_file_store(const FileStoreOptions& options);
// Takes over what another process left; options.path does not count. The secret must be the one that it was written
// with.
Result<std::unique_ptr<EmbeddedStore>> open_file_store(UniqueFd data, UniqueFd table, const FileStoreOptions& options);

}  // namespace tidepool::pool
