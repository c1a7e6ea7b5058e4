#include "pool/keeper/keeper_protocol.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace tidepool::pool {
namespace {

// More than one is refused, but all that arrive must be seen, so that they are closed and not leaked.
constexpr std::size_t kMaxDescriptors = 4;

struct RawRequest {
  std::uint32_t magic;
  std::uint16_t version;
  std::uint16_t command;
  std::uint32_t id;
  std::uint16_t flags;
  std::uint16_t name_bytes;
};
static_assert(sizeof(RawRequest) == kKeeperRequestHeader);

struct RawReply {
  std::uint32_t magic;
  std::uint16_t version;
  std::uint16_t name_bytes;
  std::uint32_t id;
  std::int32_t error;
  std::uint64_t held;
};
static_assert(sizeof(RawReply) == kKeeperReplyHeader);

template <class Raw>
std::vector<std::byte> pack(const Raw& raw, std::string_view name) {
  std::vector<std::byte> packet(sizeof(Raw) + name.size());
  std::memcpy(packet.data(), &raw, sizeof(Raw));
  if (!name.empty()) std::memcpy(packet.data() + sizeof(Raw), name.data(), name.size());
  return packet;
}

// The fixed part, once it is known that the packet is one of ours and as long as it says.
template <class Raw>
Result<Raw> unpack(std::span<const std::byte> packet, std::string& name) {
  Raw raw{};
  if (packet.size() < sizeof(Raw)) return failure(std::errc::bad_message, "parse", "keeper packet", "it is too short");
  std::memcpy(&raw, packet.data(), sizeof(Raw));
  if (raw.magic != kKeeperMagic) return failure(std::errc::bad_message, "parse", "keeper packet", "it is none");
  if (raw.version != kKeeperVersion)
    return failure(std::errc::protocol_not_supported, "parse", "keeper packet",
                   "it is of version " + std::to_string(raw.version));
  if (raw.name_bytes != packet.size() - sizeof(Raw) || raw.name_bytes > kMaxHeldName)
    return failure(std::errc::bad_message, "parse", "keeper packet", "its name has the wrong length");
  name.assign(reinterpret_cast<const char*>(packet.data()) + sizeof(Raw), raw.name_bytes);
  return raw;
}

void take_descriptors(msghdr& message, std::vector<UniqueFd>& out) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      out.emplace_back(fd);
    }
  }
}

}  // namespace

bool valid_held_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxHeldName &&
         std::ranges::all_of(name, [](char c) { return c >= ' ' && c < 127; });
}

std::vector<std::byte> encode(const KeeperRequest& request) {
  const std::string_view name = std::string_view(request.name).substr(0, kMaxHeldName);
  return pack(RawRequest{kKeeperMagic, kKeeperVersion, static_cast<std::uint16_t>(request.command), request.id,
                         request.flags, static_cast<std::uint16_t>(name.size())},
              name);
}

std::vector<std::byte> encode(const KeeperReply& reply) {
  const std::string_view name = std::string_view(reply.name).substr(0, kMaxHeldName);
  return pack(RawReply{kKeeperMagic, kKeeperVersion, static_cast<std::uint16_t>(name.size()), reply.id, reply.error,
                       reply.held},
              name);
}

Result<KeeperRequest> parse_keeper_request(std::span<const std::byte> packet) {
  KeeperRequest request;
  const auto raw = unpack<RawRequest>(packet, request.name);
  if (!raw) return Failure{raw.error()};
  if (raw->command < static_cast<std::uint16_t>(KeeperCommand::kHello) ||
      raw->command > static_cast<std::uint16_t>(KeeperCommand::kExit))
    return failure(std::errc::operation_not_supported, "parse", "keeper packet", "there is no such command");
  request.command = static_cast<KeeperCommand>(raw->command);
  request.flags = raw->flags;
  request.id = raw->id;
  return request;
}

Result<KeeperReply> parse_keeper_reply(std::span<const std::byte> packet) {
  KeeperReply reply;
  const auto raw = unpack<RawReply>(packet, reply.name);
  if (!raw) return Failure{raw.error()};
  reply.id = raw->id;
  reply.error = raw->error;
  reply.held = raw->held;
  return reply;
}

Result<KeeperPacket> receive_keeper_packet(int socket, int flags) {
  KeeperPacket packet;
  packet.bytes.resize(kMaxKeeperPacket);
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxDescriptors)> control{};
  iovec part{packet.bytes.data(), packet.bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got = -1;
  do {
    got = ::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return errno_failure("receive from", "keeper socket");
  take_descriptors(message, packet.descriptors);
  packet.bytes.resize(static_cast<std::size_t>(got));
  packet.cut = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  return packet;
}

Result<> send_keeper_packet(int socket, std::span<const std::byte> packet, int descriptor, int flags) {
  iovec part{const_cast<std::byte*>(packet.data()), packet.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &descriptor, sizeof(int));
  }
  ssize_t sent = -1;
  do {
    sent = ::sendmsg(socket, &message, flags | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno == EINVAL && descriptor >= 0)
    return errno_failure("send", "descriptor", "the kernel sends no io_uring descriptors over sockets since Linux 6.7");
  if (sent < 0) return errno_failure("send to", "keeper socket");
  return {};
}

}  // namespace tidepool::pool
