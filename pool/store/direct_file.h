// The file or block device under a file store, opened past the page cache.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace tidepool::pool {

struct DirectFile {
  UniqueFd fd;
  Bytes size;
};

// What there is of room at a path that open_direct takes: that of the device or file, or what is free on the file
// system where the file would be made.
Result<Bytes> measure_direct(const std::string& path);

// As FileStoreOptions::path says; `size`: of a file that has none of its own. Locked against a second user.
Result<DirectFile> open_direct(const std::string& path, Bytes size);

}  // namespace tidepool::pool
