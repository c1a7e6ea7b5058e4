// The admin API's calls about the pool.
#include "base/quantity_text.h"
#include "daemon/agent/agent_impl.h"
#include "daemon/agent/change_plan.h"
#include "daemon/agent/kernel_tier_view.h"
#include "daemon/agent/policy_view.h"
#include "pool/store/medium.h"

namespace tidepool::daemon {
Result<PoolStatus> AgentImpl::pool_status() {
  const Config config = context_.config();
  const pool::StoreUsage usage = context_.store->usage();
  PoolStatus status;
  status.store = context_.store->kind();
  status.backing = config.pool.path.empty() ? (config.pool.store == StoreKind::kMapped
                                                   ? "memfd"
                                                   : (config.pool.codec == Codec::kZstd ? "DRAM (zstd)" : "DRAM (lz4)"))
                                            : config.pool.path;
  status.capacity = usage.capacity;
  status.used = usage.used;
  status.stored = to_bytes(usage.pages);
  status.pages = usage.pages.value;
  status.incompressible = usage.incompressible;
  for (const auto& vm : context_.vms.paged()) status.integrity_failures += vm->memory->counters.integrity_failures;
  status.kernel = kernel_tier_status(context_);
  return status;
}

Result<ChangeReport> AgentImpl::pool_resize(const Amount& capacity, bool plan) {
  const auto whole = pool::medium_size(context_.config().pool.path, context_.roots);
  if (!whole) return Failure{whole.error()};
  const Bytes wanted = capacity.resolve(*whole);
  const pool::StoreUsage usage = context_.store->usage();
  ChangeReport report =
      plan_capacity(wanted, usage.capacity, usage.used, context_.store->uses_host_dram(), host_view_of(context_));
  if (plan || !report.allowed) return report;
  if (auto resized = context_.store->set_capacity(wanted); !resized) return Failure{resized.error()};
  report.applied = true;
  context_.event("", "pool", "capacity " + short_text(usage.capacity) + " -> " + short_text(wanted));
  return report;
}

}  // namespace tidepool::daemon
