// The table of docs/eligibility.md: codes are stable words that programs and metrics rely on.
#include <array>

#include "daemon/vm/eligibility.h"

namespace tidepool::daemon {
namespace {

constexpr FindingKind kRefuse = FindingKind::kRefusal;
constexpr FindingKind kWarn = FindingKind::kWarning;

constexpr std::array kRules{
    EligibilityRule{"self", kRefuse, false, true, "The process is Tidepool's own.", "Name another process."},
    EligibilityRule{"kernel-thread", kRefuse, false, true, "A kernel thread has no memory of its own.",
                    "Name a user process."},
    EligibilityRule{"zombie", kRefuse, false, true, "The process has ended and waits for its parent.",
                    "Name a process that runs."},
    EligibilityRule{"not-permitted", kRefuse, false, true, "The process may not be inspected or traced.",
                    "Run the agent as root or grant it CAP_SYS_PTRACE."},
    EligibilityRule{"ptrace-forbidden", kRefuse, false, false,
                    "Configuration or kernel.yama.ptrace_scope forbids tracing.",
                    "Set allow_ptrace = true and kernel.yama.ptrace_scope below 3, or let the process hand its memory "
                    "over itself."},
    EligibilityRule{"not-allow-listed", kRefuse, false, true, "The executable is not on the list of those to adopt.",
                    "Add it to adopt.allow_exe."},
    EligibilityRule{"32-bit", kRefuse, false, false, "The process is 32-bit; only x86-64 code can be entered.",
                    "Run a 64-bit build."},
    EligibilityRule{"traced", kRefuse, false, false, "Another process traces it.",
                    "Detach the debugger or tracer first."},
    EligibilityRule{"vfio", kRefuse, false, false, "A device assigned by VFIO writes to the memory at any time.",
                    "Detach the device, or run the VM without device assignment."},
    EligibilityRule{"iommufd", kRefuse, false, false, "A device assigned by iommufd writes to the memory at any time.",
                    "Detach the device, or run the VM without device assignment."},
    EligibilityRule{"vdpa", kRefuse, false, false, "A vDPA device writes to the memory at any time.",
                    "Use vhost-net or a user-space backend instead."},
    EligibilityRule{"io-uring-buffers", kRefuse, false, false, "Memory is registered with io_uring as fixed buffers.",
                    "Turn fixed buffers off in the program's configuration."},
    EligibilityRule{"io-uring-busy", kRefuse, false, false,
                    "An io_uring was too busy to say whether it has fixed buffers.",
                    "Try again when the process has less to do."},
    EligibilityRule{"pinned", kRefuse, false, false, "Memory is pinned for a device or a ring (VmPin).",
                    "End what pins it: RDMA, AF_XDP, device assignment, fixed buffers."},
    EligibilityRule{"locked", kRefuse, false, true, "Most of the memory selected is locked (mlock).",
                    "Start the program without memory locking (QEMU: without -overcommit mem-lock=on)."},
    EligibilityRule{"locked-partly", kWarn, false, false, "Some memory is locked and is left alone.", ""},
    EligibilityRule{"hugetlb", kRefuse, false, true, "Most of the memory selected is hugetlb memory.",
                    "Use ordinary memory with transparent huge pages."},
    EligibilityRule{"hugetlb-partly", kWarn, false, false, "Some memory is hugetlb memory and is left alone.", ""},
    EligibilityRule{"dax", kRefuse, false, true, "The memory selected is a DAX device's.",
                    "Nothing to gain: it is not local DRAM."},
    EligibilityRule{"userfaultfd", kRefuse, false, false, "The process has a userfaultfd already.",
                    "Release the VM or stop the other user (live migration, snapshot restore, CRIU)."},
    EligibilityRule{"mapped-twice", kRefuse, false, true,
                    "The selected memory is mapped again in a way that cannot be watched.", "Select other memory."},
    EligibilityRule{"foreign-mapper", kRefuse, false, false, "A process that is not enrolled maps the same memory.",
                    "Adopt it together with this one, or stop it."},
    EligibilityRule{"family-member", kRefuse, false, false,
                    "A process of the same family maps the memory and cannot be adopted with it.",
                    "Mend what its code says, or stop it."},
    EligibilityRule{"foreign-descriptor", kRefuse, true, false,
                    "A process that is not enrolled holds a descriptor of the same memory.",
                    "Stop it, or force when it is known never to read or write through it."},
    EligibilityRule{"holders-unknown", kWarn, false, false, "Some processes could not be searched for the same memory.",
                    "Grant CAP_SYS_PTRACE."},
    EligibilityRule{"direct-io-slow", kRefuse, true, false,
                    "O_DIRECT descriptors on storage that may write to memory after a long delay.",
                    "Use the page cache (QEMU: cache=writeback), or force when the storage is known to be quick."},
    EligibilityRule{"direct-io", kWarn, false, false, "O_DIRECT descriptors: demotion waits for transfers under way.",
                    ""},
    EligibilityRule{"io-uring-forbidden", kRefuse, false, false,
                    "kernel.io_uring_disabled forbids the ring that private memory needs.",
                    "Set kernel.io_uring_disabled = 0, or give the VM shared memory (memory-backend-memfd,share=on)."},
    EligibilityRule{"private-may-move", kWarn, false, false,
                    "Private memory of a program that is no hypervisor: should it move such memory (mremap), or map "
                    "something over it, while pages of it are being moved out, what stands there then may be lost.",
                    "Let the program use shared memory, or leave it alone unless it is known to do neither."},
    EligibilityRule{"no-ring", kRefuse, false, false, "No drop ring could be placed, and private memory needs one.",
                    "Hand off shared memory (a memfd), or do what the reason asks for."},
    EligibilityRule{"discards-unseen", kRefuse, false, false,
                    "The userfaultfd that was handed off does not announce discards.",
                    "Make it with UFFD_FEATURE_EVENT_REMOVE."},
    EligibilityRule{"changes-unseen", kWarn, false, false,
                    "The userfaultfd that was handed off does not announce forks, moves and unmaps: the process must "
                    "do none of them with this memory.",
                    ""},
    EligibilityRule{"user-mode-only", kRefuse, false, false,
                    "The userfaultfd that was handed off is not known to serve faults of the kernel (KVM's, those of "
                    "system calls).",
                    "Make it through /dev/userfaultfd or as root, without UFFD_USER_MODE_ONLY, and hand it off before "
                    "all of the memory was touched."},
    EligibilityRule{"snapshot-unknown", kRefuse, false, true,
                    "The process restores a snapshot, and no rule says from which memory file.",
                    "Give its [[rule]] a memory_file; \"\" where its memory is fresh and reads zero."},
    EligibilityRule{"nothing-to-manage", kRefuse, false, true, "No memory fits the selection.",
                    "Choose another --mapping: auto, shared, private, all, START-END, >=SIZE or a pattern of names."},
    EligibilityRule{"swapped", kWarn, false, false,
                    "Parts of the process are in swap and stay under the kernel's care.", ""},
};

}  // namespace

std::span<const EligibilityRule> eligibility_rules() {
  return kRules;
}

}  // namespace tidepool::daemon
