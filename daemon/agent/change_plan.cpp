#include "daemon/agent/change_plan.h"

#include "base/quantity_text.h"
#include "daemon/agent/vm_rules.h"
#include "daemon/control/config_schema.h"

namespace tidepool::daemon {
namespace {

void refuse(ChangeReport& report, std::string arithmetic, std::string remedy) {
  report.allowed = false;
  report.arithmetic = std::move(arithmetic);
  report.remedy = std::move(remedy);
}

std::string limit_text(const std::optional<Bytes>& limit) {
  return limit ? short_text(*limit) : "none";
}

std::vector<ChangeReport::Line> differences(const VmPolicy& before, const VmPolicy& after) {
  std::vector<ChangeReport::Line> lines;
  const auto line = [&](const char* what, const std::string& old, const std::string& now) {
    if (old != now) lines.push_back({what, old, now});
  };
  line("mode", std::string(text_of(before.mode)), std::string(text_of(after.mode)));
  line("class", before.service_class, after.service_class);
  line("guarantee", short_text(before.guarantee), short_text(after.guarantee));
  line("limit", limit_text(before.limit), limit_text(after.limit));
  line("stall_budget", share_text(before.stall_budget), share_text(after.stall_budget));
  line("min_cold_age", exact_text(before.min_cold_age), exact_text(after.min_cold_age));
  return lines;
}

}  // namespace

SettingsPlan plan_settings(const Config& config, const VmPolicy& before, const VmSettings& changes, Bytes promised,
                           const std::optional<Finding>& immovable) {
  SettingsPlan plan{before, {}};
  const VmPolicy& after = plan.after;
  apply_changes(config, changes, promised, plan.after);
  plan.report.lines = differences(before, after);
  if (after.guarantee > promised) {
    refuse(plan.report, "guarantee " + short_text(after.guarantee) + " > promised " + short_text(promised),
           "guarantee at most what was promised");
  } else if (after.limit && *after.limit < after.guarantee) {
    refuse(plan.report, "limit " + short_text(*after.limit) + " < guarantee " + short_text(after.guarantee),
           "lower the guarantee too, or raise the limit");
  } else if (immovable && after.mode == Mode::kActive && before.mode != Mode::kActive) {
    refuse(plan.report, immovable->message, immovable->remedy);
  }
  return plan;
}

ChangeReport plan_capacity(Bytes wanted, Bytes now, Bytes used, bool in_host_dram, const policy::HostView& host) {
  ChangeReport report;
  if (wanted != now) report.lines.push_back({"capacity", short_text(now), short_text(wanted)});
  if (wanted == Bytes{}) {
    refuse(report, "a pool of 0 could hold nothing", "to stop all movement: tidectl host freeze");
  } else if (in_host_dram && wanted + host.reserve > host.total) {
    refuse(report,
           "capacity " + short_text(wanted) + " + reserve " + short_text(host.reserve) + " > DRAM " +
               short_text(host.total),
           "try --size " + short_text(saturating_sub(host.total, host.reserve)));
  } else if (wanted < used) {
    // Nothing is thrown out: what is stored must go home first.
    refuse(report,
           "used " + short_text(used) + ", so " + short_text(used - wanted) +
               " would have to come home first; available " + short_text(host.available) + ", reserve " +
               short_text(host.reserve),
           "raise the VMs' limits or release one, or try --size " + short_text(used));
  } else if (wanted != now) {
    report.arithmetic = "until the agent starts again";
    report.remedy = "to keep it, set pool.embedded.capacity to \"" + exact_text(wanted) + "\" in the configuration";
  }
  return report;
}

}  // namespace tidepool::daemon
