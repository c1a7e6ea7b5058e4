// The word that says what a stored page is: one 64-bit atomic, so that every change of it is one compare-and-swap. Part
// of the layout that outlives the process (docs/layout.md).
#pragma once

#include <cstdint>

#include "pool/store/page_store.h"

namespace tidepool::pool {

enum class SlotState : std::uint8_t {
  kFree = 0,
  kStaged = 1,  // lent to a writer; nothing in it counts
  kLive = 2,
  kDirty = 3,  // free, still holds a former page's bytes
  kBad = 4,    // its entry made no sense when the store was re-opened: never used again, reads answer kCorrupt
};
inline constexpr std::uint8_t kLastSlotState = 4;

struct SlotWord {
  std::uint32_t crc = 0;
  std::uint32_t references = 0;  // 20 bits
  std::uint8_t generation = 0;   // of the slot: a stale location is told from the slot's next tenant
  SlotState state = SlotState::kFree;

  static constexpr std::uint32_t kMaxReferences = (1u << 20) - 1;

  static constexpr SlotWord unpack(std::uint64_t raw) {
    return {static_cast<std::uint32_t>(raw), static_cast<std::uint32_t>(raw >> 32) & kMaxReferences,
            static_cast<std::uint8_t>(raw >> 52), static_cast<SlotState>(raw >> 60)};
  }
  constexpr std::uint64_t pack() const {
    return crc | static_cast<std::uint64_t>(references) << 32 | static_cast<std::uint64_t>(generation) << 52 |
           static_cast<std::uint64_t>(state) << 60;
  }
  // Every state says how many owners it can have.
  constexpr bool plausible() const {
    return static_cast<std::uint8_t>(state) <= kLastSlotState && (state == SlotState::kLive) == (references != 0);
  }
};

// A location is a slot's number (32 bits) and its generation (8 bits).
inline constexpr std::uint64_t kMaxSlots = (1ull << 32) - 1;
constexpr Location make_location(std::uint64_t slot, std::uint8_t generation) {
  return Location{static_cast<std::uint64_t>(generation) << 32 | slot};
}
constexpr std::uint64_t slot_of(Location location) {
  return static_cast<std::uint64_t>(location) & 0xffffffffull;
}
constexpr std::uint8_t generation_of(Location location) {
  return static_cast<std::uint8_t>(static_cast<std::uint64_t>(location) >> 32);
}
constexpr bool well_formed(Location location) {
  return static_cast<std::uint64_t>(location) >> kLocationBits == 0;
}

// Checksums start from the location, so that a page read through another slot's entry never passes.
constexpr std::uint32_t checksum_seed(Location location) {
  return (static_cast<std::uint32_t>(slot_of(location)) * 0x9e3779b1u) ^ generation_of(location);
}

}  // namespace tidepool::pool
