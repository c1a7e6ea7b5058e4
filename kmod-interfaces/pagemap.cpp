#include "kmod-interfaces/pagemap.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <string>

namespace tidepool::kernel {

Result<Pagemap> Pagemap::open(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/pagemap";
  Pagemap pagemap;
  pagemap.fd_ = UniqueFd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!pagemap.fd_.valid()) return errno_failure("open", path, "CAP_SYS_PTRACE is needed for other users' processes");
  return pagemap;
}

Result<std::size_t> Pagemap::scan(AddressRange range, std::uint64_t any_of, std::span<uapi::page_region> out,
                                  std::uint64_t& scanned_to) const {
  uapi::pm_scan_arg request{};
  request.size = sizeof request;
  request.start = range.start;
  request.end = range.end;
  request.vec = reinterpret_cast<std::uintptr_t>(out.data());
  request.vec_len = out.size();
  request.category_anyof_mask = any_of;
  request.return_mask = any_of | uapi::kPageIsHuge | uapi::kPageIsPfnZero;
  const int found = ::ioctl(fd_.get(), uapi::kPagemapScan, &request);
  if (found < 0) return errno_failure("scan", "pagemap", "PAGEMAP_SCAN needs Linux 6.7 or newer");
  scanned_to = request.walk_end;
  return static_cast<std::size_t>(found);
}

Result<std::uint64_t> Pagemap::word(std::uint64_t address) const {
  std::uint64_t word = 0;
  const auto at = static_cast<off_t>((address >> kPageShift) * sizeof word);
  const ssize_t got = ::pread(fd_.get(), &word, sizeof word, at);
  if (got < 0) return errno_failure("read", "pagemap");
  return got == sizeof word ? word : 0;  // nothing at the end of the address space
}

}  // namespace tidepool::kernel
