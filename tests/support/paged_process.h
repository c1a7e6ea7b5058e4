// A process whose memory is paged by a test: its threads write and verify every page they own, and it gives its
// userfaultfd away.
//
// Made by fork, so construct it before the test starts threads of its own. All state that both sides see is in one
// shared page range.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/mapping.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "daemon/pager/dropper.h"

namespace tidepool::tests {

// In which order each thread visits its pages.
enum class Visits : int {
  kRandom,
  kInOrder,
  kBeginnings,  // a few pages in a row, then elsewhere: what looks like a stream ends at once
};

struct PagedProcessOptions {
  bool shared = true;
  bool huge = false;
  std::uint64_t pages = 4096;
  unsigned threads = 4;
  bool discard = false;        // private: threads give pages back now and then, and expect zeros
  bool fork_children = false;  // one thread forks children that verify all its pages
  bool write = true;
  bool read_untouched = false;  // private: the pages that were never written are read once, so that they show zeros
  std::uint64_t seed = 1;
  Visits visits = Visits::kRandom;
};

class PagedProcess {
 public:
  explicit PagedProcess(const PagedProcessOptions& options);
  ~PagedProcess();

  pid_t pid() const { return pid_; }
  UniqueFd take_userfaultfd() const;
  UniqueFd pidfd() const;
  UniqueFd memory_file() const;  // shared memory only
  AddressRange memory() const;
  // Runs drops in the process itself, on a thread of its own: like a ring, asynchronous and announced as REMOVE.
  std::unique_ptr<daemon::Dropper> dropper() const;

  void start();         // lets the threads go
  void stop_threads();  // waits for them
  // All of its memory, while its threads run: each of them may wait for one page that it then finds to be zeros, which
  // it calls a mismatch.
  void give_all_back();
  void visit(Visits order);
  void signal(int number) const;
  void kill_now();
  void break_dropper();  // from now on it takes and answers nothing
  std::uint64_t operations() const;
  std::uint64_t mismatches() const;
  std::uint64_t forks() const;
  std::uint64_t children_lost() const;  // of them, those that ended by SIGBUS: no mismatch
  // Waits until `operations` have been done since now; false when the process makes no progress for a minute.
  bool await_operations(std::uint64_t more) const;

  struct Shared;

 private:
  PagedProcessOptions options_;
  Mapping shared_memory_;
  Shared* shared_ = nullptr;
  UniqueFd file_;
  pid_t pid_ = -1;
};

}  // namespace tidepool::tests
