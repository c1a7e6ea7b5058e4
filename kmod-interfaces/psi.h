// Pressure stall information: how long tasks waited for memory. Documentation/accounting/psi.rst.
// Time that a thread waits in a userfaultfd is not counted here.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::kernel {

struct PressureLine {
  double average_10s = 0;  // share of time, 0..1
  double average_60s = 0;
  double average_300s = 0;
  std::chrono::microseconds total{0};  // since boot, or since the group was made
};

struct Pressure {
  PressureLine some;  // at least one task waited
  PressureLine full;  // all tasks that could run waited
};

// Fails with ENOENT where the kernel does not account pressure (CONFIG_PSI, or psi=0 on its command line).
Result<Pressure> read_host_memory_pressure(const KernelRoots& roots);
// `group` is a directory of cgroup2; works without the memory controller.
Result<Pressure> read_cgroup_memory_pressure(const std::string& group);
// nullopt without a "some" line that makes sense.
std::optional<Pressure> parse_pressure(std::string_view text);

}  // namespace tidepool::kernel
