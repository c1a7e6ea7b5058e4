// Pages sealed for a store that nobody needs to trust: AES-256-GCM.
//
// nonce = 4 zero bytes | version (64 bits, little-endian). A version seals one page, once: it is never used for a
// second content, nor for a second place, because two tags under one nonce give the authentication key away. All
// replicas of a page are therefore the same sealed bytes, in a slice and slot of the same name. VmSecret (vm_secret.h)
// hands the versions out: an incarnation that the key sees once, above a counter.
//
// Slice, slot and version are authenticated with the page: what opens is what was sealed for that place and that time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "pool/protocol/messages.h"

namespace tidepool::pool {

inline constexpr unsigned kCounterBits = 40;  // of a version; above it: the incarnation

using SealKey = std::array<std::uint8_t, 32>;

struct SealPlace {
  protocol::SliceId slice{};
  std::uint32_t slot = 0;
  std::uint64_t version = 0;
};

// Not thread-safe: one per thread, made once; seal and open allocate nothing.
class Sealer {
 public:
  virtual ~Sealer() = default;
  // `plain` into `sealed`, of the same length, at most 4 KiB; they may be the same memory. False when the cipher failed
  // or the version is 0: nothing may be sent.
  virtual bool seal(const SealPlace& place, std::span<const std::byte> plain, std::byte* sealed,
                    protocol::Tag& tag) = 0;
  // False when it is not what was sealed for this place: `plain` is wiped then.
  virtual bool open(const SealPlace& place, std::span<const std::byte> sealed, const protocol::Tag& tag,
                    std::byte* plain) = 0;
};

Result<std::unique_ptr<Sealer>> make_sealer(const SealKey& key);

}  // namespace tidepool::pool
