#pragma once

#include <utility>

#include "base/unique_fd.h"

namespace tidepool::bench {

// Two ends of a connection: TCP over the loopback device, without delay, or a unix socket. Throws when there is none.
std::pair<UniqueFd, UniqueFd> connected_pair(bool tcp);

}  // namespace tidepool::bench
