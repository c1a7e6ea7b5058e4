// Numbers and bytes as text.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "pool/controller/core/requests.h"

namespace tidepool::pool::controller {

inline constexpr Bytes kNoLimit{std::numeric_limits<std::uint64_t>::max()};

std::string hex_text(std::span<const std::uint8_t> bytes);
// False, and nothing is written: not exactly 2 digits for each byte.
bool hex_from(std::string_view text, std::span<std::uint8_t> into);

// 16 digits.
std::string slice_text(SliceId slice);
std::optional<SliceId> slice_from(std::string_view text);

std::optional<std::uint64_t> number_from(std::string_view text);

}  // namespace tidepool::pool::controller
