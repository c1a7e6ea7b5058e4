// How a page was made ready for a store that nobody needs to trust: kept with the owner's own entry of it, so that what
// comes back is judged by what was sent. Where other stores have a checksum (SlotWord::crc); part of the layout that
// outlives the process.
#pragma once

#include <cstdint>

#include "base/units.h"

namespace tidepool::pool {

struct StoredForm {
  std::uint16_t length = kPageSize;  // as sealed
  std::uint8_t codec = 0;            // a CodecKind; 0: as it is

  static constexpr std::uint32_t kLengthBits = 13;
  static constexpr std::uint8_t kLastCodec = 2;

  static constexpr StoredForm unpack(std::uint32_t raw) {
    return {static_cast<std::uint16_t>(raw & ((1u << kLengthBits) - 1)), static_cast<std::uint8_t>(raw >> kLengthBits)};
  }
  constexpr std::uint32_t pack() const { return length | static_cast<std::uint32_t>(codec) << kLengthBits; }
  constexpr bool plausible(std::uint32_t raw) const {
    return pack() == raw && codec <= kLastCodec && length != 0 &&
           (codec == 0 ? length == kPageSize : length < kPageSize);
  }
};

}  // namespace tidepool::pool
