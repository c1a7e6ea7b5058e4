// Processes by descriptor: a pidfd names one process for ever, whatever happens to its pid. pidfd_open(2),
// pidfd_getfd(2).
#pragma once

#include <sys/types.h>

#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::kernel {

// A descriptor of the process with that pid; ESRCH when there is none, EINVAL when `pid` is a thread but not a process.
// Whose it is must be checked afterwards (start time), because the pid may have been recycled before the call.
Result<UniqueFd> open_pidfd(pid_t pid);

// A duplicate of the process's descriptor `number`, close-on-exec. Needs the right to trace the process; EPERM also
// comes from a security module that refuses to hand this kind of file over.
Result<UniqueFd> take_descriptor(int pidfd, int number);

// False once the process has ended (a zombie has).
bool pidfd_alive(int pidfd);
// Waits until the process has ended; false when `limit` passed first.
bool await_end(int pidfd, Nanoseconds limit);

// What /proc/self/fd/`fd` points to: "anon_inode:[io_uring]", "/dev/null", ... Only the kernel can give a file a name
// that begins with "anon_inode:". Empty when `fd` is not open.
std::string descriptor_target(int fd);

// True when both descriptors are one open file: descriptor `mine` of this process and `theirs` of process `pid`.
// kcmp(2); where the kernel lacks it (CONFIG_KCMP) the kinds of file are compared instead.
bool same_open_file(int mine, pid_t pid, int theirs);

}  // namespace tidepool::kernel
