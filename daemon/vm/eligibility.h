// May this process be adopted? Facts are collected (I/O), then checked (pure), so that every rule can be tested without
// the machine that would break it. docs/eligibility.md lists the codes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "daemon/control/agent_service.h"
#include "daemon/vm/mappings.h"
#include "kmod-interfaces/kernel_roots.h"
#include "kmod-interfaces/process.h"
#include "kmod-interfaces/process_holders.h"
#include "kmod-interfaces/process_storage.h"

namespace tidepool::daemon {

// A descriptor by which a device reads or writes the process's memory behind the kernel's caches.
struct DirectDescriptor {
  int number = -1;
  std::string target;
  kernel::Storage storage;
};

// Of a process that handed its memory off.
struct HandoffFacts {
  enum class KernelFaults : std::uint8_t { served, refused, untried };  // UFFD_USER_MODE_ONLY refuses them
  bool announces_discards = true;                                       // UFFD_FEATURE_EVENT_REMOVE
  bool announces_changes = true;  // of the address space: UFFD_FEATURE_EVENT_FORK, _REMAP, _UNMAP
  bool restores_snapshot = false;
  KernelFaults kernel_faults = KernelFaults::served;
  std::string ring_error{};  // why no drop ring could be placed for private memory; empty: not tried, or it is there
};

// A process that would be enrolled together with another one, and the code of what stands against that.
struct UnfitMember {
  pid_t pid = 0;
  std::string comm;
  std::string code;
};

struct ProcessFacts {
  kernel::ProcessId id;
  std::string name;  // as vm_name() makes it
  std::string uuid;  // as vm_uuid() finds it; mostly empty
  std::string comm;
  std::string executable;  // empty when it may not be read, and for kernel threads
  uid_t uid = 0;
  gid_t gid = 0;
  bool is_self = false;  // the process that collected the facts
  bool kernel_thread = false;
  bool zombie = false;
  bool hypervisor = false;
  kernel::ElfClass elf_class = kernel::ElfClass::unknown;
  pid_t tracer = 0;
  std::string tracer_comm;
  kernel::SeccompMode seccomp = kernel::SeccompMode::none;
  Bytes pinned;
  Bytes locked;
  Bytes swapped;

  std::vector<std::string> passthrough;  // targets of VFIO descriptors
  std::vector<std::string> iommufd;
  std::vector<std::string> vdpa;
  std::vector<int> rings_with_fixed_buffers;  // descriptor numbers
  std::vector<int> rings_unknown;             // busy whenever they were asked
  std::vector<int> userfaultfds;
  std::vector<DirectDescriptor> direct;

  MemorySelector selector;  // which memory was asked for
  MappingChoice mappings;
  // Others who map the chosen shared memory, or hold a descriptor of it.
  std::vector<kernel::MemoryHolder> holders;
  std::vector<pid_t> holders_unknown;
  std::vector<UnfitMember> unfit_members;  // of its family: judged by whoever wants to enroll them

  // kernel.io_uring_disabled as it applies to this process; true where the setting is absent.
  bool may_use_io_uring = true;
  std::optional<std::uint64_t> ptrace_scope;  // kernel.yama.ptrace_scope
  std::optional<HandoffFacts> handed_off;     // absent: the process is to be taken hold of
  // What we were not allowed to read; the rest of the facts is incomplete then.
  std::vector<std::string> denied;
};

struct AdoptionRules {
  std::vector<std::string> allow_executables;  // globs over the whole path; empty allows none
  bool allow_ptrace = true;
  std::vector<kernel::ProcessId> enrolled;  // adopted already, or to be adopted in the same step
  std::vector<pid_t> own_processes;         // agent and keeper: they may hold the memory
  std::vector<std::string> force;           // codes of forceable findings to let through
  bool memory_file_known = false;           // of a process that hands off: what its missing pages hold has been said
};

struct Eligibility {
  std::vector<Finding> findings;  // refusals first
  bool eligible() const;          // no finding refuses
  // Of a process that handed itself off and waits for its faults to be answered: it can be served, if only without
  // anything of it being moved out.
  bool servable() const { return first_bar() == nullptr; }
  // nullptr when there is none.
  const Finding* first_refusal() const;
  const Finding* first_bar() const;  // of those that forbid to serve it
};

// Everything of one process that matters. Fails only when there is no such process; what may not be read is recorded as
// denied. Looks at all processes once when shared memory was chosen. Takes as long as reading smaps does (14-17 ms per
// GiB resident).
Result<ProcessFacts> collect_facts(pid_t pid, const kernel::KernelRoots& roots, const MemorySelector& selector = {});

// The same without its memory, which is left empty: as much as matters of a process that shows another one's.
Result<ProcessFacts> collect_process_facts(pid_t pid, const kernel::KernelRoots& roots);

// Whoever maps or has open these files by now, besides `known`, and would not be told of what happens to them: what an
// address space shows without a userfaultfd reads as zeros where pages are far. A child that was forked after its
// parent's memory was registered is watched from its birth (EVENT_FORK) and is none of them.
Result<std::vector<kernel::MemoryHolder>> find_newcomers(const kernel::KernelRoots& roots,
                                                         std::span<const kernel::InodeId> objects,
                                                         std::span<const kernel::ProcessId> known);

// Pure. A process that changes after its facts were collected is for the adoption itself to notice.
Eligibility check_eligibility(const ProcessFacts& facts, const AdoptionRules& rules);

// Pure. The first refusal against enrolling a process for memory that was chosen in another one; empty: none.
std::string against_member(const ProcessFacts& member, const AdoptionRules& rules);

// The holders that belong to the same family of processes as `pid` (a server and its children, such as PostgreSQL's):
// those that can be adopted together with it. Without `pid` itself.
std::vector<kernel::MemoryHolder> family_of(pid_t pid, pid_t parent, std::span<const kernel::MemoryHolder> holders);

// One row per code, in the order of docs/eligibility.md.
struct EligibilityRule {
  std::string_view code;
  FindingKind kind;
  bool forceable;
  bool bars_service;  // refuses even a process that handed itself off; otherwise that one is served, and never moved
  std::string_view meaning;
  std::string_view remedy;
};
std::span<const EligibilityRule> eligibility_rules();

}  // namespace tidepool::daemon
