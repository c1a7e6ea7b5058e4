// Messages with descriptors over unix sockets: SCM_RIGHTS, unix(7). Every descriptor that arrives is owned at once, so
// an unexpected one is closed rather than leaked.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::kernel {

// More in one message are cut off by the kernel (it would carry up to 253) and reported as truncated.
inline constexpr std::size_t kMaxPassedDescriptors = 8;

struct PassedMessage {
  std::size_t length = 0;  // bytes written to the buffer; 0: the peer closed (or an empty message)
  bool truncated = false;  // bytes or descriptors did not fit and are lost
  std::vector<UniqueFd> descriptors;
};

// For messages that are sent and received in another way than by the calls below: on a stream, by io_uring.
// `control` has control_bytes(descriptors.size()) bytes, is aligned as a cmsghdr, and stays until the message was sent.
constexpr std::size_t control_bytes(std::size_t descriptors) {
  return CMSG_SPACE(descriptors * sizeof(int));
}
void attach_descriptors(msghdr& message, std::span<std::byte> control, std::span<const int> descriptors);
// Those that came with a message.
void take_descriptors(msghdr& message, std::vector<UniqueFd>& out);

// A pair of connected sockets that keep messages apart (SOCK_SEQPACKET), close-on-exec.
Result<std::pair<UniqueFd, UniqueFd>> message_socket_pair();

// One sendmsg(2). Never raises SIGPIPE. `descriptors` are borrowed. EMSGSIZE, EPIPE, EAGAIN (with `flags`
// MSG_DONTWAIT).
Result<> send_message(int socket, std::span<const std::byte> data, std::span<const int> descriptors, int flags = 0);
// One recvmsg(2); EAGAIN with MSG_DONTWAIT when nothing is there.
Result<PassedMessage> receive_message(int socket, std::span<std::byte> buffer, int flags = 0);

}  // namespace tidepool::kernel
