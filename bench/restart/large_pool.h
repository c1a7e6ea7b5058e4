// The records of a large pool, as a controller would have left them.
#pragma once

#include <cstdint>
#include <vector>

#include "pool/controller/state_store.h"

namespace tidepool::bench {

struct LargePool {
  std::uint64_t slices = 100'000;  // with two replicas each
  std::uint64_t vms = 10'000;
  std::uint64_t hosts = 500;
  std::uint64_t servers = 1000;
  std::uint64_t history = 10'000;
};
std::vector<pool::controller::StateChange> records_of(const LargePool& pool);

}  // namespace tidepool::bench
