// The kernel's tier as the agent offers it: whether pages may go there, what policy is told of it, and what it costs
// the host.
#pragma once

#include <optional>

#include "daemon/agent/context.h"
#include "policy/snapshot.h"

namespace tidepool::daemon {

// Why nothing may go to this tier ("no-swap", "disk-swap", "kernel-tier-off"); nullopt when it may.
std::optional<Finding> against_kernel_tier(SwapUse use, const kernel::KernelTier& tier);

// Not usable until its costs have been measured.
policy::TierView kernel_tier_view(const Context& context);

// Bytes of DRAM for a byte in it; while hardly anything is, what is usual.
double kernel_tier_ratio(const kernel::KernelTier& tier);

KernelTierStatus kernel_tier_status(const Context& context);

// DRAM that workloads' pages take in it: our pages at the ratio that the tier has as a whole.
Bytes kernel_tier_dram(const Context& context);

}  // namespace tidepool::daemon
