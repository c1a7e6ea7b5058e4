// What memory servers and their clients say to each other: docs/protocol.md, as types.
//
// Everything that arrives is hostile: parse functions are total, look at nothing outside the bytes they are given, and
// bound every count by kMaxPagesPerFrame. They copy fixed-size parts out and show payloads in place. Byte order is
// little-endian. No I/O and no state here; all functions are thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace tidepool::protocol {

inline constexpr std::uint32_t kMagic = 0x31504454;  // "TDP1"
inline constexpr std::uint16_t kVersion = 1;
inline constexpr std::size_t kHeaderBytes = 24;
inline constexpr std::size_t kTagBytes = 16;  // of a frame, and of a sealed page
inline constexpr std::uint32_t kMaxPagesPerFrame = 64;
inline constexpr std::uint32_t kMaxUncreditedRequests = 64;  // unanswered ones other than READ and WRITE
inline constexpr std::uint32_t kSlotBytes = 4096;            // the longest stored form of a page
// Both ends ask for it (SO_SNDBUF of a unix socket): the longest frame at once, and another one while it is read. Less
// does where the host allows less.
inline constexpr int kUnixSendRoom = 2 * kMaxPagesPerFrame * kSlotBytes;

enum class MessageType : std::uint16_t {
  kHello = 1,    // client, first
  kWelcome = 2,  // its answer
  kAttach = 3,   // client: a slice; the first one of a connection keys it
  kRead = 4,
  kWrite = 5,
  kDiscard = 6,
  kPing = 7,
  kRelease = 8,    // client: gives the slice back; its memory reads zero before anybody else has it
  kCredit = 9,     // server, unasked (id 0): how much may be under way from now on
  kDraining = 10,  // server, unasked: it wants to end; attach no more
};
// Bits of Header::flags; others are ignored.
inline constexpr std::uint16_t kAnswerFlag = 1;  // the answer to the request of this type and id
inline constexpr std::uint16_t kTagFlag = 2;     // a tag follows the body; see frame_guard.h

enum class ErrorCode : std::uint32_t {
  kOk = 0,
  kMalformed = 1,  // the frame makes no sense; the connection closes
  kNoVersion = 2,  // no common protocol version
  kDenied = 3,     // no valid token for that
  kNoSuchSlice = 4,
  kStaleEpoch = 5,  // somebody holds the slice with a higher epoch
  kWrongBoot = 6,   // the server is not the one that the client knew: it has none of its pages
  kExpired = 7,     // the lease is over: writes are refused, reads are not
  kOverloaded = 8,  // more under way than granted; nothing was done
  kFull = 9,        // no memory for a slice of that size
  kDrainingNow = 10,
  kOutOfRange = 11,    // no such slot
  kStaleVersion = 12,  // item: the slot has a version at least as high
  kEmpty = 13,         // item: nothing is stored in the slot
  kUnsupported = 14,   // a type or feature that this side does not know; the connection goes on
};
std::string describe(ErrorCode code);

struct Header {
  MessageType type{};
  std::uint16_t flags = 0;
  std::uint32_t body_bytes = 0;  // without the tag
  ErrorCode status = ErrorCode::kOk;
  std::uint64_t id = 0;
};

using Random = std::array<std::uint8_t, 32>;
using BootId = std::array<std::uint8_t, 16>;
using HolderId = std::array<std::uint8_t, 16>;  // whose a slice is: one VM's life on one host
using Tag = std::array<std::uint8_t, kTagBytes>;

enum class SliceId : std::uint64_t {};
enum class LeaseEpoch : std::uint64_t {};

// Bits of Hello::features and Welcome::features.
inline constexpr std::uint32_t kFeatureAuthenticatedFrames = 1;  // both: every frame after the keying one has a tag
// Unix sockets: the answer to ATTACH may come with a descriptor, to read the slice from; see slice_file.h.
inline constexpr std::uint32_t kFeatureSharedMemory = 2;

struct Hello {
  std::uint16_t lowest_version = kVersion;
  std::uint16_t highest_version = kVersion;
  std::uint32_t features = 0;
  Random random{};
};
struct Welcome {
  std::uint16_t version = kVersion;
  std::uint32_t features = 0;  // in force from now on: those of Hello that the server has too
  Random random{};
  BootId boot{};
  std::uint32_t max_pages_per_frame = kMaxPagesPerFrame;
  std::uint32_t credit_pages = 0;  // how many pages may be in unanswered READs and WRITEs of this connection
  std::string name;                // of the server, at most kMaxName bytes
};
inline constexpr std::size_t kMaxName = 64;

// Bits of Claims::rights.
inline constexpr std::uint32_t kRightRead = 1;
inline constexpr std::uint32_t kRightWrite = 2;
inline constexpr std::uint32_t kRightRelease = 4;
inline constexpr std::uint32_t kRightCreate = 8;  // the server makes the slice if it does not have it

// What a token grants. Its secret is lease_secret(server key, claims): see handshake.h.
struct Claims {
  SliceId slice{};
  HolderId holder{};
  LeaseEpoch epoch{};
  std::uint32_t slots = 0;
  std::uint32_t rights = 0;
  std::uint64_t lease_ms = 0;  // from receipt, by the server's monotonic clock; 0: until released
  bool operator==(const Claims&) const = default;
};
inline constexpr std::size_t kClaimsBytes = 56;
inline constexpr std::uint32_t kClaimsForm = 1;  // its first four bytes

using Proof = std::array<std::uint8_t, 32>;
struct Attach {
  Claims claims;
  Proof proof{};  // that the sender knows the token's secret; see handshake.h
};
struct Attached {
  SliceId slice{};
  LeaseEpoch epoch{};
  std::uint32_t slots = 0;
  bool created = false;  // empty: nothing was ever stored in it
  bool with_file = false;
};

// In front of every request for pages.
struct Scope {
  SliceId slice{};
  LeaseEpoch epoch{};
  BootId boot{};
  bool operator==(const Scope&) const = default;
};
struct ReadEntry {
  std::uint32_t slot = 0;
};
struct ReadAnswer {
  std::uint32_t slot = 0;
  ErrorCode status = ErrorCode::kOk;
  std::uint64_t version = 0;
  std::uint16_t length = 0;  // of its payload, at most kSlotBytes
  Tag tag{};
};
struct WriteEntry {
  std::uint32_t slot = 0;
  std::uint64_t version = 0;
  std::uint16_t length = 0;
  Tag tag{};
};
// Frees the slot's content. `version` as in a WRITE.
struct DiscardEntry {
  std::uint32_t slot = 0;
  std::uint64_t version = 0;
};
struct ItemStatus {
  std::uint32_t slot = 0;
  ErrorCode status = ErrorCode::kOk;
};
struct Credit {
  std::uint32_t credit_pages = 0;
};
}  // namespace tidepool::protocol
