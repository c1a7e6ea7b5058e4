// A memory control group of a test's own, below the one that the test runs in, with a limit that can be set.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "kmod-interfaces/memcg.h"

namespace tidepool::tests {

class LimitedGroup {
 public:
  LimitedGroup();
  // Its processes must have ended.
  ~LimitedGroup();
  LimitedGroup(const LimitedGroup&) = delete;
  LimitedGroup& operator=(const LimitedGroup&) = delete;

  // Why there is none; empty when there is one.
  const std::string& missing() const { return missing_; }
  // A command line that runs `program` (a path) with its arguments in the group from its first page on.
  std::vector<std::string> inside(const std::vector<std::string>& program) const;
  Bytes usage() const;
  void set_limit(std::optional<Bytes> limit) const;
  // Processes that the kernel killed because the group was at its limit.
  std::uint64_t killed() const;

 private:
  kernel::MemoryGroup group_;
  std::string missing_;
};

}  // namespace tidepool::tests
