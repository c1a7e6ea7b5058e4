// What a program asks of the kernel for itself: to stay in memory, to be spared by the out-of-memory killer, to hold
// many descriptors, to come soon when somebody waits.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::kernel {

enum class LockMemory : std::uint8_t {
  kAll,      // every mapping, now and later, is populated: for small programs
  kTouched,  // what is touched stays (MCL_ONFAULT): for programs that map more than they use
};
// Needs CAP_IPC_LOCK or a large enough RLIMIT_MEMLOCK.
Result<> lock_memory(LockMemory what);

// -1000 (never killed) to 1000. Lowering it needs CAP_SYS_RESOURCE. Inherited by children.
Result<> set_oom_score_adjust(const KernelRoots& roots, int value);

// Raises the soft limit to the hard limit; returns how many descriptors may be open.
Result<std::uint64_t> raise_descriptor_limit();

// For a thread that somebody waits for, and that never computes for long: its turns on a processor are short, and so it
// gets the next one before threads that compute (Linux 6.12: sched_setattr's sched_runtime of an ordinary thread;
// without effect before). Of the calling thread; needs no capability, and is not worth an error.
void take_short_turns();

// Path of the program `name` in the folder of the running one: how programs that are installed together find each
// other.
Result<std::string> program_beside_own(const KernelRoots& roots, const std::string& name);

// What the descriptor refers to, as the kernel says it: "anon_inode:[userfaultfd]", "/memfd:name (deleted)", a path.
Result<std::string> describe_own_descriptor(const KernelRoots& roots, int fd);

}  // namespace tidepool::kernel
