#include "daemon/agent/vm_rules.h"

#include <algorithm>

#include "kmod-interfaces/proc_text.h"
#include "policy/config.h"

namespace tidepool::daemon {
namespace {

bool fits(const std::string& pattern, const std::string& text) {
  return pattern.empty() || kernel::matches_glob(pattern, text);
}

bool matches(const RuleMatch& match, const RuleSubject& subject) {
  const auto in_group = [&](const std::string& path) { return kernel::matches_glob(match.cgroup, path); };
  return fits(match.domain, subject.name) && fits(match.exe, subject.exe) &&
         (match.cgroup.empty() || std::ranges::any_of(subject.cgroups, in_group));
}

}  // namespace

std::string without_deleted(std::string path) {
  constexpr std::string_view kDeleted = " (deleted)";
  if (path.ends_with(kDeleted)) path.resize(path.size() - kDeleted.size());
  return path;
}

RuleSubject rule_subject(const kernel::Process& process, std::string name, const std::string& exe) {
  RuleSubject subject{std::move(name), without_deleted(exe), {}};
  if (auto memberships = process.cgroups()) {
    for (kernel::CgroupMembership& membership : *memberships) subject.cgroups.push_back(std::move(membership.path));
  }
  return subject;
}

const Rule* first_rule(std::span<const Rule> rules, const RuleSubject& subject) {
  const auto found = std::ranges::find_if(rules, [&](const Rule& rule) { return matches(rule.match, subject); });
  return found == rules.end() ? nullptr : &*found;
}

void apply_class(const Config& config, const std::string& name, VmPolicy& policy) {
  policy.service_class = name;
  const auto known = policy::parse_service_class(name);
  if (!known || *known == policy::ServiceClass::kStandard) {
    policy.stall_budget = config.defaults.stall_budget;
    policy.min_cold_age = config.defaults.min_cold_age;
    return;
  }
  const policy::ClassSettings& settings = policy::kClassSettings[static_cast<unsigned>(*known)];
  policy.stall_budget = settings.stall_budget;
  policy.min_cold_age = std::chrono::duration_cast<std::chrono::milliseconds>(settings.min_cold_age);
}

void apply_changes(const Config& config, const VmSettings& changes, Bytes promised, VmPolicy& policy) {
  if (changes.mode) policy.mode = *changes.mode;
  if (changes.service_class) apply_class(config, *changes.service_class, policy);
  if (changes.guarantee) policy.guarantee = changes.guarantee->resolve(promised);
  if (changes.limit) policy.limit = changes.limit->resolve(promised);
  if (changes.no_limit) policy.limit.reset();
  if (changes.stall_budget) policy.stall_budget = *changes.stall_budget;
  if (changes.min_cold_age) policy.min_cold_age = *changes.min_cold_age;
}

VmPolicy settings_for(const Config& config, const Rule* rule, Bytes promised, const VmSettings& changes) {
  VmPolicy policy;
  policy.mode = config.mode;
  policy.service_class = config.defaults.service_class;
  policy.guarantee = config.defaults.guarantee.resolve(promised);
  if (config.defaults.limit) policy.limit = config.defaults.limit->resolve(promised);
  policy.stall_budget = config.defaults.stall_budget;
  policy.min_cold_age = config.defaults.min_cold_age;
  if (rule != nullptr) {
    if (rule->mode) policy.mode = *rule->mode;
    if (rule->service_class) apply_class(config, *rule->service_class, policy);
    if (rule->guarantee) policy.guarantee = rule->guarantee->resolve(promised);
    if (rule->limit) policy.limit = rule->limit->resolve(promised);
    if (rule->stall_budget) policy.stall_budget = *rule->stall_budget;
    if (rule->min_cold_age) policy.min_cold_age = *rule->min_cold_age;
  }
  apply_changes(config, changes, promised, policy);
  return policy;
}

}  // namespace tidepool::daemon
