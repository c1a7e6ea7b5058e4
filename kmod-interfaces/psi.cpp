#include "kmod-interfaces/psi.h"

#include <charconv>
#include <cmath>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

// A percentage, as a share.
std::optional<double> parse_share(std::string_view text) {
  double percent = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), percent, std::chars_format::fixed);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(percent)) return std::nullopt;
  if (percent < 0 || percent > 100) return std::nullopt;
  return percent / 100;
}

// "avg10=0.00 avg60=0.00 avg300=0.00 total=0"
std::optional<PressureLine> parse_line(std::string_view rest) {
  PressureLine line;
  int seen = 0;
  for (std::string_view word = next_word(rest); !word.empty(); word = next_word(rest)) {
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    const std::string_view key = word.substr(0, equals);
    const std::string_view value = word.substr(equals + 1);
    if (key == "total") {
      const auto total = parse_decimal(value);
      if (!total || *total > INT64_MAX) return std::nullopt;
      line.total = std::chrono::microseconds(static_cast<std::int64_t>(*total));
      ++seen;
      continue;
    }
    double* target = key == "avg10"    ? &line.average_10s
                     : key == "avg60"  ? &line.average_60s
                     : key == "avg300" ? &line.average_300s
                                       : nullptr;
    const auto share = parse_share(value);
    if (target == nullptr || !share) return std::nullopt;
    *target = *share;
    ++seen;
  }
  if (seen != 4) return std::nullopt;
  return line;
}

Result<Pressure> read_pressure(const std::string& path) {
  const auto text = read_file(path);
  if (!text) return tl::unexpected(text.error());
  const auto pressure = parse_pressure(*text);
  if (!pressure) return failure(std::errc::bad_message, "parse", path);
  return *pressure;
}

}  // namespace

std::optional<Pressure> parse_pressure(std::string_view text) {
  Pressure pressure;
  bool found = false;
  for (std::string_view line : split_lines(text)) {
    const std::string_view kind = next_word(line);
    const auto values = parse_line(line);
    if (!values) continue;
    if (kind == "some") pressure.some = *values, found = true;
    if (kind == "full") pressure.full = *values;
  }
  if (!found) return std::nullopt;
  return pressure;
}

Result<Pressure> read_host_memory_pressure(const KernelRoots& roots) {
  return read_pressure(roots.proc + "/pressure/memory");
}

Result<Pressure> read_cgroup_memory_pressure(const std::string& group) {
  return read_pressure(group + "/memory.pressure");
}

}  // namespace tidepool::kernel
