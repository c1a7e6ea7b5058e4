// Sets the process's log up: one line per message on standard error, whatever the message holds, key=value, with the
// journal's priorities where the journal reads it. Users include <spdlog/spdlog.h> in their .cpp and call
// spdlog::info("event=... vm={} ...").
#pragma once

#include <string>
#include <string_view>

#include "daemon/control/config.h"

namespace tidepool::daemon {

// Call once, before threads start. `program` names the lines of programs that share a terminal.
void start_log(std::string_view program, LogLevel level);
// A value that may hold blanks and quotes: "text", with \" and \\ inside.
std::string in_quotes(std::string_view text);
// Thread-safe; for a reload.
void set_log_level(LogLevel level);

}  // namespace tidepool::daemon
