#include "pool/controller/state/random_text.h"

#include <array>
#include <cstdio>
#include <random>

namespace tidepool::pool::controller {

std::string random_text() {
  std::random_device random;
  std::string text;
  for (int i = 0; i < 4; ++i) {
    std::array<char, 9> digits{};
    std::snprintf(digits.data(), digits.size(), "%08x", random());
    text += digits.data();
  }
  return text;
}

}  // namespace tidepool::pool::controller
