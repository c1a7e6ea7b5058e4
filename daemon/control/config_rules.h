// What two keys together must not say. Works on values, so it serves the file's loader and changes through the API
// alike.
#pragma once

#include <string>
#include <vector>

#include "daemon/control/config.h"

namespace tidepool::daemon {

struct Contradiction {
  std::string key;      // where to point
  std::string message;  // names both keys
};

std::vector<Contradiction> find_contradictions(const Config& config);

}  // namespace tidepool::daemon
