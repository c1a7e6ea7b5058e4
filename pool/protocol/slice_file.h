// A slice that a server hands over to a holder on its own host: the layout of the file, from docs/protocol.md.
//
// Pages first, a slot of kSlotBytes each, of as many slots as the next multiple of kSlotsPerChunk; behind them a mark
// for each slot. Whoever reads it finds what the server has stored, or, where the server is just writing, anything: a
// page is what was stored only if it opens with its tag.
#pragma once

#include <cstdint>

#include "pool/protocol/messages.h"

namespace tidepool::protocol {

// What is known about a slot. All zero: nothing was ever stored. Little-endian, like everything here.
struct SlotMark {
  std::uint64_t version = 0;
  Tag tag{};
  std::uint16_t length = 0;
  std::uint8_t stored = 0;  // 1: there is a page
  std::uint8_t unused[5] = {};
};
inline constexpr std::uint64_t kMarkBytes = 32;
inline constexpr std::uint32_t kSlotsPerChunk = 64;
static_assert(sizeof(SlotMark) == kMarkBytes);

constexpr std::uint64_t page_offset(std::uint32_t slot) {
  return std::uint64_t{slot} * kSlotBytes;
}
constexpr std::uint64_t mark_offset(std::uint32_t slots, std::uint32_t slot) {
  const std::uint64_t chunks = (std::uint64_t{slots} + kSlotsPerChunk - 1) / kSlotsPerChunk;
  return chunks * kSlotsPerChunk * kSlotBytes + std::uint64_t{slot} * kMarkBytes;
}

}  // namespace tidepool::protocol
