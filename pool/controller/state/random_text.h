// A name that nobody else has: 128 random bits in hexadecimal.
#pragma once

#include <string>

namespace tidepool::pool::controller {

std::string random_text();

}  // namespace tidepool::pool::controller
