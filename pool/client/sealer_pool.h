// Sealers for as many threads as come: each takes that of its shard for one page, and few ever meet.
#pragma once

#include <array>
#include <memory>
#include <mutex>

#include "pool/client/sealer.h"
#include "pool/store/thread_shard.h"

namespace tidepool::pool {

class SealerPool {
 public:
  static Result<std::unique_ptr<SealerPool>> create(const SealKey& key) {
    auto pool = std::make_unique<SealerPool>();
    for (Shard& shard : pool->shards_) {
      auto sealer = make_sealer(key);
      if (!sealer) return Failure{sealer.error()};
      shard.sealer = std::move(*sealer);
    }
    return pool;
  }

  bool seal(const SealPlace& place, std::span<const std::byte> plain, std::byte* sealed, protocol::Tag& tag) {
    Shard& shard = shards_[thread_shard()];
    const std::lock_guard lock(shard.mutex);
    return shard.sealer->seal(place, plain, sealed, tag);
  }
  bool open(const SealPlace& place, std::span<const std::byte> sealed, const protocol::Tag& tag, std::byte* plain) {
    Shard& shard = shards_[thread_shard()];
    const std::lock_guard lock(shard.mutex);
    return shard.sealer->open(place, sealed, tag, plain);
  }

 private:
  struct alignas(64) Shard {
    std::mutex mutex;
    std::unique_ptr<Sealer> sealer;
  };
  std::array<Shard, kThreadShards> shards_;
};

}  // namespace tidepool::pool
