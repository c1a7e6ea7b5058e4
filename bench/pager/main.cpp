// What the pager costs, each figure beside its floor measured in the same run: first one, then the other, round after
// round, so that a busy moment of the machine hits both. Counters: medians over the rounds, `ratio` = pager over floor
// (durations: lower is better) or floor over pager (throughputs: higher is better).
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench/pager/bare_handler.h"
#include "bench/pager/pager_rig.h"
#include "bench/pager/touching_process.h"

namespace tidepool::bench {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr std::uint64_t kFaultPages = 4096;
constexpr std::uint64_t kBulkPages = 32768;  // 128 MiB
constexpr std::int64_t kRounds = 15;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double microseconds_at(std::vector<std::chrono::nanoseconds>& latencies, double quantile) {
  const auto at = latencies.begin() + static_cast<std::ptrdiff_t>(quantile * static_cast<double>(latencies.size() - 1));
  std::nth_element(latencies.begin(), at, latencies.end());
  return static_cast<double>(at->count()) / 1e3;
}

Seconds cpu_time() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

struct Spent {
  double seconds = 0;
  double cpu_seconds = 0;  // of this process: on a busy machine the steadier figure
};

Spent spent_on(const std::function<void()>& work) {
  const Seconds cpu_before = cpu_time();
  const auto before = std::chrono::steady_clock::now();
  work();
  const double elapsed = Seconds(std::chrono::steady_clock::now() - before).count();
  return {elapsed, (cpu_time() - cpu_before).count()};
}

double seconds_of(const std::function<void()>& work) {
  const auto before = std::chrono::steady_clock::now();
  work();
  return Seconds(std::chrono::steady_clock::now() - before).count();
}

void guarded(benchmark::State& state, const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}

// Arguments: faulting threads, 1 spinning or 0 sleeping.
void fault_in(benchmark::State& state) {
  guarded(state, [&] {
    const auto threads = static_cast<unsigned>(state.range(0));
    const bool spinning = state.range(1) == 1;
    TouchingProcess bare_process(kFaultPages, threads);
    TouchingProcess paged_process(kFaultPages, threads);
    BareHandler bare(bare_process);
    PagerRig pager(paged_process, spinning ? 1.0 : 0.0);
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
    std::vector<double> floors, pagers, ratios, floors99, pagers99;
    for (auto _ : state) {
      auto floor = floor_round();
      auto paged = pager_round();
      floors.push_back(microseconds_at(floor, 0.5));
      pagers.push_back(microseconds_at(paged, 0.5));
      floors99.push_back(microseconds_at(floor, 0.99));
      pagers99.push_back(microseconds_at(paged, 0.99));
      ratios.push_back(pagers.back() / floors.back());
      state.SetIterationTime(pagers.back() / 1e6);
    }
    if (!bare_process.contents_right() || !paged_process.contents_right()) return state.SkipWithError("wrong contents");
    state.counters["pager_p50_us"] = median(pagers);
    state.counters["floor_p50_us"] = median(floors);
    state.counters["pager_p99_us"] = median(pagers99);
    state.counters["floor_p99_us"] = median(floors99);
    state.counters["ratio"] = median(ratios);
    state.counters["faults"] = static_cast<double>(pager.vm().counters.faults_far.load());
  });
}
BENCHMARK(fault_in)
    ->ArgNames({"threads", "spinning"})
    ->ArgsProduct({{1, 4}, {1, 0}})
    ->Iterations(kRounds)
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

struct BulkFigures {
  std::vector<double> floors, pagers, ratios, cpu_ratios;
  void add(Spent floor, Spent paged) {
    floors.push_back(floor.seconds);
    pagers.push_back(paged.seconds);
    ratios.push_back(floor.seconds / paged.seconds);
    cpu_ratios.push_back(floor.cpu_seconds / paged.cpu_seconds);
  }
  void report(benchmark::State& state) const {
    const double gib = static_cast<double>(kBulkPages * kPageSize) / static_cast<double>(1ull << 30);
    state.counters["pager_GiBps"] = gib / median(pagers);
    state.counters["floor_GiBps"] = gib / median(floors);
    state.counters["ratio"] = median(ratios);
    state.counters["cpu_ratio"] = median(cpu_ratios);
  }
};

void bulk(benchmark::State& state, bool demotion) {
  guarded(state, [&] {
    TouchingProcess bare_process(kBulkPages, 1);
    TouchingProcess paged_process(kBulkPages, 1);
    BareHandler bare(bare_process);
    PagerRig pager(paged_process, 0.1);
    BulkFigures demoted, restored;
    const auto round = [&](BulkFigures* out, BulkFigures* in) {
      const Spent bare_out = spent_on([&] { bare.demote_in_batches(); });
      const Spent bare_in = spent_on([&] { bare.restore_in_batches(); });
      const Spent paged_out = spent_on([&] { pager.demote_all(); });
      const Spent paged_in = spent_on([&] { pager.restore_all(); });
      if (out != nullptr) out->add(bare_out, paged_out);
      if (in != nullptr) in->add(bare_in, paged_in);
    };
    round(nullptr, nullptr);
    for (auto _ : state) {
      round(&demoted, &restored);
      state.SetIterationTime(demotion ? demoted.pagers.back() : restored.pagers.back());
    }
    bare_process.touch_all();
    paged_process.touch_all();
    if (!bare_process.contents_right() || !paged_process.contents_right()) return state.SkipWithError("wrong contents");
    (demotion ? demoted : restored).report(state);
  });
}
void demotion(benchmark::State& state) {
  bulk(state, true);
}
void bulk_restore(benchmark::State& state) {
  bulk(state, false);
}
BENCHMARK(demotion)->Iterations(kRounds)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(bulk_restore)->Iterations(kRounds)->UseManualTime()->Unit(benchmark::kMillisecond);

// The pager's threads while a VM of 16 GiB does nothing. The floor is this process asleep without a pager.
void idle_cpu(benchmark::State& state) {
  guarded(state, [&] {
    constexpr std::uint64_t kPages = (16ull << 30) / kPageSize;
    constexpr auto kSpell = std::chrono::seconds(5);
    const auto spell = [&] {
      const Seconds before = cpu_time();
      const double elapsed = seconds_of([&] { std::this_thread::sleep_for(kSpell); });
      return 100 * (cpu_time() - before).count() / elapsed;
    };
    std::vector<double> floors, pagers;
    for (auto _ : state) {
      floors.push_back(spell());
      TouchingProcess process(kPages, 1, false);
      PagerRig pager(process, 0.1);
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      pagers.push_back(spell());
      state.SetIterationTime(Seconds(kSpell).count());
    }
    state.counters["pager_cpu_percent"] = median(pagers);
    state.counters["floor_cpu_percent"] = median(floors);
  });
}
BENCHMARK(idle_cpu)->Iterations(3)->UseManualTime()->Unit(benchmark::kSecond);

}  // namespace
}  // namespace tidepool::bench

BENCHMARK_MAIN();
