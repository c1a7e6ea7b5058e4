// The floor: what userfaultfd and memcpy cost with nothing around them. No page map, no checks, no store.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#include "base/mapping.h"
#include "bench/pager/touching_process.h"
#include "kmod-interfaces/userfaultfd.h"

namespace tidepool::bench {

class BareHandler {
 public:
  // Takes the process' memory over, and a copy of what is in it.
  explicit BareHandler(TouchingProcess& process);
  ~BareHandler();
  BareHandler(const BareHandler&) = delete;
  BareHandler& operator=(const BareHandler&) = delete;

  // Answers faults by COPY on a thread of its own until stop().
  void start(bool spinning);
  void stop();

  void drop_all();            // punches everything at once
  void demote_in_batches();   // per 2 MiB: protect, copy by pread, punch
  void restore_in_batches();  // COPY of 64 KiB at a time
  void forget_copies();       // the memory for them is the host's again; only while everything is home

 private:
  void serve(bool spinning);
  std::byte* copy_of(std::uint64_t address) const { return copies_.data() + (address - process_.memory().start); }

  TouchingProcess& process_;
  kernel::Userfaultfd userfaultfd_;
  Mapping copies_;
  UniqueFd wake_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace tidepool::bench
