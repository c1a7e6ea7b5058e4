// What adoption could leave behind in a process, as it shows from outside: to be the same before and after.
#pragma once

#include <sys/types.h>

#include <iosfwd>
#include <map>
#include <string>
#include <vector>

namespace tidepool::tests {

struct ProcessState {
  bool alive = false;
  char state = '?';  // of the main thread: 'R' and 'D' count as 'S', for both run
  pid_t tracer = 0;
  std::string signals;                     // blocked and ignored ones
  std::map<int, std::string> descriptors;  // number to what it is
  std::vector<std::string> threads;        // names, sorted
  std::size_t watched_mappings = 0;        // registered with a userfaultfd (VmFlags um, uw, ui)

  bool operator==(const ProcessState&) const = default;
};

// Of a process that is gone, only `alive` has a meaning.
ProcessState state_of_process(pid_t pid);
void PrintTo(const ProcessState& state, std::ostream* out);

// How many descriptors a process has open; 0 when it is gone.
std::size_t open_descriptors(pid_t pid);
// Threads of io_urings in a process (named iou-sqp-PID): a ring that nobody let go of.
std::size_t ring_threads(pid_t pid);
// A figure in KiB of /proc/PID/status, by its name there; 0 when it is not there.
std::uint64_t status_kib(pid_t pid, const std::string& name);
// What a process has of memory that comes from no file, private or shared.
std::uint64_t own_memory_kib(pid_t pid);
// Whether the program was built with a sanitizer: its memory is mostly the sanitizer's, which keeps what is freed for a
// while, and it locks none, whatever it calls.
bool is_sanitized(pid_t pid);

}  // namespace tidepool::tests
