// Letters of five by seven pixels, for pictures without a font library: ASCII only.
#pragma once

#include <array>
#include <cstdint>

namespace tidepool::cli {

inline constexpr int kLetterHeight = 8;
inline constexpr int kLetterAdvance = 6;
using Letter = std::array<std::uint8_t, 5>;  // columns; bit 0 is the topmost pixel

// '?' for what has none.
const Letter& letter_of(char c);

}  // namespace tidepool::cli
