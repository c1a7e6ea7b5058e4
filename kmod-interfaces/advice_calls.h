// What a process is about to do to its memory: the calls that its threads are in at this moment.
//
// Why anybody wants to know: a userfaultfd announces MADV_DONTNEED, which on shared memory keeps contents, and
// MADV_REMOVE, which punches a hole, with one and the same event (UFFD_EVENT_REMOVE, fs/userfaultfd.c). The calling
// thread sleeps inside madvise until that event has been read, so a look before reading tells which it is. The same
// goes for calls that unmap or move: until their event is read, the caller cannot put anything else there.
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
  AddressRange range;  // whole pages: the kernel rounds the length up
  int advice = 0;      // MADV_*
};

struct AdviceCalls {
  std::vector<AdviceCall> calls;      // of threads that sleep in madvise
  std::vector<AddressRange> vacates;  // what threads take away from where it is: munmap, mremap, brk, mmap over it
};

// By /proc/PID/task/*/syscall (needs the permission to trace it). Only the first kMaxAdvisingThreads threads are looked
// at.
Result<AdviceCalls> read_advice_calls(pid_t pid);

// The ranges that a call takes away, at most two; empty for all others. brk is taken for all of the address space, for
// where the heap ended before does not show.
std::vector<AddressRange> parse_vacated(std::string_view line);

// One line of that file: nullopt when it is anything but a madvise call.
std::optional<AdviceCall> parse_advice_call(std::string_view line);

}  // namespace tidepool::kernel
