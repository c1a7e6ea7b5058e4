// The controller's core at 10,000 VMs, 1,000 servers and 100,000 leases, on one core. Not part of ctest: run
// build/release/bin/bench_controller on a quiet machine; figures and commands in docs/benchmarks.md.
#include <benchmark/benchmark.h>

#include "bench/controller/large_pool.h"

namespace tidepool::pool::controller {
namespace {

LargePool& full_pool() {
  static LargePool pool{LargePoolShape{}};
  static const bool filled = (pool.fill(10), true);
  benchmark::DoNotOptimize(filled);
  return pool;
}

// Shares of everybody, and who gives back.
void allocation_round(benchmark::State& state) {
  LargePool& pool = full_pool();
  for ([[maybe_unused]] auto _ : state) pool.distribute();
}

void load_of_100000_leases(benchmark::State& state) {
  LargePool& pool = full_pool();
  for ([[maybe_unused]] auto _ : state) {
    const auto core = load(pool.records(), pool.config(), pool.context());
    if (core == nullptr) state.SkipWithError("the records were refused");
  }
  state.counters["records"] = static_cast<double>(pool.records().size());
}

// A tick without anything to do but the round.
void tick_with_round(benchmark::State& state) {
  LargePool& pool = full_pool();
  for ([[maybe_unused]] auto _ : state) {
    pool.advance(std::chrono::milliseconds(1000));
    pool.tick();
  }
}

void renewal_of_100_leases(benchmark::State& state) {
  LargePool& pool = full_pool();
  unsigned host = 0;
  for ([[maybe_unused]] auto _ : state) benchmark::DoNotOptimize(pool.renew(host++ % 1000));
}

BENCHMARK(allocation_round)->Unit(benchmark::kMillisecond);
BENCHMARK(tick_with_round)->Unit(benchmark::kMillisecond);
BENCHMARK(renewal_of_100_leases)->Unit(benchmark::kMicrosecond);
BENCHMARK(load_of_100000_leases)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tidepool::pool::controller

BENCHMARK_MAIN();
