#include "daemon/vm/eligibility.h"

#include <algorithm>
#include <map>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::daemon {
namespace {

constexpr std::size_t kNamesShown = 4;

class Findings {
 public:
  explicit Findings(const AdoptionRules& rules) : rules_(rules) {}

  // `detail` says what was found; the table says what it means.
  void add(std::string_view code, const std::string& detail) {
    const auto table = eligibility_rules();
    const auto rule = std::ranges::find(table, code, &EligibilityRule::code);
    if (rule == table.end()) return;
    Finding finding{rule->kind, std::string(code), std::string(rule->meaning), std::string(rule->remedy),
                    rule->forceable};
    if (!detail.empty()) {
      finding.message.pop_back();
      finding.message += ": " + detail + ".";
    }
    const bool forced = std::ranges::find(rules_.force, code) != rules_.force.end();
    if (rule->forceable && forced) finding.kind = FindingKind::kWarning;
    findings_.push_back(std::move(finding));
  }

  std::vector<Finding> take() {
    std::ranges::stable_sort(findings_, {}, &Finding::kind);
    return std::move(findings_);
  }

 private:
  const AdoptionRules& rules_;
  std::vector<Finding> findings_;
};

std::string quantity(Bytes bytes) {
  if (bytes.value >= 1u << 20) return std::to_string(bytes.value >> 20) + " MiB";
  return std::to_string(bytes.value >> 10) + " KiB";
}

template <class List, class Text>
std::string join(const List& list, Text text) {
  std::string out;
  std::size_t shown = 0;
  for (const auto& item : list) {
    if (shown == kNamesShown) return out + " and " + std::to_string(list.size() - shown) + " more";
    out += (out.empty() ? "" : ", ") + text(item);
    ++shown;
  }
  return out;
}

std::string join_numbers(const std::vector<int>& numbers) {
  return join(numbers, [](int number) { return "descriptor " + std::to_string(number); });
}

// What memory there is, and why it was not taken: the largest first, and nothing that is too small to matter.
std::string largest_left_out(const MappingChoice& choice) {
  std::vector<ExcludedMapping> large;
  for (const ExcludedMapping& each : choice.excluded)
    if (each.resident >= kSmallestMapping) large.push_back(each);
  std::ranges::stable_sort(large, std::ranges::greater{}, &ExcludedMapping::resident);
  return join(large, [](const ExcludedMapping& each) {
    const std::string name = each.path.empty() ? std::string{} : " (" + kernel::printable(each.path) + ")";
    return quantity(each.resident) + name + ": " + std::string(reason_of(each.reason));
  });
}

std::string join_texts(const std::vector<std::string>& texts) {
  return join(texts, [](const std::string& text) { return kernel::printable(text); });
}

std::string holder_text(const kernel::MemoryHolder& holder) {
  return kernel::printable(holder.comm, 63) + " (pid " + std::to_string(holder.id.pid) + ")";
}

// Whether code must be run in the process: a userfaultfd or a ring placed in it.
bool must_be_entered(const ProcessFacts& facts) {
  return !facts.handed_off || facts.mappings.has_private();
}

bool is_tidepool(std::string_view executable) {
  constexpr std::string_view kDeleted = " (deleted)";
  if (executable.ends_with(kDeleted)) executable.remove_suffix(kDeleted.size());
  const std::string_view name = executable.substr(executable.rfind('/') + 1);
  return name == "tidepoold" || name == "tidepool-keeper" || name == "tidepool-adopt";
}

void check_nature(const ProcessFacts& facts, const AdoptionRules& rules, Findings& findings) {
  const bool own = std::ranges::find(rules.own_processes, facts.id.pid) != rules.own_processes.end();
  // Other agents' too: an agent whose memory another one moves could not answer its own VMs' faults.
  if (facts.is_self || own || is_tidepool(facts.executable)) findings.add("self", "");
  if (facts.kernel_thread) findings.add("kernel-thread", kernel::printable(facts.comm));
  if (facts.zombie) findings.add("zombie", "");
  if (!must_be_entered(facts)) return;
  if (facts.elf_class == kernel::ElfClass::bits32) findings.add("32-bit", "");
  if (facts.tracer != 0) {
    findings.add("traced", facts.tracer_comm.empty()
                               ? "pid " + std::to_string(facts.tracer)
                               : kernel::printable(facts.tracer_comm) + " (pid " + std::to_string(facts.tracer) + ")");
  }
}

void check_permission(const ProcessFacts& facts, const AdoptionRules& rules, Findings& findings) {
  if (!facts.denied.empty()) findings.add("not-permitted", join_texts(facts.denied));
  if (!rules.allow_ptrace && must_be_entered(facts)) findings.add("ptrace-forbidden", "allow_ptrace is false");
  // 3 forbids it to everybody, until the next boot. Documentation/admin-guide/LSM/Yama.rst.
  else if (must_be_entered(facts) && facts.ptrace_scope.value_or(0) >= 3)
    findings.add("ptrace-forbidden", "kernel.yama.ptrace_scope is 3");
  if (facts.kernel_thread || facts.executable.empty()) return;
  // A program that was upgraded while it runs is still the same program.
  constexpr std::string_view kDeleted = " (deleted)";
  std::string_view path = facts.executable;
  if (path.ends_with(kDeleted)) path.remove_suffix(kDeleted.size());
  const auto fits = [&](const std::string& glob) { return kernel::matches_glob(glob, std::string(path)); };
  if (std::ranges::none_of(rules.allow_executables, fits))
    findings.add("not-allow-listed", kernel::printable(path, 256));
}

void check_devices(const ProcessFacts& facts, Findings& findings) {
  if (!facts.passthrough.empty()) findings.add("vfio", join_texts(facts.passthrough));
  if (!facts.iommufd.empty()) findings.add("iommufd", join_texts(facts.iommufd));
  if (!facts.vdpa.empty()) findings.add("vdpa", join_texts(facts.vdpa));
  if (!facts.rings_with_fixed_buffers.empty())
    findings.add("io-uring-buffers", join_numbers(facts.rings_with_fixed_buffers));
  if (!facts.rings_unknown.empty()) findings.add("io-uring-busy", join_numbers(facts.rings_unknown));
  if (facts.pinned > Bytes{}) findings.add("pinned", quantity(facts.pinned));
  std::vector<const DirectDescriptor*> slow;
  std::vector<const DirectDescriptor*> quick;
  for (const DirectDescriptor& direct : facts.direct)
    (direct.storage.speed == kernel::StorageSpeed::fast ? quick : slow).push_back(&direct);
  const auto text = [](const DirectDescriptor* direct) {
    return kernel::printable(direct->target) + " (" + direct->storage.what + ")";
  };
  if (!slow.empty()) findings.add("direct-io-slow", join(slow, text));
  if (!quick.empty()) findings.add("direct-io", join(quick, text));
}

void check_memory(const ProcessFacts& facts, Findings& findings) {
  const MappingChoice& choice = facts.mappings;
  const Bytes chosen = choice.total();
  // Leaving some memory alone is safe; adopting a process of which most is left alone is not what was asked for.
  const auto most_or_part = [&](Exclusion reason, std::string_view most, std::string_view part) {
    const Bytes blocked = choice.blocked_by(reason);
    if (blocked == Bytes{}) return false;
    findings.add(blocked >= chosen ? most : part, quantity(blocked));
    return true;
  };
  const bool locked_named = most_or_part(Exclusion::locked, "locked", "locked-partly");
  if (!locked_named && facts.locked > Bytes{}) findings.add("locked-partly", quantity(facts.locked));
  most_or_part(Exclusion::hugetlb, "hugetlb", "hugetlb-partly");
  if (const Bytes dax = choice.blocked_by(Exclusion::dax); dax > Bytes{}) findings.add("dax", quantity(dax));
  const Bytes watched = choice.blocked_by(Exclusion::userfaultfd);
  if (watched > Bytes{})
    findings.add("userfaultfd", quantity(watched) + " registered");
  else if (!facts.userfaultfds.empty() && !facts.handed_off)
    findings.add("userfaultfd", join_numbers(facts.userfaultfds));
  const Bytes aliased = choice.blocked_by(Exclusion::alias_unmanageable);
  if (aliased > Bytes{}) findings.add("mapped-twice", quantity(aliased));
  if (facts.swapped > Bytes{}) findings.add("swapped", quantity(facts.swapped));
  if (choice.has_private() && !facts.may_use_io_uring) findings.add("io-uring-forbidden", "");
  if (choice.has_private() && !facts.hypervisor) {
    Bytes amount;
    for (const ManagedMapping& mapping : choice.chosen)
      if (!is_shared(mapping.kind)) amount += Bytes{mapping.range.size()};
    findings.add("private-may-move", quantity(amount));
  }
  const bool could_look = !facts.kernel_thread && !facts.zombie && facts.denied.empty();
  if (could_look && choice.chosen.empty() && choice.blocked.empty())
    findings.add("nothing-to-manage", largest_left_out(choice));
}

void check_handoff(const ProcessFacts& facts, const AdoptionRules& rules, Findings& findings) {
  if (!facts.handed_off) return;
  if (!facts.handed_off->ring_error.empty())
    findings.add("no-ring", kernel::printable(facts.handed_off->ring_error, 512));
  if (!facts.handed_off->announces_discards) findings.add("discards-unseen", "");
  if (!facts.handed_off->announces_changes) findings.add("changes-unseen", "");
  using KernelFaults = HandoffFacts::KernelFaults;
  if (facts.handed_off->kernel_faults == KernelFaults::refused) findings.add("user-mode-only", "");
  if (facts.handed_off->kernel_faults == KernelFaults::untried)
    findings.add("user-mode-only", "it could not be tried, for no page is missing");
  if (facts.handed_off->restores_snapshot && !rules.memory_file_known) findings.add("snapshot-unknown", "");
}

void check_holders(const ProcessFacts& facts, const AdoptionRules& rules, Findings& findings) {
  std::vector<const kernel::MemoryHolder*> mappers;
  std::vector<const kernel::MemoryHolder*> openers;
  for (const kernel::MemoryHolder& holder : facts.holders) {
    const bool own = std::ranges::find(rules.own_processes, holder.id.pid) != rules.own_processes.end();
    const bool enrolled = std::ranges::find(rules.enrolled, holder.id) != rules.enrolled.end();
    if (holder.id == facts.id || own || enrolled) continue;
    (holder.mapped.empty() ? openers : mappers).push_back(&holder);
  }
  const auto text = [](const kernel::MemoryHolder* holder) { return holder_text(*holder); };
  if (!mappers.empty()) findings.add("foreign-mapper", join(mappers, text));
  if (!openers.empty()) findings.add("foreign-descriptor", join(openers, text));
  if (!facts.unfit_members.empty()) {
    findings.add("family-member", join(facts.unfit_members, [](const UnfitMember& member) {
                   return kernel::printable(member.comm, 63) + " (pid " + std::to_string(member.pid) + ", " +
                          member.code + ")";
                 }));
  }
  if (!facts.holders_unknown.empty())
    findings.add("holders-unknown",
                 join(facts.holders_unknown, [](pid_t pid) { return "pid " + std::to_string(pid); }));
}

}  // namespace

bool Eligibility::eligible() const {
  return std::ranges::none_of(findings, [](const Finding& f) { return f.kind == FindingKind::kRefusal; });
}

const Finding* Eligibility::first_bar() const {
  const auto bars = [](const Finding& finding) {
    if (finding.kind != FindingKind::kRefusal) return false;
    const auto table = eligibility_rules();
    const auto rule = std::ranges::find(table, finding.code, &EligibilityRule::code);
    return rule == table.end() || rule->bars_service;
  };
  const auto bar = std::ranges::find_if(findings, bars);
  return bar == findings.end() ? nullptr : &*bar;
}

const Finding* Eligibility::first_refusal() const {
  const auto refusal = std::ranges::find(findings, FindingKind::kRefusal, &Finding::kind);
  return refusal == findings.end() ? nullptr : &*refusal;
}

Eligibility check_eligibility(const ProcessFacts& facts, const AdoptionRules& rules) {
  Findings findings(rules);
  check_nature(facts, rules, findings);
  check_permission(facts, rules, findings);
  check_devices(facts, findings);
  check_memory(facts, findings);
  check_holders(facts, rules, findings);
  check_handoff(facts, rules, findings);
  return Eligibility{findings.take()};
}

std::string against_member(const ProcessFacts& member, const AdoptionRules& rules) {
  Findings findings(rules);
  check_nature(member, rules, findings);
  check_permission(member, rules, findings);
  check_devices(member, findings);
  if (!member.userfaultfds.empty()) findings.add("userfaultfd", "");
  const std::vector<Finding> found = findings.take();
  return found.empty() || found.front().kind != FindingKind::kRefusal ? std::string() : found.front().code;
}

std::vector<kernel::MemoryHolder> family_of(pid_t pid, pid_t parent, std::span<const kernel::MemoryHolder> holders) {
  std::map<pid_t, pid_t> parent_of{{pid, parent}};
  for (const kernel::MemoryHolder& holder : holders) parent_of.emplace(holder.id.pid, holder.parent);
  // The eldest ancestor that is a holder too. A parent may be recycled into a cycle by the time it is read, so steps
  // are counted.
  const auto eldest = [&](pid_t member) {
    for (std::size_t steps = 0; steps < parent_of.size(); ++steps) {
      const auto up = parent_of.find(parent_of.at(member));
      if (up == parent_of.end()) break;
      member = up->first;
    }
    return member;
  };
  const pid_t root = eldest(pid);
  std::vector<kernel::MemoryHolder> members;
  for (const kernel::MemoryHolder& holder : holders) {
    if (holder.id.pid != pid && eldest(holder.id.pid) == root) members.push_back(holder);
  }
  return members;
}

}  // namespace tidepool::daemon
