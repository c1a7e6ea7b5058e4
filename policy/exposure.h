// How often a page is used, from what was seen of it: uses are taken for a Poisson process, so what is known of it is a
// number of uses and the page-seconds in which they were counted (the conjugate Gamma distribution). Confidence grows
// with what was watched, and trackers of every kind add up.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace tidepool::policy {

inline constexpr float kPriorUses = 3;

struct Exposure {
  float uses = 0;
  float watch = 0;  // page-seconds

  // Uses per page and second. `prior` counts as much as `weight` page-seconds of watching, but not for more than a few
  // uses: hot neighbours must not outvote what was seen of the page itself.
  float rate(float prior, float weight) const {
    const float expected = std::min(prior * weight, kPriorUses);
    return (uses + expected) / (watch + (expected < kPriorUses ? weight : kPriorUses / prior));
  }
  void fade(float factor) {
    uses *= factor;
    watch *= factor;
  }
  Exposure& operator+=(Exposure other) {
    uses += other.uses;
    watch += other.watch;
    return *this;
  }
};

// `used` of `watched` pages were used within `seconds`. A page that was used stopped counting when it was, at a time
// nobody saw: the watch that gives the maximum likelihood, -ln(1 - used/watched) / seconds, is what is counted. All
// used: as if half a page more had been watched in vain.
inline Exposure exposure_of(float watched, float used, float seconds) {
  if (used <= 0) return {0, watched * seconds};
  const float share = std::min(used / watched, watched / (watched + 0.5f));
  return {used, used * seconds / -std::log1p(-share)};
}

// Expected and seen disagree beyond chance: the memory has changed its use, and what is old must not outvote what is
// new. +1: more used than expected, -1: less, 0: as expected.
inline int surprise(float expected, float seen) {
  if (seen > 4 * expected + 2) return 1;
  if (expected > 4 * seen + 4) return -1;
  return 0;
}

// 2^x for -120 < x < 120 to a thousandth, 0 below: fading is done for every region that is looked at.
inline float fast_exp2(float x) {
  if (x <= -120) return 0;
  const auto whole = static_cast<std::int32_t>(x + 256) - 256;  // rounded down
  const float rest = x - static_cast<float>(whole);
  const float fraction = 1 + rest * (0.69583f + rest * (0.22606f + rest * 0.078024f));
  return std::bit_cast<float>((whole + 127) << 23) * fraction;
}

// Rates in half octaves, coldest first: 1 is one use of a page in a month, 63 five hundred in a second. 0: none.
inline constexpr unsigned kTemperatures = 64;

// Cheap: from the exponent and the first bit that matters of the mantissa.
inline std::uint8_t temperature_of(float rate) {
  if (!(rate > 3.0e-7f)) return 1;
  if (rate > 700.0f) return kTemperatures - 1;
  const auto bits = std::bit_cast<std::uint32_t>(rate);
  const int exponent = static_cast<int>(bits >> 23) - 127;
  const int upper = (bits & 0x7fffff) >= 0x3504f3 ? 1 : 0;  // mantissa >= sqrt 2
  return static_cast<std::uint8_t>(std::clamp(2 * exponent + upper + 45, 1, 63));
}

// The geometric middle of a temperature.
inline float rate_of(unsigned temperature) {
  return std::exp2((static_cast<float>(temperature) - 44.5f) / 2);
}

}  // namespace tidepool::policy
