// A far page at a memory server, touched by another process: all that the agent does, and the server. Beside what it
// cannot do without, in the same run: the same fault out of the mapped store, and 4 KiB sent back once over the same
// transport.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <vector>

#include "bench/pager/pager_rig.h"
#include "bench/pool/echo_process.h"
#include "bench/pool/served_store.h"
#include "bench/support/timing.h"

namespace tidepool::bench {
namespace {

constexpr std::uint64_t kPages = 4096;
constexpr int kEchoes = 2000;  // of a round
constexpr std::int64_t kRounds = 11;
constexpr int kPort = 17394;

double microseconds_at(std::vector<std::chrono::nanoseconds> latencies, double quantile) {
  const auto at = latencies.begin() + static_cast<std::ptrdiff_t>(quantile * static_cast<double>(latencies.size() - 1));
  std::nth_element(latencies.begin(), at, latencies.end());
  return std::chrono::duration<double, std::micro>(*at).count();
}

// Everybody sleeps until there is something to do: two pagers that poll would have both processors of a small machine.
// Argument: 1 TCP, 0 unix socket, 2 unix socket with a server that hands its memory over.
void fault_in_from_server(benchmark::State& state) {
  try {
    const bool tcp = state.range(0) == 1;
    const bool in_place = state.range(0) == 2;
    EchoProcess echo(tcp);
    TouchingProcess near_process(kPages, 1);
    TouchingProcess far_process(kPages, 1);
    ServedStore served(tcp ? kPort : 0, in_place);
    PagerRig near(near_process, 0);
    PagerRig far(far_process, 0, true, served.store());
    const auto echoes = [&] {
      std::vector<std::chrono::nanoseconds> latencies;
      for (int i = 0; i < kEchoes; ++i) {
        const auto before = std::chrono::steady_clock::now();
        echo.round_trip(false);
        latencies.push_back(std::chrono::steady_clock::now() - before);
      }
      return latencies;
    };
    const auto faults = [](PagerRig& rig, TouchingProcess& process) {
      rig.demote_all();
      return process.touch_all();
    };
    echoes();
    faults(near, near_process);
    faults(far, far_process);
    std::vector<double> trips, nears, fars, fars99, more;
    for ([[maybe_unused]] auto _ : state) {
      trips.push_back(microseconds_at(echoes(), 0.5));
      nears.push_back(microseconds_at(faults(near, near_process), 0.5));
      const auto latencies = faults(far, far_process);
      fars.push_back(microseconds_at(latencies, 0.5));
      fars99.push_back(microseconds_at(latencies, 0.99));
      more.push_back(fars.back() - nears.back() - trips.back());
      state.SetIterationTime(fars.back() / 1e6);
    }
    if (!near_process.contents_right() || !far_process.contents_right()) return state.SkipWithError("wrong contents");
    state.counters["fault_p50_us"] = median(fars);
    state.counters["fault_p99_us"] = median(fars99);
    state.counters["mapped_fault_p50_us"] = median(nears);
    state.counters["echo_p50_us"] = median(trips);
    state.counters["more_us"] = median(more);
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}
BENCHMARK(fault_in_from_server)
    ->ArgName("way")
    ->Arg(0)
    ->Arg(1)
    ->Arg(2)
    ->Iterations(kRounds)
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tidepool::bench
