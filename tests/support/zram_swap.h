// A zram device of a test's own that is swap for as long as the object lives.
#pragma once

#include <optional>
#include <string>

#include "base/units.h"

namespace tidepool::tests {

class ZramSwap {
 public:
  // Leaves a host alone that has swap already: what it would do there is not the test's to decide.
  explicit ZramSwap(Bytes size);
  // Takes it off and away again, with all that the test made.
  ~ZramSwap();
  ZramSwap(const ZramSwap&) = delete;
  ZramSwap& operator=(const ZramSwap&) = delete;

  // Why there is none; empty when there is one.
  const std::string& missing() const { return missing_; }
  // DRAM that it may take at most.
  void limit(Bytes dram) const;

 private:
  std::string folder() const { return "/sys/block/zram" + std::to_string(*number_); }
  std::string device() const { return "/dev/zram" + std::to_string(*number_); }
  std::string set_up(Bytes size);

  std::optional<unsigned> number_;
  bool made_node_ = false;
  bool on_ = false;
  std::string missing_;
};

}  // namespace tidepool::tests
