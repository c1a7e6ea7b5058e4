#include "kmod-interfaces/page_flags.h"

#include <fcntl.h>
#include <unistd.h>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {

Result<PageFlagsTable> PageFlagsTable::open(const KernelRoots& roots) {
  const std::string path = roots.proc + "/kpageflags";
  auto file = open_at(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, path);
  if (!file) return Failure{file.error()};
  PageFlagsTable table;
  table.fd_ = std::move(*file);
  return table;
}

Result<std::size_t> PageFlagsTable::read(std::uint64_t first_frame, std::span<PageFlags> out) const {
  static_assert(sizeof(PageFlags) == 8);
  const ssize_t got =
      ::pread(fd_.get(), out.data(), out.size_bytes(), static_cast<off_t>(first_frame * sizeof(PageFlags)));
  if (got < 0) return errno_failure("read", "kpageflags");
  return static_cast<std::size_t>(got) / sizeof(PageFlags);
}

}  // namespace tidepool::kernel
