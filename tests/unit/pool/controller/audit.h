// Whether a core contradicts itself.
#pragma once

#include <string>

namespace tidepool::pool::controller {

struct State;

// What of its indexes and sums is not what its records say; empty: nothing.
std::string audit(const State& state);

}  // namespace tidepool::pool::controller
