// Who gives how much when the host is short: the pages whose absence costs least go first, whoever owns them. A page is
// worth its uses per second times the wait for one times its VM's weight; guarantees stand outside (docs/policy.md).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/units.h"
#include "policy/exposure.h"

namespace tidepool::policy {

struct Claim {
  const std::array<std::int32_t, kTemperatures>* pages = nullptr;  // that can go, by temperature
  double worth = 1;                                                // weight x seconds per fault
  Bytes surplus;                                                   // above the VM's guarantee
};

struct Shares {
  std::vector<Bytes> give;  // by claim
  double price = 0;         // what the dearest page that goes is worth, in seconds of waiting per second
};

// Shares that add up to `wanted`, or to all that can go.
Shares share_shortage(std::span<const Claim> claims, Bytes wanted);

}  // namespace tidepool::policy
