// The admin API's calls about the pool.
#include "base/quantity_text.h"
#include "daemon/agent/agent_impl.h"
#include "daemon/agent/change_plan.h"
#include "daemon/agent/kernel_tier_view.h"
#include "daemon/agent/policy_view.h"

namespace tidepool::daemon {
Result<PoolStatus> AgentImpl::pool_status() {
  const pool::StoreUsage usage = context_.pool->usage();
  PoolStatus status;
  status.store = context_.pool->kind();
  status.backing = context_.pool->backing();
  status.capacity = usage.capacity;
  status.used = usage.used;
  status.stored = to_bytes(usage.pages);
  status.pages = usage.pages.value;
  status.incompressible = usage.incompressible;
  for (const auto& vm : context_.vms.paged()) status.integrity_failures += vm->memory->counters.integrity_failures;
  status.kernel = kernel_tier_status(context_);
  if (const auto remote = context_.pool->remote()) {
    for (const pool::RemoteServerFigures& server : remote->servers)
      status.servers.push_back({.name = server.server,
                                .up = server.up,
                                .draining = server.draining,
                                .why = server.why,
                                .slices = server.slices,
                                .typical_read = server.link.typical_read,
                                .reads_in_place = server.link.from_files,
                                .wrong_answers = server.wrong_answers,
                                .restarts = server.boots});
    status.slices = remote->slices;
    status.degraded_slices = remote->degraded_slices;
    status.lost_slices = remote->lost_slices;
    status.filling_slices = remote->filling_slices;
    status.expired_slices = remote->expired_slices;
    status.rebuild_remaining = remote->rebuild_remaining;
    status.closing_slices = remote->closing_slices;
    status.closing = remote->closing;
    status.lost_pages = remote->lost_pages;
  }
  if (const auto controller = context_.pool->controller())
    status.controller = {.present = true,
                         .answers = controller->answers,
                         .why = controller->why,
                         .silent = controller->silent,
                         .held = controller->held,
                         .share = controller->share,
                         .to_give_back = controller->to_give_back,
                         .unknown_slices = controller->unknown_slices,
                         .strays = controller->strays,
                         .refusal = controller->refusal};
  return status;
}

Result<ChangeReport> AgentImpl::pool_resize(const Amount& capacity, bool plan) {
  if (context_.pool->controller())
    return failure(std::errc::operation_not_supported, "resize", "slices of a pool controller",
                   "use `tidectl pool resize VM --size SIZE`, which asks the controller");
  if (context_.pool->remote())
    return failure(std::errc::operation_not_supported, "resize", "memory servers",
                   "change pool.servers.capacity and restart the agent");
  const Bytes wanted = capacity.resolve(context_.pool->whole());
  const pool::StoreUsage usage = context_.pool->usage();
  ChangeReport report =
      plan_capacity(wanted, usage.capacity, usage.used, context_.pool->uses_host_dram(), host_view_of(context_));
  if (plan || !report.allowed) return report;
  if (auto resized = context_.pool->set_capacity(wanted); !resized) return Failure{resized.error()};
  report.applied = true;
  context_.event("", "pool", "capacity " + short_text(usage.capacity) + " -> " + short_text(wanted));
  return report;
}

}  // namespace tidepool::daemon
