// Drops private memory through the ring that was placed in the target. Asynchronous; the target's userfaultfd announces
// every drop.
#pragma once

#include "daemon/pager/dropper.h"
#include "kmod-interfaces/drop_ring.h"

namespace tidepool::daemon {

class RingDropper final : public Dropper {
 public:
  explicit RingDropper(kernel::DropRing ring) : ring_(std::move(ring)) {}

  bool submit(const Drop& drop) override { return ring_.submit(drop.addresses, drop.cookie) == 0; }
  std::size_t reap(std::span<DropCompletion> out) override;
  std::size_t in_flight() const override { return ring_.in_flight(); }
  std::size_t capacity() const override { return ring_.capacity(); }
  bool announced_as_remove() const override { return true; }
  bool needs_confirmation() const override { return true; }
  bool broken() const override { return ring_.broken(); }

 private:
  kernel::DropRing ring_;
};

}  // namespace tidepool::daemon
