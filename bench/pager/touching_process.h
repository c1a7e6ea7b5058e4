// A process that touches pages on command and writes down how long each touch took, as its threads saw it.
//
// Made by fork; fails by throwing, as a benchmark that cannot be set up is of no use.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <vector>

#include "base/mapping.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "kmod-interfaces/userfaultfd.h"

namespace tidepool::bench {

class TouchingProcess {
 public:
  // `pages` of shared memory (a memfd), filled with random words unless `fill` is false, and threads that wait for
  // commands.
  TouchingProcess(std::uint64_t pages, unsigned threads, bool fill = true);
  ~TouchingProcess();
  TouchingProcess(const TouchingProcess&) = delete;
  TouchingProcess& operator=(const TouchingProcess&) = delete;

  pid_t pid() const { return pid_; }
  AddressRange memory() const;
  std::uint64_t pages() const { return pages_; }
  int memory_file() const { return file_.get(); }
  UniqueFd duplicate_memory_file() const { return file_.duplicate(); }
  UniqueFd pidfd() const;
  kernel::Userfaultfd take_userfaultfd() const;

  // Every page is read once, in an order that no prefetcher guesses. Returns the latencies of the first read of each.
  std::vector<std::chrono::nanoseconds> touch_all();
  // True when every page held what it was filled with, in all rounds so far.
  bool contents_right() const;

  struct Shared;

 private:
  std::uint64_t pages_;
  unsigned threads_;
  Mapping shared_memory_;
  Shared* shared_ = nullptr;
  UniqueFd file_;
  pid_t pid_ = -1;
};

}  // namespace tidepool::bench
