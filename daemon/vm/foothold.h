// A foothold in a running, unmodified process: the descriptors through which its memory is managed from outside.
//
// tidepool-adopt, a short-lived privileged program, stops one thread of the process once (well below a millisecond on a
// quiet host), places everything and goes. Nothing else of the process stops, no call of it returns EINTR for this, and
// a failure leaves it as it was. What stays in the process is its own descriptor of each userfaultfd: with it, its
// threads wait (rather than read zeros) when this agent dies while memory is away.
//
// Both calls block for as long as the helper takes (milliseconds; at most the deadline), so they belong on a thread
// that serves neither faults nor requests. Thread-safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "kmod-interfaces/drop_ring.h"
#include "kmod-interfaces/process.h"

namespace tidepool::daemon {

// Pid and start time: a pid alone is recycled.
using ProcessIdentity = kernel::ProcessId;

struct HelperOptions {
  // Path of tidepool-adopt; empty: beside the running program's own executable.
  std::string program;
  // For the whole operation. The helper gives up by itself well before, because killing it while it holds a thread
  // stopped could harm the target; it is killed only when it does not answer even then.
  Nanoseconds deadline = std::chrono::seconds(20);
};

// Drops in flight for one process: more than the pager asks for at once.
inline constexpr std::uint32_t kRingEntries = 256;

struct FootholdRequest {
  ProcessIdentity id;
  // How many userfaultfds to make, up to 2; 0 where the process has handed one over and only a ring is wanted.
  std::uint8_t userfaultfds = 1;
  // Entries of the drop ring, a power of two up to kernel::kMaxDropRingEntries; 0: no ring (shared memory needs none).
  std::uint32_t ring_entries = 0;
  HelperOptions helper;
};

struct Foothold {
  ProcessIdentity id;
  UniqueFd pidfd;
  UniqueFd userfaultfd;         // of the target's address space, if wanted; non-blocking, no UFFDIO_API done yet
  int userfaultfd_number = -1;  // its number in the target, where it stays open
  UniqueFd second_userfaultfd;
  int second_userfaultfd_number = -1;
  std::optional<kernel::DropRing> ring;  // restricted and enabled; the target has no descriptor of it
  pid_t stopped_thread = 0;
  Nanoseconds stopped{0};  // how long that thread could not run, from asking it to stop to letting it go
};

// Errors, with what to do about them: ESRCH no such process, it ended meanwhile, or its pid is somebody else's now;
// EINVAL a kernel thread, a thread's id, the agent itself; ENOTSUP a 32-bit process; EBUSY traced by somebody else, or
// no thread fit to be stopped; EPERM/EACCES not permitted; ENOSYS no userfaultfd or io_uring; ETIMEDOUT it does not
// stop (frozen).
Result<Foothold> take_foothold(const FootholdRequest& request);

struct PlacedDescriptor {
  int number = -1;  // in the target
  int fd = -1;      // ours of the same open file; borrowed
};

struct LetGoRequest {
  ProcessIdentity id;
  std::vector<PlacedDescriptor> descriptors;  // at most 4
  HelperOptions helper;
};

struct LetGoOutcome {
  // Numbers that were another file in the target by now (it may close and reuse them) and were left alone.
  std::vector<int> not_ours;
  Nanoseconds stopped{0};  // zero when nothing had to be closed
};

// Closes the target's own descriptors again, after its memory is home and unregistered: the process is then as it was
// found. ESRCH, when the process is gone, leaves nothing to do.
Result<LetGoOutcome> let_go(const LetGoRequest& request);

}  // namespace tidepool::daemon
