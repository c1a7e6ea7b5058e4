#include "kmod-interfaces/fd_passing.h"

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace tidepool::kernel {
namespace {

constexpr std::size_t kControlSize = control_bytes(kMaxPassedDescriptors);

}  // namespace

void attach_descriptors(msghdr& message, std::span<std::byte> control, std::span<const int> descriptors) {
  message.msg_control = control.data();
  message.msg_controllen = control_bytes(descriptors.size());
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
}

void take_descriptors(msghdr& message, std::vector<UniqueFd>& out) {
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      out.emplace_back(fd);
    }
  }
}

Result<std::pair<UniqueFd, UniqueFd>> message_socket_pair() {
  std::array<int, 2> ends{-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) < 0)
    return errno_failure("make", "socket pair");
  return std::pair{UniqueFd{ends[0]}, UniqueFd{ends[1]}};
}

Result<> send_message(int socket, std::span<const std::byte> data, std::span<const int> descriptors, int flags) {
  if (descriptors.size() > kMaxPassedDescriptors) return failure(std::errc::message_size, "send", "descriptors");
  std::byte* from = const_cast<std::byte*>(data.data());  // iovec knows no const; the call only reads it
  iovec vector{.iov_base = from, .iov_len = data.size()};
  alignas(cmsghdr) std::array<std::byte, kControlSize> control{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) attach_descriptors(message, control, descriptors);
  ssize_t sent = -1;
  do {
    sent = ::sendmsg(socket, &message, flags | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return errno_failure("send", "message");
  if (static_cast<std::size_t>(sent) != data.size()) return failure(std::errc::message_size, "send", "message");
  return {};
}

Result<PassedMessage> receive_message(int socket, std::span<std::byte> buffer, int flags) {
  iovec vector{.iov_base = buffer.data(), .iov_len = buffer.size()};
  alignas(cmsghdr) std::array<std::byte, kControlSize> control{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t length = -1;
  do {
    length = ::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
  } while (length < 0 && errno == EINTR);
  if (length < 0) return errno_failure("receive", "message");
  PassedMessage received;
  received.length = static_cast<std::size_t>(length);
  received.truncated = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  take_descriptors(message, received.descriptors);
  return received;
}

}  // namespace tidepool::kernel
