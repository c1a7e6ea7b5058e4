// The lock file of an SQLite database: whoever has it leads.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::pool::controller {

std::string leader_lock_file(const std::string& database);
// Held until the descriptor is closed. device_or_resource_busy: somebody else has it.
Result<UniqueFd> take_leader_lock(const std::string& database, const std::string& name);
// Who wrote its name there last.
std::string leader_lock_owner(const std::string& database);

}  // namespace tidepool::pool::controller
