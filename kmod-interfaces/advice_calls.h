// What a process is about to do to its memory: the calls that its threads are in at this moment.
//
// Why anybody wants to know: a userfaultfd announces MADV_DONTNEED, which on shared memory keeps contents, and
// MADV_REMOVE, which punches a hole, with one and the same event (UFFD_EVENT_REMOVE, fs/userfaultfd.c). The calling
// thread sleeps inside madvise until that event has been read, so a look before reading tells which it is. The same
// goes for calls that unmap or move: until their event is read, the caller cannot put anything else there.
#pragma once

#include <dirent.h>
#include <sys/types.h>

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace tidepool::kernel {

inline constexpr std::size_t kMaxAdvisingThreads = 4096;

struct AdviceCall {
  AddressRange range;  // whole pages: the kernel rounds the length up
  int advice = 0;      // MADV_*

  // Whether a userfaultfd is told (mm/madvise.c: madvise_dontneed_free, madvise_remove).
  bool removes() const;
};

struct AdviceCalls {
  std::vector<AdviceCall> calls;      // of threads that sleep in madvise
  std::vector<AddressRange> vacates;  // what threads take away from where it is: munmap, mremap, brk, mmap over it
  bool forks = false;                 // a thread sleeps in fork, vfork or clone

  // Whether somebody is among them of whom a userfaultfd may be told.
  bool has_cause() const;
};

// Looks at one process's threads, again and again (/proc/PID/task/*/syscall; needs the permission to trace it). Files
// of up to kKeptFiles threads stay open between looks, and the kernel's workers among the threads (io_uring's,
// vhost's), which run none of the process's code, are left out. For use by one thread.
class CallWatcher {
 public:
  static constexpr std::size_t kKeptFiles = 64;

  explicit CallWatcher(pid_t pid) : pid_(pid) {}
  // Of threads that were there before the call. ENOENT, ESRCH: the process is gone. Threads that end meanwhile, and
  // those beyond the first kMaxAdvisingThreads, are left out.
  Result<AdviceCalls> look();

 private:
  struct CloseDirectory {
    void operator()(DIR* directory) const { ::closedir(directory); }
  };
  struct Thread {
    std::uint64_t tid = 0;
    // Of its directory: another thread that is given the same number has another.
    std::uint64_t inode = 0;
    bool worker = false;
    UniqueFd calls;  // invalid: not kept
  };
  Result<> list();
  bool is_worker(std::uint64_t tid) const;
  UniqueFd open_calls(std::uint64_t tid) const;

  pid_t pid_;
  std::unique_ptr<DIR, CloseDirectory> directory_;
  std::vector<Thread> threads_;  // as they were listed last
  std::vector<Thread> before_;   // the list before, while a new one is made; keeps its memory
};

// The ranges that a call takes away, at most two; empty for all others. brk is taken for all of the address space, for
// where the heap ended before does not show.
std::vector<AddressRange> parse_vacated(std::string_view line);

// Whether a line of that file is fork, vfork or clone.
bool parse_fork(std::string_view line);

// One line of that file: nullopt when it is anything but a madvise call.
std::optional<AdviceCall> parse_advice_call(std::string_view line);

}  // namespace tidepool::kernel
