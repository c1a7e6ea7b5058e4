// tidepool-load: fill, announce, work, check, report.
#include <fmt/format.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <thread>

#include "bench/load/load_options.h"
#include "bench/load/workers.h"

namespace tidepool::load {
namespace {

void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

// Signals are waited for, never handled: every thread has them blocked.
class SignalWaiter {
 public:
  SignalWaiter() {
    ::sigemptyset(&set_);
    for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) ::sigaddset(&set_, signal);
    ::pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }
  // The signal that came, or 0 after `limit`.
  int wait(std::chrono::nanoseconds limit) const {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit);
    const timespec time{.tv_sec = seconds.count(), .tv_nsec = (limit - seconds).count()};
    const int signal = ::sigtimedwait(&set_, nullptr, &time);
    return signal > 0 ? signal : 0;
  }
  // From here on a signal ends the process: for the final check, which may take long.
  void restore_defaults() const { ::pthread_sigmask(SIG_UNBLOCK, &set_, nullptr); }

 private:
  sigset_t set_{};
};

// Keeps this process's own memory small and recognisable: whoever adopts it means the workload's memory, not stacks and
// heaps.
void keep_bookkeeping_small() {
  ::mallopt(M_ARENA_MAX, 1);
  pthread_attr_t attributes;
  if (::pthread_attr_init(&attributes) == 0) {
    constexpr std::size_t kStack = 960 * 1024;
    ::pthread_attr_setstacksize(&attributes, kStack);
    ::pthread_setattr_default_np(&attributes);
    ::pthread_attr_destroy(&attributes);
  }
}

// Runs until a stop signal or until `limit` has passed (0: no limit); SIGUSR1 reports meanwhile. False when a stop
// signal came.
bool wait_for(std::chrono::nanoseconds limit, bool unlimited, const SignalWaiter& signals, Reporter& reporter) {
  const auto end = SteadyClock::now() + limit;
  constexpr std::chrono::nanoseconds kLongest = std::chrono::seconds(1);
  for (;;) {
    const auto left = unlimited ? kLongest : std::chrono::nanoseconds(end - SteadyClock::now());
    if (left.count() <= 0) return true;
    const int signal = signals.wait(std::min(left, kLongest));
    if (signal == SIGUSR1) print(reporter.interim());
    if (signal == SIGINT || signal == SIGTERM) return false;
  }
}

std::vector<std::jthread> start_threads(Run& run, const LoadOptions& options, int direct_file,
                                        std::vector<ThreadCounters>& counters) {
  std::vector<std::jthread> threads;
  const auto start = SteadyClock::now();
  const unsigned workers = run.settings.threads;
  for (unsigned t = 0; t < workers; ++t) {
    threads.emplace_back([&run, &counters, t, start] {
      if (run.settings.pattern.kind == PatternKind::kHammer) {
        run_hammer(run, t, counters[t]);
      } else {
        run_worker(run, t, start, counters[t]);
      }
    });
  }
  if (options.discard) threads.emplace_back([&run, &counters, workers] { run_discarder(run, counters[workers]); });
  if (direct_file >= 0) {
    threads.emplace_back(
        [&run, &counters, workers, direct_file] { run_direct_transfers(run, direct_file, counters[workers + 1]); });
  }
  return threads;
}

Result<int> run_load(const LoadOptions& options) {
  const SignalWaiter signals;
  auto memory = WorkloadMemory::create(options.memory);
  if (!memory) return Failure(memory.error());
  auto truth = TruthTable::create(memory->pages());
  if (!truth) return Failure(truth.error());
  UniqueFd direct_file;
  if (!options.run.direct_file.empty()) {
    auto opened = open_direct_file(options.run.direct_file, memory->pages());
    if (!opened) return Failure(opened.error());
    direct_file = std::move(*opened);
  }
  Run run(std::move(*memory), std::move(*truth), options.run);
  fill_all(run);
  const AddressRange range = run.memory.range();
  print(fmt::format("ready pid={} address={:#x}-{:#x} size={}\n", ::getpid(), range.start, range.end, range.size()));

  // Workers, the discarder, the direct transfers.
  std::vector<ThreadCounters> counters(options.run.threads + 2);
  Reporter reporter(options.output, run, counters);
  const bool go_on =
      options.hold_after_fill.count() == 0 || wait_for(options.hold_after_fill, false, signals, reporter);
  if (go_on) {
    reporter.work_started();
    std::vector<std::jthread> threads = start_threads(run, options, direct_file.get(), counters);
    wait_for(options.duration, options.duration.count() == 0, signals, reporter);
    run.stopping = true;
  }
  reporter.work_ended();
  run.stopping = false;  // the threads are gone; the final check honours the flag as well
  signals.restore_defaults();
  if (options.final_check) check_all(run, counters);
  print(reporter.final());
  return run.mismatches.count() == 0 ? 0 : kExitMismatch;
}

}  // namespace
}  // namespace tidepool::load

int main(int argc, char** argv) {
  using namespace tidepool::load;
  try {
    keep_bookkeeping_small();
    const ParsedCommandLine parsed = parse_command_line(argc, argv);
    if (parsed.exit_status) return *parsed.exit_status;
    const auto status = run_load(parsed.options);
    if (status) return *status;
    std::fprintf(stderr, "tidepool-load: %s\n", status.error().message().c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tidepool-load: %s\n", error.what());
  }
  return 1;
}
