// What tidepool-keeper and its clients say to each other over a SOCK_SEQPACKET unix socket (docs/layout.md): one
// request, one reply, each one packet, in the byte order of the host that both run on. Parsers are total: any bytes
// give a message or an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::pool {

inline constexpr std::uint32_t kKeeperMagic = 0x504b4454;  // "TDKP"
inline constexpr std::uint16_t kKeeperVersion = 1;
inline constexpr std::size_t kMaxHeldName = 255;

enum class KeeperCommand : std::uint16_t {
  kHello = 1,   // reply: how many descriptors are held
  kStore = 2,   // with one descriptor; replaces what has the name
  kRemove = 3,  // ENOENT when there is none
  kFetch = 4,   // reply with a duplicate; ENOENT when there is none
  kNext = 5,    // reply: the first name after the given one (after none: the first of all), with a duplicate if
                // kWithDescriptor; ENOENT at the end
  kExit = 6,    // EBUSY while anything is held, unless kForce
};

inline constexpr std::uint16_t kWithDescriptor = 1;
inline constexpr std::uint16_t kForce = 2;

struct KeeperRequest {
  KeeperCommand command = KeeperCommand::kHello;
  std::uint16_t flags = 0;
  std::uint32_t id = 0;
  std::string name{};
};

struct KeeperReply {
  std::uint32_t id = 0;
  int error = 0;           // errno; 0 is success
  std::uint64_t held = 0;  // descriptors held after the request
  std::string name{};      // kNext: the name; otherwise, with an error: what to tell the user, if anything
};

// 16 bytes and the name; 24 bytes and the name.
inline constexpr std::size_t kKeeperRequestHeader = 16;
inline constexpr std::size_t kKeeperReplyHeader = 24;
inline constexpr std::size_t kMaxKeeperPacket = 512;

std::vector<std::byte> encode(const KeeperRequest& request);
std::vector<std::byte> encode(const KeeperReply& reply);
Result<KeeperRequest> parse_keeper_request(std::span<const std::byte> packet);
Result<KeeperReply> parse_keeper_reply(std::span<const std::byte> packet);

// 1 to 255 printable ASCII characters.
bool valid_held_name(std::string_view name);

struct KeeperPacket {
  std::vector<std::byte> bytes;  // empty: the peer has closed
  std::vector<UniqueFd> descriptors;
  bool cut = false;  // bytes or descriptors did not fit
};

// One packet; descriptors arrive close-on-exec. EAGAIN as an error when nothing comes in time.
Result<KeeperPacket> receive_keeper_packet(int socket, int flags);
// `descriptor` < 0: none goes along.
Result<> send_keeper_packet(int socket, std::span<const std::byte> packet, int descriptor, int flags);

}  // namespace tidepool::pool
