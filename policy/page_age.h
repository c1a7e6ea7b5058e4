// How long a page stays at home before it may leave (again): what the pager learns of single pages, for nothing.
//
// A far page's every use is a fault. So the time from a page's leaving to its return is a sample of how often it is
// used; the estimate, in octaves, follows the samples half-way. A demotion of a region spares its pages for a hold that
// depends on the estimate E and on the VM's hold H, which the engine steers (policy/hold.h) so that what must leave
// can:
//   H (H / E)^3  where E is at most 1.4 H: the more often a page is used, the more rarely it is put to the test
//   nothing      where it is used more rarely than that
//   H / 4        where nothing is known
// So hot pages among cold ones stay, however they are scattered, and a scan does not push them out.
//
// 16 bits, for whoever keeps the pages to keep with each (daemon/pager/page_entry.h).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "base/clock.h"

namespace tidepool::policy {

class PageAge {
 public:
  static constexpr Nanoseconds kUnit = std::chrono::milliseconds(250);
  // Half of what the stamp can count: what is older looks young for a while, and is spared for that long at worst.
  static constexpr Nanoseconds kLongestHold = 2047 * kUnit;
  static constexpr unsigned kUnknown = 15;  // else the interval is 125 ms times two to this power

  constexpr PageAge() = default;  // nothing is known, not even since when: not spared
  explicit constexpr PageAge(std::uint16_t raw) : raw_(raw) {}
  static constexpr PageAge at(MonoTime now, unsigned interval = kUnknown) {
    return PageAge{static_cast<std::uint16_t>(stamp_of(now) + (std::min(interval, kUnknown) << kStampBits))};
  }

  constexpr std::uint16_t raw() const { return raw_; }
  constexpr unsigned interval() const { return known() ? raw_ >> kStampBits : kUnknown; }
  constexpr bool known() const { return (raw_ & kStampMask) != 0; }
  // Since it came home, or left.
  constexpr Nanoseconds since(MonoTime now) const {
    return static_cast<std::int64_t>((stamp_of(now) + kStamps - (raw_ & kStampMask)) % kStamps) * kUnit;
  }

  // How often it seems to be used; of a page that is away and has never returned, at most as often as this says.
  constexpr unsigned likely_interval(MonoTime now, bool away) const {
    if (!away || !known() || interval() != kUnknown) return interval();
    return static_cast<unsigned>(octaves(since(now)));
  }
  // Of a page at home.
  constexpr bool spared(MonoTime now, Nanoseconds hold) const { return known() && since(now) < own_hold(hold); }
  // Of a page that left at the time it names: it is wanted now.
  constexpr PageAge returned(MonoTime now) const {
    if (!known()) return at(now);
    const int sample = octaves(since(now));
    if (interval() == kUnknown) return at(now, static_cast<unsigned>(sample));
    const int off = sample - static_cast<int>(interval());
    return at(now, static_cast<unsigned>(static_cast<int>(interval()) + (off + (off > 0 ? 1 : -1)) / 2));
  }

  constexpr bool operator==(const PageAge&) const = default;

 private:
  static constexpr unsigned kStampBits = 12;
  static constexpr std::uint16_t kStampMask = (1 << kStampBits) - 1;
  static constexpr std::uint64_t kStamps = kStampMask;  // 0 is for "not known"
  static constexpr Nanoseconds kShortestInterval = std::chrono::milliseconds(125);

  static constexpr std::uint64_t stamp_of(MonoTime now) {
    return static_cast<std::uint64_t>(now.since_boot / kUnit) % kStamps + 1;
  }
  static constexpr int octaves(Nanoseconds gap) {
    // Rounded in the logarithm: up from 1.41 times a power of two.
    const auto units = static_cast<std::uint64_t>(gap * 181 / (128 * kShortestInterval));
    return units == 0 ? 0 : std::min(static_cast<int>(std::bit_width(units)) - 1, static_cast<int>(kUnknown) - 1);
  }
  constexpr Nanoseconds own_hold(Nanoseconds hold) const {
    if (interval() == kUnknown) return hold / 4;
    const double wanted = std::chrono::duration<double>(hold).count();
    const double used = std::chrono::duration<double>(kShortestInterval).count() * (1 << interval());
    const double times = wanted / used;
    if (times * 1.41 < 1) return Nanoseconds{0};
    const double seconds =
        std::min(wanted * times * times * times, std::chrono::duration<double>(kLongestHold).count());
    return std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(seconds));
  }

  std::uint16_t raw_ = 0;
};

// Which pages of a region are worth telling apart from the others. Where all are used alike, what one page did says
// nothing of it that the region does not say better, and chance alone spreads their estimates by 1.1 octaves.
class AgeSpread {
 public:
  void add(unsigned interval) {
    if (interval >= PageAge::kUnknown) return;
    ++count_;
    sum_ += interval;
    squares_ += interval * interval;
  }
  // Once all are added.
  bool stands_out(unsigned interval) const {
    if (count_ < kFew) return false;
    const double mean = static_cast<double>(sum_) / count_;
    const double variance = static_cast<double>(squares_) / count_ - mean * mean;
    return variance > kAlike * kAlike || interval + kFarOff <= mean;
  }

 private:
  static constexpr std::uint32_t kFew = 16;
  static constexpr double kAlike = 1.45;  // octaves
  static constexpr double kFarOff = 5;    // octaves; among pages that are alike, a rare chance

  std::uint32_t count_ = 0;
  std::uint32_t sum_ = 0;
  std::uint32_t squares_ = 0;
};

}  // namespace tidepool::policy
