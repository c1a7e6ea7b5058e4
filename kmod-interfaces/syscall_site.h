// Where in a running process a system call can be made on its behalf: which instruction, and which of its threads.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kmod-interfaces/process.h"

namespace tidepool::kernel {

// Address of a `syscall` instruction (0f 05) in the process, nothing of which is changed: in its vdso, which every
// 64-bit process has, or else in another executable mapping. x86-64 only.
Result<std::uint64_t> find_syscall_instruction(const Process& process);

// Offset of the first `syscall` instruction in `code`.
std::optional<std::size_t> find_syscall_bytes(std::span<const std::byte> code);

// A thread as a candidate to be stopped. `system_call` is the first line of /proc/PID/task/TID/syscall, "running" or
// "NUMBER ARGUMENTS...", empty when it could not be read.
struct ThreadCandidate {
  ThreadInfo thread;
  std::string system_call;
  bool leader = false;
};

// Which threads may be stopped for a moment, best first. Never a vCPU (by what it is doing or by the names that QEMU,
// Firecracker, Cloud Hypervisor and crosvm give): the guest would notice. Never a kernel worker (iou-*, vhost-*,
// kvm-nx-*), which never returns to user mode, nor a thread in an uninterruptible wait or one that is ending.
// Where names tell the vCPUs, threads that wait on a futex come first: idle, and their wait goes on by itself; then
// other waiting ones. Where no thread has such a name it is the other way round: a vCPU that is halted, or waits for
// its emulator's lock, sleeps on a futex like any other (QEMU names its threads with debug-threads=on only). Stopped
// and running threads come last.
std::vector<pid_t> rank_threads(std::span<const ThreadCandidate> candidates);
Result<std::vector<pid_t>> threads_fit_to_stop(const Process& process);

}  // namespace tidepool::kernel
