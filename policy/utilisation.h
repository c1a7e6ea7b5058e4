// What a VM needs at which time of the day: for each window of the day a histogram of its need, as a share of what it
// was promised. From it, after Coach (ASPLOS 2025): the guaranteed part PA, the largest of the windows' percentiles,
// and per window the oversubscribed part VA, by which its highest need exceeds PA.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"

namespace tidepool::policy {

inline constexpr unsigned kMaxDayWindows = 48;

class Utilisation {
 public:
  explicit Utilisation(unsigned windows = 6);

  unsigned windows() const { return static_cast<unsigned>(days_.size()); }
  static unsigned window_at(std::chrono::seconds time_of_day, unsigned windows);

  // Once a minute.
  void record(unsigned window, Bytes need, Bytes promised);
  // Every window has been seen for at least an hour: what it says can be relied on.
  bool known() const;
  // Rounded up to a 64th of what was promised. Zero for a window without records.
  Bytes percentile(unsigned window, double quantile, Bytes promised) const;
  Bytes highest(unsigned window, Bytes promised) const;

  // One line, for the agent to keep over restarts. Reading is strict: absent when the text is not such a line.
  std::string text() const;
  static std::optional<Utilisation> parse(std::string_view text);

  Bytes footprint() const { return Bytes{days_.capacity() * sizeof(Window)}; }
  bool operator==(const Utilisation&) const = default;

 private:
  static constexpr unsigned kBins = 64;
  static constexpr std::uint32_t kMostRecords = 14 * 240;  // fourteen days of a four-hour window; then all halve
  using Window = std::array<std::uint16_t, kBins>;

  static std::uint32_t total(const Window& window);

  std::vector<Window> days_;
};

}  // namespace tidepool::policy
