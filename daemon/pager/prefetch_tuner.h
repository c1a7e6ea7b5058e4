// Does fetching ahead pay, and how far? Learned from a control group: of the pages that advice names, a few are left
// far (or, where nothing is fetched ahead, just remembered). If one of them faults within the horizon, fetching it
// would have saved that fault; if not, it would have been work and memory wasted. The pages that are fetched are not
// touched for it, so the answer is the same for shared and private memory (docs/adr/0014-prefetch-by-control-group.md).
//
// Kept per distance from the fault, in octaves, so that the window is as long as its far end pays. Where nothing pays,
// nothing is fetched, but advice goes on to be checked, which costs nothing: that is how it comes on again.
//
// Pure, except for being called with the time. For the thread that answers the VM's faults; fixed memory (2 KiB).
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "base/clock.h"

namespace tidepool::daemon {

class PrefetchTuner {
 public:
  static constexpr unsigned kBands = 5;            // distances 1-16, 17-32, 33-64, 65-128, 129-256
  static constexpr unsigned kNearest = 16;         // pages in the first
  static constexpr std::size_t kMostWatched = 64;  // controls at once
  static constexpr Nanoseconds kHorizon = std::chrono::seconds(5);

  struct Control {
    std::uint64_t object = 0;  // MemoryObject::number
    std::uint64_t page = 0;
    MonoTime since{};
    std::uint8_t band = 0;
  };
  enum class Fate : std::uint8_t {
    kUsed,
    kUnused,
    kUnknown,  // came home otherwise, or is no page any more: says nothing
  };

  // Pages to fetch ahead of a stream at most; 0: fetching does not pay.
  unsigned window() const { return window_; }
  // As far as advice is worth having: the window, or what would be the first.
  unsigned advice() const { return window_ == 0 ? kNearest : window_; }

  // Distances of the pages of an advice for `pages` pages that are to be left far, for the caller to see whether they
  // are far at all and to pass to watch(). Also of pages behind the window, to learn whether it should be longer.
  struct Draw {
    std::array<unsigned, kBands> distance{};
    unsigned count = 0;
  };
  Draw draw(unsigned pages, MonoTime now);
  void watch(std::uint64_t object, std::uint64_t page, unsigned distance, MonoTime now);
  bool is_control(std::uint64_t object, std::uint64_t page) const;
  // A demand fault. True when it was of a control.
  bool used(std::uint64_t object, std::uint64_t page);
  // A control whose horizon has passed; the caller looks what became of it and tells.
  std::optional<Control> expired(MonoTime now);
  void settle(const Control& control, Fate fate);

  // What a fault on a far page costs its thread, and what a page that is fetched ahead costs the thread that does it.
  void fault_took(Nanoseconds wait) { average(fault_seconds_, seconds(wait)); }
  void copies_took(Nanoseconds work, unsigned pages) { average(copy_seconds_, seconds(work) / pages); }

  std::uint64_t settled_used() const { return used_; }
  std::uint64_t settled_unused() const { return unused_; }
  // The part of the pages at that distance that are used, as far as is known.
  double hit_ratio(unsigned band) const;
  // The least hit ratio at which fetching pays.
  double break_even() const;

 private:
  struct Band {
    float used = 0;
    float settled = 0;
    unsigned watched = 0;
    bool pays = true;  // until the contrary is known
  };
  static constexpr float kFew = 12;         // settled controls below which nothing is concluded
  static constexpr float kMostWeight = 64;  // then all halve: what is old must not outvote what is new
  static constexpr double kUnseen = 5e-6;   // of a fault, before its event is read and after its answer, in seconds
  static constexpr Nanoseconds kPause = std::chrono::milliseconds(50);  // between controls once enough is known

  static double seconds(Nanoseconds time) { return std::chrono::duration<double>(time).count(); }
  static void average(double& mean, double value);
  static unsigned band_of(unsigned distance);
  static unsigned first_of(unsigned band) { return band == 0 ? 1 : (kNearest << (band - 1)) + 1; }
  static unsigned last_of(unsigned band) { return kNearest << band; }
  void judge();
  std::uint64_t random();
  void drop(std::size_t index);

  std::array<Control, kMostWatched> watched_{};  // oldest first
  std::size_t count_ = 0;
  std::array<Band, kBands> bands_{};
  unsigned window_ = kNearest << 1;  // a start: as far as is known nothing, one band is tried
  MonoTime next_control_{};
  unsigned turn_ = 0;
  std::uint64_t seed_ = 0x9e3779b97f4a7c15ull;
  double fault_seconds_ = 20e-6;
  double copy_seconds_ = 2.5e-6;
  std::uint64_t used_ = 0;
  std::uint64_t unused_ = 0;
};

}  // namespace tidepool::daemon
