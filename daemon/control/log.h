// Sets the process's log up: one line per message on standard error, key=value, with the journal's priorities where the
// journal reads it. Users include <spdlog/spdlog.h> in their .cpp and call spdlog::info("event=... vm={} ...").
#pragma once

#include <string_view>

#include "daemon/control/config.h"

namespace tidepool::daemon {

// Call once, before threads start. `program` names the lines of programs that share a terminal.
void start_log(std::string_view program, LogLevel level);
// Thread-safe; for a reload.
void set_log_level(LogLevel level);

}  // namespace tidepool::daemon
