#include "policy/utilisation.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace tidepool::policy {
namespace {

constexpr std::uint32_t kKnownRecords = 60;

// Reads a number up to `most` and the character after it; false when there is none.
bool read_number(std::string_view& text, unsigned most, unsigned& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || value > most) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

bool read_char(std::string_view& text, char wanted) {
  if (text.empty() || text.front() != wanted) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

Utilisation::Utilisation(unsigned windows) : days_(std::clamp(windows, 1u, kMaxDayWindows)) {}

unsigned Utilisation::window_at(std::chrono::seconds time_of_day, unsigned windows) {
  constexpr std::int64_t kDay = 86400;
  const std::int64_t second = ((time_of_day.count() % kDay) + kDay) % kDay;
  return static_cast<unsigned>(second * std::clamp(windows, 1u, kMaxDayWindows) / kDay);
}

std::uint32_t Utilisation::total(const Window& window) {
  std::uint32_t sum = 0;
  for (const std::uint16_t count : window) sum += count;
  return sum;
}

void Utilisation::record(unsigned window, Bytes need, Bytes promised) {
  if (window >= days_.size() || promised == Bytes{}) return;
  Window& bins = days_[window];
  const double share = std::min(1.0, static_cast<double>(need.value) / static_cast<double>(promised.value));
  const auto bin = static_cast<unsigned>(std::ceil(share * kBins));
  ++bins[bin == 0 ? 0 : bin - 1];
  if (total(bins) <= kMostRecords) return;
  for (std::uint16_t& count : bins) count = static_cast<std::uint16_t>(count / 2);
}

bool Utilisation::known() const {
  return std::all_of(days_.begin(), days_.end(), [](const Window& window) { return total(window) >= kKnownRecords; });
}

Bytes Utilisation::percentile(unsigned window, double quantile, Bytes promised) const {
  if (window >= days_.size()) return {};
  const Window& bins = days_[window];
  const std::uint32_t all = total(bins);
  if (all == 0) return {};
  const double wanted = std::clamp(quantile, 0.0, 1.0) * all;
  std::uint32_t seen = 0;
  unsigned bin = 0;
  while (bin < kBins - 1 && (seen += bins[bin]) < wanted) ++bin;
  return Bytes{promised.value / kBins * (bin + 1) + promised.value % kBins * (bin + 1) / kBins};
}

Bytes Utilisation::highest(unsigned window, Bytes promised) const {
  return percentile(window, 1.0, promised);
}

// "v1 WINDOWS BINS;BIN=COUNT,BIN=COUNT;...;" with one part for each window.
std::string Utilisation::text() const {
  std::string text = "v1 " + std::to_string(days_.size()) + " " + std::to_string(kBins) + ";";
  for (const Window& bins : days_) {
    bool first = true;
    for (unsigned bin = 0; bin < kBins; ++bin) {
      if (bins[bin] == 0) continue;
      text += (first ? "" : ",") + std::to_string(bin) + "=" + std::to_string(bins[bin]);
      first = false;
    }
    text += ";";
  }
  return text;
}

std::optional<Utilisation> Utilisation::parse(std::string_view text) {
  unsigned windows = 0;
  unsigned bins = 0;
  if (!text.starts_with("v1 ")) return std::nullopt;
  text.remove_prefix(3);
  if (!read_number(text, kMaxDayWindows, windows) || windows == 0 || !read_char(text, ' ')) return std::nullopt;
  if (!read_number(text, kBins, bins) || bins != kBins || !read_char(text, ';')) return std::nullopt;
  Utilisation result(windows);
  for (Window& window : result.days_) {
    for (bool first = true; !read_char(text, ';'); first = false) {
      unsigned bin = 0;
      unsigned count = 0;
      if (!first && !read_char(text, ',')) return std::nullopt;
      if (!read_number(text, kBins - 1, bin) || !read_char(text, '=') || !read_number(text, kMostRecords, count))
        return std::nullopt;
      window[bin] = static_cast<std::uint16_t>(count);
    }
  }
  return text.empty() ? std::optional(result) : std::nullopt;
}

}  // namespace tidepool::policy
