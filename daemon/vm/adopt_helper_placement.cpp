#include "daemon/vm/adopt_helper_placement.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "kmod-interfaces/drop_ring.h"
#include "kmod-interfaces/fd_passing.h"
#include "kmod-interfaces/pidfd.h"
#include "kmod-interfaces/proc_text.h"
#include "kmod-interfaces/uapi/userfaultfd.h"
#include "kmod-interfaces/userfaultfd.h"

namespace tidepool::daemon {
namespace {

constexpr const char* kIoUring = "anon_inode:[io_uring]";
constexpr const char* kSocket = "socket:[";
constexpr std::uint32_t kRingIdleMs = 1;

// What recvmsg(2) works on, laid out in the target's scratch page.
struct DeviceMail {
  std::array<int, 2> sockets{-1, -1};
  msghdr message{};
  iovec vector{};
  std::array<std::byte, 16> data{};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
};
static_assert(sizeof(DeviceMail) <= kPageSize);

template <class T>
std::span<std::byte> bytes_of(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

// Which security module might be in the way, and under which label the process runs: an administrator needs both.
std::string security_remedy(pid_t pid) {
  const auto modules = kernel::read_value("/sys/kernel/security/lsm").value_or("");
  const bool selinux = modules.find("selinux") != std::string::npos || kernel::exists("/sys/fs/selinux/enforce");
  const bool apparmor =
      modules.find("apparmor") != std::string::npos || kernel::exists("/sys/kernel/security/apparmor/profiles");
  const std::string label = kernel::read_value("/proc/" + std::to_string(pid) + "/attr/current").value_or("");
  const std::string name = selinux ? "SELinux" : apparmor ? "AppArmor" : "";
  if (name.empty()) return "no AppArmor or SELinux is enabled; ask the kernel log";
  return name + " is enabled" + (label.empty() ? "" : " and the process runs as '" + kernel::printable(label) + "'") +
         ": allow it to receive the agent's descriptors of /dev/userfaultfd, userfaultfd and io_uring";
}

std::string why_userfaultfd_failed(int error) {
  if (error == ENOSYS) return "this kernel has no userfaultfd (CONFIG_USERFAULTFD)";
  if (error == EPERM)
    return "vm.unprivileged_userfaultfd is 0, and /dev/userfaultfd cannot be opened: it needs Linux 6.1 and the right "
           "to use it";
  if (error == EMFILE) return "the process has as many descriptors as its limit allows (RLIMIT_NOFILE)";
  return {};
}

std::string why_ring_failed(int error) {
  const std::string sysctl = kernel::read_value("/proc/sys/kernel/io_uring_disabled").value_or("0");
  if (error == EPERM && sysctl != "0")
    return "kernel.io_uring_disabled is " + sysctl + ": set it to 0, or use shared memory";
  if (error == EPERM) return "io_uring is forbidden to this process";
  if (error == ENOSYS) return "this kernel has no io_uring; use shared memory";
  if (error == EMFILE) return "the process has as many descriptors as its limit allows (RLIMIT_NOFILE)";
  if (error == ENOMEM) return "RLIMIT_MEMLOCK of the process may be too small";
  return {};
}

}  // namespace

std::string Placement::subject() const {
  return "process " + std::to_string(pid_);
}

Placement::~Placement() {
  while (!open_in_target_.empty()) close_in_target(open_in_target_.back());
}

void Placement::close_in_target(int number) {
  std::erase(open_in_target_, number);
  // When this is not possible the process is gone, and its descriptors with it.
  static_cast<void>(injector_.call(SYS_close, {static_cast<std::uint64_t>(number)}));
}

Result<int> Placement::make(const char* what, long number, std::initializer_list<std::uint64_t> arguments) {
  const auto value = injector_.call(number, arguments);
  if (!value) return tl::unexpected(value.error());
  if (*value < 0) return failure_from(static_cast<int>(-*value), std::string("make ") + what + " in", subject());
  const int descriptor = static_cast<int>(*value);
  open_in_target_.push_back(descriptor);
  return descriptor;
}

Result<UniqueFd> Placement::fetch(int number, const char* kind) {
  auto fd = kernel::take_descriptor(pidfd_, number);
  if (!fd) {
    const bool refused =
        fd.error().code == std::errc::operation_not_permitted || fd.error().code == std::errc::permission_denied;
    fd.error().subject += " of " + subject();
    if (refused) fd.error().remedy = security_remedy(pid_);
    return fd;
  }
  // Other threads of the process run, and may have put something else under that number.
  if (!kernel::descriptor_target(fd->get()).starts_with(kind))
    return failure(std::errc::bad_file_descriptor, "take",
                   "descriptor " + std::to_string(number) + " of " + subject() + ": it was replaced meanwhile");
  return fd;
}

Result<std::vector<PlacedFd>> Placement::make_userfaultfds(int count) {
  std::vector<PlacedFd> placed;
  std::optional<int> device;
  for (int i = 0; i < count; ++i) {
    constexpr std::uint64_t kFlags = O_CLOEXEC | O_NONBLOCK;
    Result<int> number = failure(std::errc::operation_not_permitted, "make userfaultfd in", subject());
    if (!device) number = make("userfaultfd", SYS_userfaultfd, {kFlags});
    if (!number && number.error().code == std::errc::operation_not_permitted && device_.valid()) {
      if (!device) {
        const auto handed = hand_over_device();
        if (!handed) return tl::unexpected(handed.error());
        device = *handed;
      }
      number = make("userfaultfd", SYS_ioctl, {static_cast<std::uint64_t>(*device), USERFAULTFD_IOC_NEW, kFlags});
    }
    if (!number) {
      number.error().remedy = why_userfaultfd_failed(number.error().code.value());
      return tl::unexpected(number.error());
    }
    auto fd = fetch(*number, kernel::kUserfaultfdTarget);
    if (!fd) return tl::unexpected(fd.error());
    placed.push_back(PlacedFd{.number = *number, .fd = std::move(*fd)});
  }
  if (device) close_in_target(*device);
  return placed;
}

Result<int> Placement::hand_over_device() {
  const auto scratch = injector_.scratch();
  if (!scratch) return tl::unexpected(scratch.error());
  const auto paired =
      injector_.call(SYS_socketpair, {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, *scratch + offsetof(DeviceMail, sockets)});
  if (!paired) return tl::unexpected(paired.error());
  if (*paired < 0) return failure_from(static_cast<int>(-*paired), "make sockets in", subject());
  DeviceMail mail;
  if (auto done = injector_.read(*scratch, bytes_of(mail.sockets)); !done) return tl::unexpected(done.error());
  const auto [near, far] = mail.sockets;
  if (near < 0 || far < 0 || near == far) return failure(std::errc::bad_message, "make sockets in", subject());
  open_in_target_.insert(open_in_target_.end(), {near, far});
  auto socket = fetch(near, kSocket);
  if (!socket) return tl::unexpected(socket.error());
  const std::array letter{std::byte{'d'}};
  const std::array passed{device_.get()};
  if (auto sent = kernel::send_message(socket->get(), letter, passed, MSG_DONTWAIT); !sent)
    return tl::unexpected(sent.error());

  // Addresses in the target.
  const auto at = [&](std::size_t offset) {
    return reinterpret_cast<void*>(*scratch + offset);  // NOLINT(performance-no-int-to-ptr)
  };
  mail.vector = {.iov_base = at(offsetof(DeviceMail, data)), .iov_len = mail.data.size()};
  mail.message.msg_iov = static_cast<iovec*>(at(offsetof(DeviceMail, vector)));
  mail.message.msg_iovlen = 1;
  mail.message.msg_control = at(offsetof(DeviceMail, control));
  mail.message.msg_controllen = mail.control.size();
  if (auto done = injector_.write(*scratch, bytes_of(mail)); !done) return tl::unexpected(done.error());
  const auto received = injector_.call(
      SYS_recvmsg,
      {static_cast<std::uint64_t>(far), *scratch + offsetof(DeviceMail, message), MSG_CMSG_CLOEXEC | MSG_DONTWAIT});
  if (!received) return tl::unexpected(received.error());
  if (auto done = injector_.read(*scratch, bytes_of(mail)); !done) return tl::unexpected(done.error());
  close_in_target(near);
  close_in_target(far);
  cmsghdr header{};
  std::memcpy(&header, mail.control.data(), sizeof header);
  if (*received < 0 || mail.message.msg_controllen < CMSG_LEN(sizeof(int)) || header.cmsg_type != SCM_RIGHTS ||
      header.cmsg_len != CMSG_LEN(sizeof(int))) {
    return failure(std::errc::permission_denied, "hand /dev/userfaultfd to", subject(), security_remedy(pid_));
  }
  int device = -1;
  std::memcpy(&device, mail.control.data() + CMSG_LEN(0), sizeof device);
  // It came through memory that the process can write. A wrong number is refused here; one that is another file of the
  // process fails at the ioctl.
  if (device < 0 || !kernel::same_open_file(device_.get(), pid_, device))
    return failure(std::errc::bad_message, "hand /dev/userfaultfd to", subject());
  open_in_target_.push_back(device);
  return device;
}

Result<UniqueFd> Placement::make_ring(std::uint32_t entries) {
  const auto scratch = injector_.scratch();
  if (!scratch) return tl::unexpected(scratch.error());
  io_uring_params parameters = kernel::drop_ring_parameters(kRingIdleMs);
  if (auto done = injector_.write(*scratch, bytes_of(parameters)); !done) return tl::unexpected(done.error());
  const auto number = make("io_uring", SYS_io_uring_setup, {entries, *scratch});
  if (!number) {
    Error error = number.error();
    error.remedy = why_ring_failed(error.code.value());
    return tl::unexpected(std::move(error));
  }
  auto ring = fetch(*number, kIoUring);
  close_in_target(*number);
  return ring;
}

}  // namespace tidepool::daemon
