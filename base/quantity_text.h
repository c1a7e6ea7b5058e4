// Quantities as people write and read them: "4GiB", "25%", "2m". Used by configuration, command line and tables alike.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "base/units.h"

namespace tidepool {

// "4096", "64KiB", "1.5GiB"; K, M, G, T, KiB.. mean powers of 1024. Absent when malformed, negative or beyond 2^63.
std::optional<Bytes> parse_bytes(std::string_view text);
// "25%" or "0.25": 0..1. Absent when malformed or outside.
std::optional<double> parse_share(std::string_view text);
// "500ms", "2s", "2m", "1h", "7d". Absent when malformed, without a unit, negative or beyond 100 years.
std::optional<std::chrono::milliseconds> parse_duration(std::string_view text);

// Exact and shortest: "4GiB", "1536MiB", "4097B". What parse_bytes reads back to the same value.
std::string exact_text(Bytes bytes);
std::string exact_text(std::chrono::milliseconds duration);
// "25%", "0.5%".
std::string share_text(double share);
// For people: one digit behind the point, "21.9%".
std::string short_share_text(double share);
// For a table: at most five characters, "8.0G", "412M", "0".
std::string short_text(Bytes bytes);

// 2026-01-31T12:00:00.250Z
std::string rfc3339(std::chrono::system_clock::time_point time);

}  // namespace tidepool
