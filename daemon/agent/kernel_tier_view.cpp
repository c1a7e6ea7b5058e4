#include "daemon/agent/kernel_tier_view.h"

#include <algorithm>

#include "base/text.h"

namespace tidepool::daemon {
namespace {

// Until enough is stored to tell. A tier that counted as costing all that it saves would never be tried where memory is
// worth something.
constexpr Bytes kTooLittle{4ull << 20};
constexpr double kUsualRatio = 0.5;

Bytes part_of(Bytes bytes, double ratio) {
  return Bytes{static_cast<std::uint64_t>(static_cast<double>(bytes.value) * ratio)};
}

Bytes far_of(const Context& context) {
  Bytes far;
  for (const auto& vm : context.vms.by_kernel()) far += vm->swapped();
  return far;
}

}  // namespace

std::optional<Finding> against_kernel_tier(SwapUse use, const kernel::KernelTier& tier) {
  const auto refusal = [](std::string code, std::string message, std::string remedy) {
    return Finding{FindingKind::kRefusal, std::move(code), std::move(message), std::move(remedy), false};
  };
  if (use == SwapUse::kOff)
    return refusal("kernel-tier-off", "pool.kernel.swap is \"off\"", "set it to \"auto\" or \"any\"");
  if (tier.kind == kernel::SwapKind::kNone)
    return refusal(
        "no-swap", "this host has no swap, so the kernel has nowhere to put pages",
        "set up a zram device as swap (modprobe zram; zramctl; mkswap; swapon), or zswap before a swap area");
  if (tier.kind == kernel::SwapKind::kDisk && use != SwapUse::kAny)
    return refusal("disk-swap",
                   "the kernel's next pages would go to a disk, " +
                       (tier.devices.empty() ? std::string("swap") : printable(tier.devices.front())),
                   "enable zswap (/sys/module/zswap/parameters/enabled) or zram, or set pool.kernel.swap = \"any\"");
  return std::nullopt;
}

double kernel_tier_ratio(const kernel::KernelTier& tier) {
  return tier.kind != kernel::SwapKind::kDisk && tier.stored < kTooLittle ? kUsualRatio : tier.ratio();
}

policy::TierView kernel_tier_view(const Context& context) {
  const TierState state = context.swap_mover->tier();
  policy::TierView view;
  view.name = "kernel";
  view.host_dram = state.kernel.kind != kernel::SwapKind::kDisk;
  view.ratio = view.host_dram ? std::max(0.01, kernel_tier_ratio(state.kernel)) : 1;
  view.used = view.host_dram ? state.kernel.dram : saturating_sub(state.kernel.size, state.kernel.free);
  view.capacity = view.used + part_of(state.kernel.free, view.ratio);
  view.foreign = saturating_sub(view.used, kernel_tier_dram(context));
  view.fault_cost = state.fault_cost;
  view.store_cost = state.store_cost;
  const bool measured = state.probed != MonoTime{} && state.fault_cost > Nanoseconds{0};
  view.usable = measured && !against_kernel_tier(context.config().kernel_tier.swap, state.kernel);
  return view;
}

KernelTierStatus kernel_tier_status(const Context& context) {
  const TierState state = context.swap_mover->tier();
  KernelTierStatus status;
  status.kind = kernel::name_of(state.kernel.kind);
  if (const auto against = against_kernel_tier(context.config().kernel_tier.swap, state.kernel))
    status.refused = against->code;
  status.capacity = state.kernel.size;
  status.free = state.kernel.free;
  status.stored = state.kernel.stored;
  status.dram = state.kernel.dram;
  status.far = far_of(context);
  status.fault_cost = state.fault_cost;
  status.store_cost = state.store_cost;
  status.trouble = state.probe_trouble;
  return status;
}

Bytes kernel_tier_dram(const Context& context) {
  return part_of(far_of(context), context.swap_mover->tier().kernel.ratio());
}

}  // namespace tidepool::daemon
