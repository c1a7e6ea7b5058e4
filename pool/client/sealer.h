// Pages sealed for a store that nobody needs to trust: AES-256-GCM through OpenSSL.
//
// nonce = incarnation (32 bits) | version (64 bits), each pair used for one page only: versions come from a counter
// that never goes back within an incarnation, and a VM's key sees every incarnation once (VmSecret, vm_secret.h).
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
  // `plain` into `sealed`, of the same length, at most 4 KiB; they may be the same memory.
  virtual void seal(const SealPlace& place, std::span<const std::byte> plain, std::byte* sealed,
                    protocol::Tag& tag) = 0;
  // False when it is not what was sealed for this place: `plain` then holds nothing that may be used.
  virtual bool open(const SealPlace& place, std::span<const std::byte> sealed, const protocol::Tag& tag,
                    std::byte* plain) = 0;
};

Result<std::unique_ptr<Sealer>> make_sealer(const SealKey& key);

}  // namespace tidepool::pool
