// Sets the process's log up: one line per message on standard error, whatever the message holds, key=value, with the
// journal's priorities where the journal reads it. Users include <spdlog/spdlog.h> in their .cpp and call
// spdlog::info("event=... vm={} ...").
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace tidepool {

enum class LogLevel : std::uint8_t { kError, kWarn, kInfo, kDebug };
inline constexpr std::array<std::pair<LogLevel, std::string_view>, 4> kLogLevels{
    {{LogLevel::kError, "error"}, {LogLevel::kWarn, "warn"}, {LogLevel::kInfo, "info"}, {LogLevel::kDebug, "debug"}}};

// Call once, before threads start. `program` names the lines of programs that share a terminal.
void start_log(std::string_view program, LogLevel level);
// A value that may hold blanks and quotes: "text", with \" and \\ inside.
std::string in_quotes(std::string_view text);
// Thread-safe; for a reload.
void set_log_level(LogLevel level);

}  // namespace tidepool
