// What a VM uses, and what less would cost it.
#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>

#include "base/quantity_text.h"
#include "base/text.h"
#include "cli/document.h"
#include "cli/table.h"
#include "cli/views.h"

namespace tidepool::cli {
namespace {

namespace json = boost::json;

constexpr std::size_t kCurveLines = 9;
constexpr std::size_t kHistoryLines = 12;

const json::array& list_at(const json::value& document, std::string_view path) {
  static const json::array kNone;
  const json::value* at = find(document, path);
  return at && at->is_array() ? at->get_array() : kNone;
}

std::string number_text(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), value < 10 ? "%.2f" : "%.0f", value);
  return text.data();
}

std::string percent(double share) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), share != 0 && share < 0.01 ? "%.2f%%" : "%.1f%%", share * 100);
  return text.data();
}

// Evenly chosen, the first and the last among them.
template <class Each>
void some_of(const json::array& list, std::size_t most, Each&& each) {
  const std::size_t count = std::min(list.size(), most);
  for (std::size_t i = 0; i < count; ++i) each(list[count == 1 ? 0 : i * (list.size() - 1) / (count - 1)]);
}

}  // namespace

std::string working_set_view(const json::value& document, bool colour) {
  const json::array& offers = list_at(document, "offers");
  std::string out = printable(text_at(document, "vm")) + ": resident " + size_at(document, "resident_bytes") +
                    ", far " + size_at(document, "far_bytes") + "; used within a minute " +
                    size_at(document, "used_in_1m_bytes") + ", within ten " + size_at(document, "used_in_10m_bytes") +
                    "\n";
  if (offers.empty()) return out + "nothing more is known of its memory yet: ask again in half a minute\n";
  const double budget = ratio_at(document, "stall_budget");
  out += "\n";
  Table could({"SLOWDOWN", "COULD GIVE UP", "KEEPS", "FAULTS/S", ""});
  for (const json::value& each : offers) {
    const double slowdown = ratio_at(each, "slowdown");
    could.add({percent(slowdown), size_at(each, "gives_bytes"), size_at(each, "local_bytes"),
               number_text(ratio_at(each, "faults_per_second")),
               slowdown > budget ? Cell("beyond its stall budget", Paint::kWarn) : Cell("")});
  }
  std::array<char, 200> basis{};
  std::snprintf(basis.data(), basis.size(), "A fault costs %.0f us (%s); %llu threads can wait at once.\n\n",
                static_cast<double>(number_at(document, "fault_cost_ns")) / 1000,
                flag_at(document, "fault_cost_measured") ? "measured" : "assumed, as nothing was far yet",
                static_cast<unsigned long long>(number_at(document, "threads")));
  out += could.text(colour) + basis.data();

  Table curve({"LOCAL", "MISSES AT BEST", "MISSES OF LRU", "FAULTS/S AT BEST", ""});
  some_of(list_at(document, "curve"), kCurveLines, [&](const json::value& point) {
    const double ratio = std::clamp(ratio_at(point, "miss_ratio_best"), 0.0, 1.0);
    curve.add({size_at(point, "local_bytes"), percent(ratio), percent(ratio_at(point, "miss_ratio_lru")),
               number_text(ratio_at(point, "faults_per_second_best")),
               std::string(static_cast<std::size_t>(std::lround(ratio * 30)), '#')});
  });
  out += curve.text(colour);

  const json::array& samples = list_at(document, "samples");
  if (samples.empty()) return out;
  Table history({"AT", "USED IN 1M", "IN 10M", "RESIDENT", "FAR"});
  some_of(samples, kHistoryLines, [&](const json::value& sample) {
    const std::string at = text_at(sample, "at");
    history.add({at.size() >= 19 ? at.substr(0, 10) + " " + at.substr(11, 8) + "Z" : at,
                 size_at(sample, "used_in_1m_bytes"), size_at(sample, "used_in_10m_bytes"),
                 size_at(sample, "resident_bytes"), size_at(sample, "far_bytes")});
  });
  return out + "\n" + history.text(colour);
}

}  // namespace tidepool::cli
