// Raw 4 KiB slots over memory that can be mapped: a memfd, a file on tmpfs or hugetlbfs, a DAX device. The floor for
// speed: stage() lends a slot's own memory and submit_read() shows it, so a page is copied once on its way out and once
// on its way home.
//
// Freed slots keep their memory, and what is in it, for the next writer until maintain() gives it back to the host. A
// writer overwrites a lent slot whole: its checksum is taken of the whole page, and only then can anyone read it. The
// layout of the table beside the data is docs/layout.md's.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "kmod-interfaces/kernel_roots.h"
#include "pool/store/embedded_store.h"

namespace tidepool::pool {

struct MappedStoreOptions {
  std::string path{};  // as for Medium::create
  // Most that pages and tables may take; at most the medium's size. Zero is an error.
  Bytes capacity{};
  // How far set_capacity may go for a medium without a size of its own; address space only. Zero: as far as the host's
  // memory. On hugetlbfs `capacity` is all: it is reserved at once.
  Bytes maximum{};
  // Freed slots beyond this much are given back by the next maintain(), wanted or not; beyond twice as much by whoever
  // frees them.
  Bytes most_unreturned{64ull << 20};
  kernel::KernelRoots roots{};
};

Result<std::unique_ptr<EmbeddedStore>> create_mapped_store(const MappedStoreOptions& options);

// Takes over what another process left. Everything is checked: a damaged header, the wrong data or an unknown layout is
// refused; an entry that makes no sense costs its own page only. Slots that were being written are freed. options.path
// and options.maximum do not count.
Result<std::unique_ptr<EmbeddedStore>> open_mapped_store(UniqueFd data, UniqueFd table,
                                                         const MappedStoreOptions& options);

}  // namespace tidepool::pool
