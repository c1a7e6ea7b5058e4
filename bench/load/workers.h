// The threads of a run: the workload itself, and those that make life harder for whoever moves the memory.
#pragma once

#include <chrono>

#include "base/result.h"
#include "base/unique_fd.h"
#include "bench/load/run.h"

namespace tidepool::load {

using SteadyClock = std::chrono::steady_clock;

// Reads and writes whole pages by the pattern until run.stopping.
void run_worker(Run& run, unsigned thread, SteadyClock::time_point start, ThreadCounters& counters);

// Every thread writes lanes of its own (64 bytes) in the same few pages, without a lock, and checks its own last write
// before each next one: a page that is moved while it is written loses somebody's. At most kHammerLanes threads.
inline constexpr unsigned kHammerLanes = kPageSize / 64;
void run_hammer(Run& run, unsigned thread, ThreadCounters& counters);

// Gives runs of pages back to the kernel, up to 2 MiB at a time, and expects zeros there; on shared memory it also
// drops page tables only, and expects the contents to stay.
void run_discarder(Run& run, ThreadCounters& counters);

// Writes pages to a file and reads them back with O_DIRECT, so that the device, not the processor, touches the memory.
Result<UniqueFd> open_direct_file(const std::string& path, PageCount pages);
void run_direct_transfers(Run& run, int file, ThreadCounters& counters);

}  // namespace tidepool::load
