// What the pager costs, each figure beside its floor measured in the same run: first one, then the other, round after
// round, so that a busy moment of the machine hits both. Counters: medians over the rounds, `ratio` = pager over floor
// (durations: lower is better) or floor over pager (throughputs: higher is better).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "bench/pager/bare_handler.h"
#include "bench/pager/pager_rig.h"
#include "bench/pager/touching_process.h"
#include "bench/support/timing.h"

namespace tidepool::bench {
namespace {

constexpr std::uint64_t kFaultPages = 4096;
constexpr std::uint64_t kBulkPages = 32768;  // 128 MiB
constexpr std::int64_t kRounds = 15;

double microseconds_at(std::vector<std::chrono::nanoseconds>& latencies, double quantile) {
  const auto at = latencies.begin() + static_cast<std::ptrdiff_t>(quantile * static_cast<double>(latencies.size() - 1));
  std::nth_element(latencies.begin(), at, latencies.end());
  return static_cast<double>(at->count()) / 1e3;
}

double mean_microseconds(const std::vector<Nanoseconds>& latencies) {
  const Nanoseconds sum = std::accumulate(latencies.begin(), latencies.end(), Nanoseconds{0});
  return static_cast<double>(sum.count()) / 1e3 / static_cast<double>(latencies.size());
}

void guarded(benchmark::State& state, const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}

// Arguments: faulting threads, 1 spinning or 0 sleeping, 1 guest RAM or 0 any program's memory.
void fault_in(benchmark::State& state) {
  guarded(state, [&] {
    const auto threads = static_cast<unsigned>(state.range(0));
    const bool spinning = state.range(1) == 1;
    TouchingProcess bare_process(kFaultPages, threads);
    TouchingProcess paged_process(kFaultPages, threads);
    BareHandler bare(bare_process);
    PagerRig pager(paged_process, spinning ? 1.0 : 0.0, state.range(2) == 1);
    const auto floor_round = [&] {
      bare.drop_all();
      bare.start(spinning);
      auto latencies = bare_process.touch_all();
      bare.stop();
      return latencies;
    };
    const auto pager_round = [&] {
      pager.demote_all();
      return paged_process.touch_all();
    };
    floor_round();
    pager_round();
    std::vector<double> floors, pagers, ratios, floors99, pagers99, mean_ratios;
    for ([[maybe_unused]] auto _ : state) {
      auto floor = floor_round();
      auto paged = pager_round();
      floors.push_back(microseconds_at(floor, 0.5));
      pagers.push_back(microseconds_at(paged, 0.5));
      floors99.push_back(microseconds_at(floor, 0.99));
      pagers99.push_back(microseconds_at(paged, 0.99));
      ratios.push_back(pagers.back() / floors.back());
      mean_ratios.push_back(mean_microseconds(paged) / mean_microseconds(floor));
      state.SetIterationTime(pagers.back() / 1e6);
    }
    if (!bare_process.contents_right() || !paged_process.contents_right()) return state.SkipWithError("wrong contents");
    state.counters["pager_p50_us"] = median(pagers);
    state.counters["floor_p50_us"] = median(floors);
    state.counters["pager_p99_us"] = median(pagers99);
    state.counters["floor_p99_us"] = median(floors99);
    state.counters["ratio"] = median(ratios);
    state.counters["mean_ratio"] = median(mean_ratios);
    state.counters["faults"] = static_cast<double>(pager.vm().counters.faults_far.load());
  });
}
BENCHMARK(fault_in)
    ->ArgNames({"threads", "spinning", "guest"})
    ->ArgsProduct({{1, 4}, {1, 0}, {1, 0}})
    ->Iterations(kRounds)
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

void report(const AgainstFloor& figures, benchmark::State& state) {
  const double gib = static_cast<double>(kBulkPages * kPageSize) / static_cast<double>(1ull << 30);
  state.counters["pager_GiBps"] = gib / figures.seconds();
  state.counters["floor_GiBps"] = gib / figures.floor_seconds();
  state.counters["ratio"] = figures.ratio();
  state.counters["cpu_ratio"] = figures.cpu_ratio();
}

// Argument: 1 when pages go into memory that has to be got from the host first, 0 into memory that held others before.
void bulk(benchmark::State& state, bool demotion) {
  guarded(state, [&] {
    TouchingProcess bare_process(kBulkPages, 1);
    TouchingProcess paged_process(kBulkPages, 1);
    BareHandler bare(bare_process);
    PagerRig pager(paged_process, 0.1);
    const bool fresh = state.range(0) == 1;
    AgainstFloor demoted, restored;
    const auto round = [&](AgainstFloor* out, AgainstFloor* in) {
      if (fresh && out != nullptr) {
        bare.forget_copies();
        pager.return_pool_memory();
      }
      const Spent bare_out = spent_on([&] { bare.demote_in_batches(); });
      const Spent bare_in = spent_on([&] { bare.restore_in_batches(); });
      const Spent paged_out = spent_on([&] { pager.demote_all(); });
      const Spent paged_in = spent_on([&] { pager.restore_all(); });
      if (out != nullptr) out->add(bare_out, paged_out);
      if (in != nullptr) in->add(bare_in, paged_in);
    };
    round(nullptr, nullptr);
    for ([[maybe_unused]] auto _ : state) {
      round(&demoted, &restored);
      state.SetIterationTime((demotion ? demoted : restored).last_seconds());
    }
    bare_process.touch_all();
    paged_process.touch_all();
    if (!bare_process.contents_right() || !paged_process.contents_right()) return state.SkipWithError("wrong contents");
    report(demotion ? demoted : restored, state);
  });
}
void demotion(benchmark::State& state) {
  bulk(state, true);
}
void bulk_restore(benchmark::State& state) {
  bulk(state, false);
}
BENCHMARK(demotion)->ArgName("fresh")->Arg(0)->Arg(1)->Iterations(kRounds)->UseManualTime()->Unit(
    benchmark::kMillisecond);
BENCHMARK(bulk_restore)->ArgName("fresh")->Arg(0)->Iterations(kRounds)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tidepool::bench

BENCHMARK_MAIN();
