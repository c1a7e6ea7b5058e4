#include "kmod-interfaces/pagemap.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <string>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {

Result<Pagemap> Pagemap::open(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/pagemap";
  Pagemap pagemap;
  pagemap.fd_ = UniqueFd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!pagemap.fd_.valid()) return errno_failure("open", path, "CAP_SYS_PTRACE is needed for other users' processes");
  return pagemap;
}

Result<Pagemap> Pagemap::open(const KernelRoots& roots, const ProcessId& process) {
  const auto held = Process::open(roots, process.pid);
  if (!held) return Failure{held.error()};
  const std::string subject = "pagemap of process " + std::to_string(process.pid);
  if (held->id() != process) return failure_from(ESRCH, "open", subject, "its pid is another process's now");
  auto file = open_at(held->directory(), "pagemap", O_RDONLY | O_CLOEXEC, subject);
  if (!file) return Failure{file.error()};
  Pagemap pagemap;
  pagemap.fd_ = std::move(*file);
  return pagemap;
}

Result<std::size_t> Pagemap::take_written(AddressRange range, std::span<uapi::page_region> out,
                                          std::uint64_t& scanned_to) const {
  uapi::pm_scan_arg request{};
  request.size = sizeof request;
  request.flags = uapi::kScanWpMatching | uapi::kScanCheckWpAsync;
  request.start = range.start;
  request.end = range.end;
  request.vec = reinterpret_cast<std::uintptr_t>(out.data());
  request.vec_len = out.size();
  request.category_mask = uapi::kPageIsWritten;
  request.return_mask = uapi::kPageIsWritten | uapi::kPageIsHuge;
  const int found = ::ioctl(fd_.get(), uapi::kPagemapScan, &request);
  if (found < 0) return errno_failure("take written pages from", "pagemap", "PAGEMAP_SCAN needs Linux 6.7 or newer");
  scanned_to = request.walk_end;
  return static_cast<std::size_t>(found);
}

Result<std::size_t> Pagemap::entries(std::uint64_t address, std::span<PagemapEntry> out) const {
  static_assert(sizeof(PagemapEntry) == 8);
  const auto offset = static_cast<off_t>(address / kPageSize * sizeof(PagemapEntry));
  const ssize_t got = ::pread(fd_.get(), out.data(), out.size_bytes(), offset);
  if (got < 0) return errno_failure("read", "pagemap");
  return static_cast<std::size_t>(got) / sizeof(PagemapEntry);
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

Result<PagemapEntry> Pagemap::entry(std::uint64_t address) const {
  PagemapEntry entry;
  const auto got = entries(address, std::span(&entry, 1));
  if (!got) return Failure{got.error()};
  return entry;
}

}  // namespace tidepool::kernel
