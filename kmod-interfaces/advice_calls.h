// What a process is about to do to its memory: the madvise(2) calls that its threads are in at this moment.
//
// Why anybody wants to know: a userfaultfd announces MADV_DONTNEED, which on shared memory keeps contents, and
// MADV_REMOVE, which punches a hole, with one and the same event (UFFD_EVENT_REMOVE, fs/userfaultfd.c). The calling
// thread sleeps inside madvise until that event has been read, so a look before reading tells which it is.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace tidepool::kernel {

inline constexpr std::size_t kMaxAdvisingThreads = 4096;

struct AdviceCall {
  AddressRange range;
  int advice = 0;  // MADV_*
};

struct AdviceCalls {
  std::vector<AdviceCall> calls;  // of threads that sleep in madvise
  bool running = false;           // a thread was running, so the kernel did not say what it does
};

// By /proc/PID/task/*/syscall (needs the permission to trace it). Only the first kMaxAdvisingThreads threads are looked
// at.
Result<AdviceCalls> read_advice_calls(pid_t pid);

// One line of that file: nullopt when it is anything but a madvise call.
std::optional<AdviceCall> parse_advice_call(std::string_view line);

}  // namespace tidepool::kernel
