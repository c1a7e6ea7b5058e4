#include "bench/load/access_counts.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace tidepool::load {

Result<AccessCounts> AccessCounts::create(const std::string& path, PageCount pages) {
  const UniqueFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
  if (!file.valid()) return errno_failure("create", path);
  const Bytes size{pages.value * 2 * sizeof(std::uint32_t)};
  if (::ftruncate(file.get(), static_cast<off_t>(size.value)) != 0) return errno_failure("size", path);
  auto mapping = Mapping::of_file(file.get(), size, Bytes{}, PROT_READ | PROT_WRITE, MAP_SHARED);
  if (!mapping) return Failure{mapping.error()};
  AccessCounts counts;
  counts.file_ = std::move(*mapping);
  return counts;
}

}  // namespace tidepool::load
