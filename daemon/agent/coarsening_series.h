// A series of means over time in fixed memory: kept at several resolutions at once, so that the recent past is there in
// detail and a week in outline. Not thread-safe; time is the caller's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "base/clock.h"

namespace tidepool::daemon {

struct Resolution {
  Nanoseconds period;
  std::size_t columns;
};

// `Sum` adds up (+=), and gives the mean of so many as a `Column`: column(unsigned).
template <class Sum, class Column>
class CoarseningSeries {
 public:
  struct Stamped {
    MonoTime start;
    Column column;
  };

  // Finest first; each covers more time than the one before.
  explicit CoarseningSeries(std::span<const Resolution> resolutions) {
    for (const Resolution& each : resolutions) levels_.push_back({each, {}, {}, {}, 0});
  }

  void add(const Sum& sum, MonoTime now) {
    for (Level& level : levels_) {
      const MonoTime start{now.since_boot / level.resolution.period * level.resolution.period};
      // Time that goes backwards adds to what is there.
      if (level.count != 0 && start > level.start) close(level);
      if (level.count == 0) level.start = std::max(start, level.done.empty() ? start : level.done.back().start);
      level.sum += sum;
      ++level.count;
    }
  }

  // The finest resolution that covers `last`, or the coarsest.
  Nanoseconds period_for(Nanoseconds last) const { return level_for(last).resolution.period; }
  // What there is of it, oldest first; the last column is still being added to. Time without additions has no columns.
  std::vector<Stamped> last(Nanoseconds last, MonoTime now) const {
    const Level& level = level_for(last);
    std::vector<Stamped> columns;
    const auto add = [&](const Stamped& each) {
      if (now - each.start <= last + level.resolution.period) columns.push_back(each);
    };
    for (const Stamped& each : level.done) add(each);
    if (level.count != 0) add({level.start, level.sum.column(level.count)});
    return columns;
  }

  template <class Change>
  void change_all(Change&& change) {
    for (Level& level : levels_) {
      for (Stamped& each : level.done) change(each.column);
      level.sum = {};
      level.count = 0;
    }
  }

  std::size_t footprint() const {
    std::size_t bytes = 0;
    for (const Level& level : levels_) bytes += sizeof(Level) + level.done.size() * sizeof(Stamped);
    return bytes;
  }

 private:
  struct Level {
    Resolution resolution;
    std::deque<Stamped> done;
    Sum sum;
    MonoTime start;
    unsigned count;
  };

  static void close(Level& level) {
    level.done.push_back({level.start, level.sum.column(level.count)});
    if (level.done.size() >= level.resolution.columns) level.done.pop_front();
    level.sum = {};
    level.count = 0;
  }
  const Level& level_for(Nanoseconds last) const {
    for (const Level& level : levels_) {
      if (level.resolution.period * static_cast<std::int64_t>(level.resolution.columns) >= last) return level;
    }
    return levels_.back();
  }

  std::vector<Level> levels_;
};

}  // namespace tidepool::daemon
