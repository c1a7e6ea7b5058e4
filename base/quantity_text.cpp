#include "base/quantity_text.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <ctime>

namespace tidepool {
namespace {

struct Number {
  double value = 0;
  std::uint64_t whole = 0;
  bool is_whole = false;
  std::string_view unit;
};

// A leading decimal number and what follows it. Whole numbers stay exact beyond 2^53.
std::optional<Number> leading_number(std::string_view text) {
  Number number;
  std::size_t digits = 0;
  while (digits < text.size() && ((text[digits] >= '0' && text[digits] <= '9') || text[digits] == '.')) ++digits;
  if (digits == 0 || text.front() == '.') return std::nullopt;
  const std::string_view figure = text.substr(0, digits);
  const char* const end = figure.data() + figure.size();
  number.is_whole = figure.find('.') == std::string_view::npos;
  if (number.is_whole) {
    const auto [at, error] = std::from_chars(figure.data(), end, number.whole);
    if (error != std::errc{} || at != end) return std::nullopt;
    number.value = static_cast<double>(number.whole);
  } else {
    const auto [at, error] = std::from_chars(figure.data(), end, number.value, std::chars_format::fixed);
    if (error != std::errc{} || at != end) return std::nullopt;
  }
  number.unit = text.substr(digits);
  return number;
}

// "25", "0.5": at most two digits behind the point and none that says nothing.
std::string trimmed(double value) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.4f", value);
  std::string result = text.data();
  while (result.back() == '0') result.pop_back();
  if (result.back() == '.') result.pop_back();
  return result;
}

}  // namespace

std::optional<Bytes> parse_bytes(std::string_view text) {
  const std::optional<Number> number = leading_number(text);
  if (!number) return std::nullopt;
  std::string_view unit = number->unit;
  if (unit == "B") unit = "";
  unsigned shift = 0;
  if (!unit.empty()) {
    const std::size_t power = std::string_view("KMGTP").find(unit.front());
    const std::string_view rest = unit.substr(1);
    if (power == std::string_view::npos || !(rest.empty() || rest == "iB")) return std::nullopt;
    shift = static_cast<unsigned>(power + 1) * 10;
  } else if (!number->is_whole) {
    return std::nullopt;  // half a byte
  }
  constexpr double kMost = 9.2e18;
  if (std::ldexp(number->value, static_cast<int>(shift)) > kMost) return std::nullopt;
  if (number->is_whole) return Bytes{number->whole << shift};
  return Bytes{static_cast<std::uint64_t>(std::ldexp(number->value, static_cast<int>(shift)))};
}

std::optional<double> parse_share(std::string_view text) {
  const std::optional<Number> number = leading_number(text);
  if (!number) return std::nullopt;
  double share = number->value;
  if (number->unit == "%") {
    share /= 100;
  } else if (!number->unit.empty()) {
    return std::nullopt;
  }
  if (!(share >= 0 && share <= 1)) return std::nullopt;
  return share;
}

std::optional<std::chrono::milliseconds> parse_duration(std::string_view text) {
  const std::optional<Number> number = leading_number(text);
  if (!number) return std::nullopt;
  double unit_ms = 0;
  if (number->unit == "ms") unit_ms = 1;
  if (number->unit == "s") unit_ms = 1e3;
  if (number->unit == "m") unit_ms = 60e3;
  if (number->unit == "h") unit_ms = 3600e3;
  if (number->unit == "d") unit_ms = 24 * 3600e3;
  const double total = number->value * unit_ms;
  constexpr double kHundredYears = 100.0 * 365 * 24 * 3600e3;
  if (unit_ms == 0 || total > kHundredYears) return std::nullopt;
  return std::chrono::milliseconds{std::llround(total)};
}

std::string exact_text(Bytes bytes) {
  static constexpr std::array<const char*, 6> kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::uint64_t value = bytes.value;
  std::size_t unit = 0;
  while (value != 0 && value % 1024 == 0 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return std::to_string(value) + kUnits[unit];
}

std::string exact_text(std::chrono::milliseconds duration) {
  struct Unit {
    std::int64_t ms;
    const char* name;
  };
  static constexpr std::array<Unit, 4> kUnits{{{86'400'000, "d"}, {3'600'000, "h"}, {60'000, "m"}, {1'000, "s"}}};
  const std::int64_t ms = duration.count();
  for (const Unit& unit : kUnits) {
    if (ms != 0 && ms % unit.ms == 0) return std::to_string(ms / unit.ms) + unit.name;
  }
  return ms == 0 ? "0s" : std::to_string(ms) + "ms";
}

std::string share_text(double share) {
  return trimmed(share * 100) + "%";
}

std::string short_share_text(double share) {
  std::array<char, 40> text{};
  std::snprintf(text.data(), text.size(), "%.1f%%", share * 100);
  return text.data();
}

std::string short_text(Bytes bytes) {
  static constexpr std::array<char, 6> kUnits{'K', 'M', 'G', 'T', 'P', 'E'};
  if (bytes.value < 1024) return bytes.value == 0 ? "0" : std::to_string(bytes.value) + "B";
  double value = static_cast<double>(bytes.value);
  std::size_t unit = 0;
  for (value /= 1024; value >= 999.5 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), value < 99.95 ? "%.1f%c" : "%.0f%c", value, kUnits[unit]);
  return text.data();
}

std::string rfc3339(std::chrono::system_clock::time_point time) {
  const auto since = std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch());
  const std::time_t seconds = static_cast<std::time_t>(std::chrono::floor<std::chrono::seconds>(since).count());
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  std::array<char, 32> day{};
  std::strftime(day.data(), day.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  std::array<char, 48> text{};
  const int ms = static_cast<int>(since.count() - static_cast<std::int64_t>(seconds) * 1000);
  std::snprintf(text.data(), text.size(), "%s.%03dZ", day.data(), ms);
  return text.data();
}

}  // namespace tidepool
