// What the main thread of a workload does while others work: wait for time or signals, and print.
#pragma once

#include <chrono>
#include <csignal>
#include <functional>
#include <string>

#include "bench/load/report.h"

namespace tidepool::load {

// At once, also into a pipe.
void print(const std::string& text);

// Signals (SIGINT, SIGTERM, SIGUSR1) are waited for, never handled: every thread started after this object has them
// blocked.
class SignalWaiter {
 public:
  SignalWaiter();
  // The signal that came, or 0 after `limit`.
  int wait(std::chrono::nanoseconds limit) const;
  // From here on a signal ends the process: for a final check, which may take long.
  void restore_defaults() const;

 private:
  sigset_t set_{};
};

// Keeps this process's own memory small and recognisable (one heap arena, stacks below 1 MiB): whoever adopts it means
// the workload's memory. Call before the first thread starts.
void keep_bookkeeping_small();

// Runs until a stop signal or until `limit` has passed; SIGUSR1 prints an interim report meanwhile, SIGUSR2 calls
// `check`. False when a stop signal came.
bool wait_for(std::chrono::nanoseconds limit, bool unlimited, const SignalWaiter& signals, Reporter& reporter,
              const std::function<void()>& check = {});

}  // namespace tidepool::load
