// What the configuration says of one VM: which [[rule]] speaks of it, and what it is held to. Pure.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "daemon/control/agent_service.h"
#include "daemon/control/config.h"
#include "kmod-interfaces/process.h"

namespace tidepool::daemon {

// What rules look at.
struct RuleSubject {
  std::string name;
  std::string exe;                   // " (deleted)" of a program that was replaced is no part of it
  std::vector<std::string> cgroups;  // paths, one per hierarchy
};

// The path of an executable, without the kernel's mark that it was replaced since.
std::string without_deleted(std::string path);

// Of a running process. What may not be read is empty.
RuleSubject rule_subject(const kernel::Process& process, std::string name, const std::string& exe);

// The first that matches; nullptr when none does.
const Rule* first_rule(std::span<const Rule> rules, const RuleSubject& subject);

// Puts a VM into a service class: its budget and age become the class's, those of [defaults] for "standard" and for a
// name that is only a label.
void apply_class(const Config& config, const std::string& name, VmPolicy& policy);

// What somebody asks to be changed. `promised`: what shares are of.
void apply_changes(const Config& config, const VmSettings& changes, Bytes promised, VmPolicy& policy);

// Defaults, over them the rule (may be nullptr), over that the changes. `promised`: what shares are of.
VmPolicy settings_for(const Config& config, const Rule* rule, Bytes promised, const VmSettings& changes);

}  // namespace tidepool::daemon
