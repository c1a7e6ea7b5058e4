// tidepool-load: fill, announce, work, check, report.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <thread>

#include "bench/load/foreground.h"
#include "bench/load/handoff_client.h"
#include "bench/load/load_options.h"
#include "bench/load/workers.h"

namespace tidepool::load {
namespace {

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
  HandedOff handed;
  if (!options.handoff_socket.empty()) {
    auto done = hand_off(*memory, options.handoff_socket);
    if (!done) return Failure(done.error());
    handed = std::move(*done);
    print(fmt::format("handed off vm={}\n", handed.vm));
  }
  Run run(std::move(*memory), std::move(*truth), options.run);
  if (!options.run.access_counts.empty()) {
    auto counts = AccessCounts::create(options.run.access_counts, run.memory.pages());
    if (!counts) return Failure(counts.error());
    run.counts = std::move(*counts);
  }
  fill_all(run);
  const AddressRange range = run.memory.range();
  print(fmt::format("ready pid={} address={:#x}-{:#x} size={}\n", ::getpid(), range.start, range.end, range.size()));

  // Workers, the discarder, the direct transfers.
  std::vector<ThreadCounters> counters(options.run.threads + 2);
  Reporter reporter(options.output, run.mismatches, counters);
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
