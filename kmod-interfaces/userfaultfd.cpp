#include "kmod-interfaces/userfaultfd.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <string>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

// The kernel's own mark, among the features, that the handshake is done (UFFD_FEATURE_INITIALIZED, fs/userfaultfd.c).
constexpr std::uint64_t kHandshakeDone = 1ull << 31;
// More than the kernel writes.
constexpr std::size_t kMostFdinfo = 512;

std::string fdinfo_path(int fd) {
  return "/proc/self/fdinfo/" + std::to_string(fd);
}

std::string describe(AddressRange range) {
  char text[64];
  std::snprintf(text, sizeof text, "0x%llx-0x%llx", static_cast<unsigned long long>(range.start),
                static_cast<unsigned long long>(range.end));
  return text;
}

// The kernel reports partial work as errno EAGAIN and a positive count, or as a negative errno in the count itself.
InstallOutcome outcome_of(int returned, std::int64_t count, std::uint64_t length) {
  if (returned == 0) return {length, 0};
  const int error = errno;
  if (count > 0) return {static_cast<std::uint64_t>(count), EAGAIN};
  return {0, error};
}

}  // namespace

Result<Userfaultfd> Userfaultfd::create_for_self() {
  UniqueFd fd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
  if (!fd.valid()) {
    const UniqueFd device{::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)};
    if (!device.valid()) {
      return errno_failure("open", "/dev/userfaultfd", "run as root, or grant access to /dev/userfaultfd");
    }
    fd = UniqueFd{::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)};
    if (!fd.valid()) return errno_failure("create", "userfaultfd");
  }
  return Userfaultfd{std::move(fd)};
}

Result<std::uint64_t> Userfaultfd::handshake(std::uint64_t features) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  if (::ioctl(fd_.get(), UFFDIO_API, &api) != 0) {
    return errno_failure("agree on features with", "userfaultfd",
                         "the kernel may be too old: Linux 5.19 or newer is needed");
  }
  return api.features;
}

Result<std::optional<std::uint64_t>> Userfaultfd::agreed_features() const {
  const std::string path = fdinfo_path(fd_.get());
  const auto text = read_file(path);
  if (!text) return tl::unexpected(text.error());
  const std::size_t line = text->find("API:");
  unsigned long long protocol = 0;
  unsigned long long features = 0;
  if (line == std::string::npos || std::sscanf(text->c_str() + line, "API: %llx:%llx", &protocol, &features) != 2 ||
      protocol != UFFD_API) {
    return failure(std::errc::bad_file_descriptor, "read the features of", path, "it is not a userfaultfd");
  }
  if ((features & kHandshakeDone) == 0) return std::optional<std::uint64_t>();
  return std::optional<std::uint64_t>(features & ~kHandshakeDone);
}

Result<> Userfaultfd::register_range(AddressRange range, std::uint64_t modes) {
  uffdio_register request{};
  request.range = {range.start, range.size()};
  request.mode = modes;
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) != 0) {
    return errno_failure("register with userfaultfd", describe(range),
                         errno == EBUSY ? "another userfaultfd watches a part of it" : "");
  }
  return {};
}

Result<> Userfaultfd::unregister_range(AddressRange range) {
  uffdio_range request{range.start, range.size()};
  if (::ioctl(fd_.get(), UFFDIO_UNREGISTER, &request) != 0) {
    return errno_failure("unregister from userfaultfd", describe(range));
  }
  return {};
}

int Userfaultfd::read_events(std::span<uffd_msg> events) const {
  const ssize_t got = ::read(fd_.get(), events.data(), events.size_bytes());
  if (got < 0) return errno == EAGAIN ? 0 : -errno;
  return static_cast<int>(static_cast<std::size_t>(got) / sizeof(uffd_msg));
}

InstallOutcome Userfaultfd::copy(std::uint64_t address, const void* source, std::uint64_t length,
                                 bool write_protect) const {
  uffdio_copy request{};
  request.dst = address;
  request.src = reinterpret_cast<std::uintptr_t>(source);
  request.len = length;
  request.mode = write_protect ? UFFDIO_COPY_MODE_WP : 0;
  const int returned = ::ioctl(fd_.get(), UFFDIO_COPY, &request);
  return outcome_of(returned, request.copy, length);
}

InstallOutcome Userfaultfd::map_cached(std::uint64_t address, std::uint64_t length, bool write_protect) const {
  uffdio_continue request{};
  request.range = {address, length};
  request.mode = write_protect ? UFFDIO_CONTINUE_MODE_WP : 0;
  const int returned = ::ioctl(fd_.get(), UFFDIO_CONTINUE, &request);
  return outcome_of(returned, request.mapped, length);
}

InstallOutcome Userfaultfd::poison(std::uint64_t address, std::uint64_t length) const {
  uffdio_poison request{};
  request.range = {address, length};
  const int returned = ::ioctl(fd_.get(), UFFDIO_POISON, &request);
  return outcome_of(returned, request.updated, length);
}

int Userfaultfd::write_protect(AddressRange range, bool protect, Waiters waiters) const {
  uffdio_writeprotect request{};
  request.range = {range.start, range.size()};
  request.mode = protect                      ? UFFDIO_WRITEPROTECT_MODE_WP
                 : waiters == Waiters::kLeave ? UFFDIO_WRITEPROTECT_MODE_DONTWAKE
                                              : 0;
  // A signal or a concurrent change of the address space interrupts a long range; it is idempotent, so start again, but
  // not forever.
  for (int attempt = 0; attempt < 64; ++attempt) {
    if (::ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &request) == 0) return 0;
    if (errno != EINTR) break;
  }
  return errno;
}

int Userfaultfd::wake(AddressRange range) const {
  uffdio_range request{range.start, range.size()};
  return ::ioctl(fd_.get(), UFFDIO_WAKE, &request) == 0 ? 0 : errno;
}

namespace {

// Page 0 is never mapped in a live process (vm.mmap_min_addr): nothing is installed, but the answer tells.
int try_impossible_copy(const Userfaultfd& userfaultfd) {
  static const std::byte page[kPageSize]{};
  return userfaultfd.copy(0, page, kPageSize, false).error;
}

}  // namespace

bool Userfaultfd::address_space_alive() const {
  return try_impossible_copy(*this) != ESRCH;
}

bool Userfaultfd::has_message() const {
  pollfd waits{fd_.get(), POLLIN, 0};
  return ::poll(&waits, 1, 0) > 0;
}

bool Userfaultfd::is_changing() const {
  return try_impossible_copy(*this) == EAGAIN;
}

std::size_t PendingFaults::count() {
  if (!fdinfo_.valid()) fdinfo_ = UniqueFd{::open(fdinfo_path(of_).c_str(), O_RDONLY | O_CLOEXEC)};
  std::array<char, kMostFdinfo> text;
  const ssize_t got = ::pread(fdinfo_.get(), text.data(), text.size(), 0);
  if (got <= 0) return 0;
  return parse_pending_faults({text.data(), static_cast<std::size_t>(got)}).value_or(0);
}

std::optional<std::size_t> parse_pending_faults(std::string_view fdinfo) {
  constexpr std::string_view kName = "\npending:";
  const std::size_t at = fdinfo.find(kName);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view behind = fdinfo.substr(at + kName.size());
  const std::size_t end = behind.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  return parse_decimal(trim(behind.substr(0, end)));
}

}  // namespace tidepool::kernel
