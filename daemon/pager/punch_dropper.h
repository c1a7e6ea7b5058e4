// Drops shared memory by punching holes into its backing file. Done before submit returns, and without an event in the
// target.
#pragma once

#include <deque>

#include "daemon/pager/dropper.h"

namespace tidepool::daemon {

class PunchDropper final : public Dropper {
 public:
  // `file` stays the caller's and must outlive the dropper.
  explicit PunchDropper(int file) : file_(file) {}

  bool submit(const Drop& drop) override;
  std::size_t reap(std::span<DropCompletion> out) override;
  std::size_t in_flight() const override { return completed_.size(); }
  std::size_t capacity() const override { return kMaxCompleted; }
  bool announced_as_remove() const override { return false; }
  bool needs_confirmation() const override { return false; }

 private:
  static constexpr std::size_t kMaxCompleted = 4096;

  int file_;
  std::deque<DropCompletion> completed_;
};

}  // namespace tidepool::daemon
