// The price of one tick at 1 TiB: 524,288 regions of 1,000 VMs on one core. Not part of ctest: run
// build/release/bin/bench_policy on a quiet machine; figures and commands in docs/benchmarks.md.
#include <benchmark/benchmark.h>

#include <atomic>
#include <memory>
#include <vector>

#include "bench/load/random.h"
#include "policy/engine.h"

namespace tidepool::policy {
namespace {

constexpr std::uint32_t kVms = 1000;
constexpr std::uint32_t kRegionsPerVm = 524;
constexpr std::uint32_t kRegionsInAll = kVms * kRegionsPerVm;

struct Load {
  unsigned news_per_mille = 20;  // of the regions that are reported in a tick
  unsigned samples = 8192;       // of resident memory, per tick
  unsigned refaults = 2000;      // regions with refaults, per tick
  bool short_of_memory = false;  // the host is below its reserve: everybody gives
};

// A host whose VMs have some of their memory far, and whose snapshots look like those of a busy day.
class Host {
 public:
  explicit Host(const Load& load) : load_(load) {
    news_.resize(kVms);
    views_.resize(kVms);
    snapshot_.now = MonoTime{std::chrono::hours(1)};
    HostView& host = snapshot_.host;
    host.total = Bytes{1400ull << 30};
    host.available = load.short_of_memory ? Bytes{20ull << 30} : Bytes{400ull << 30};
    host.reserve = Bytes{64ull << 30};
    host.max_far = Bytes{700ull << 30};
    host.require_evacuable = false;
    host.tiers = {
        {.name = "kernel", .capacity = Bytes{100ull << 30}, .ratio = 0.35, .fault_cost = std::chrono::microseconds(5)},
        {.name = "pool", .capacity = Bytes{600ull << 30}, .ratio = 1, .host_dram = false}};
    for (std::uint32_t v = 0; v < kVms; ++v) {
      VmView vm;
      vm.id = VmId{v + 1};
      vm.mode = Mode::kActive;
      vm.partial = true;
      vm.promised = vm.resident = Bytes{std::uint64_t{kRegionsPerVm} << 21};
      vm.guarantee = Bytes{vm.promised.value / 2};
      vm.threads = 4;
      vm.fault_cost = std::chrono::microseconds(20);
      vm.min_cold_age = std::chrono::seconds(60);
      snapshot_.vms.push_back(vm);
    }
    tick(1000);
    for (int i = 0; i < 120; ++i) tick(load_.news_per_mille);
  }

  void prepare(unsigned news_per_mille) {
    snapshot_.now = snapshot_.now + std::chrono::seconds(1);
    for (std::uint32_t v = 0; v < kVms; ++v) {
      news_[v].clear();
      for (std::uint32_t r = 0; r < kRegionsPerVm; ++r) {
        if (random_.below(1000) >= news_per_mille) continue;
        const auto far = static_cast<std::uint16_t>(r % 4 == 0 ? 300 + random_.below(200) : 0);
        news_[v].push_back({r, static_cast<std::uint16_t>(kRegionPages - far), far, 0});
      }
      views_[v] = {0, PageCount{std::uint64_t{kRegionsPerVm} * kRegionPages}, news_[v]};
      snapshot_.vms[v].objects = std::span(&views_[v], 1);
    }
    samples_.clear();
    for (unsigned i = 0; i < load_.samples + load_.refaults; ++i) {
      AccessSample sample;
      // Trackers go through memory in order.
      const std::uint64_t n = (next_ += 1 + random_.below(16)) % kRegionsInAll;
      sample.object = {VmId{static_cast<std::uint32_t>(n / kRegionsPerVm) + 1}, 0};
      sample.far = i >= load_.samples;
      const std::uint64_t region = n % kRegionsPerVm;
      sample.pages = {PageIndex{region * kRegionPages}, kRegionPages};
      sample.until = snapshot_.now;
      sample.since = sample.until - std::chrono::seconds(1);
      sample.window = std::chrono::seconds(1);
      sample.watched = sample.far ? 300 : 2;
      sample.used =
          sample.far ? 1 + static_cast<std::uint32_t>(random_.below(4)) : random_.below(100) < 60 - region / 10;
      samples_.push_back(sample);
    }
    snapshot_.samples = samples_;
  }
  Plan decide() { return engine_.tick(snapshot_, config_); }
  void tick(unsigned news_per_mille) {
    prepare(news_per_mille);
    decide();
  }
  Bytes footprint() const { return engine_.footprint(); }
  std::size_t news() const {
    std::size_t count = 0;
    for (const auto& each : news_) count += each.size();
    return count;
  }

 private:
  Load load_;
  load::Random random_{1};
  std::uint64_t next_ = 0;
  Engine engine_;
  PolicyConfig config_;
  Snapshot snapshot_;
  std::vector<std::vector<RegionNews>> news_;
  std::vector<ObjectView> views_;
  std::vector<AccessSample> samples_;
};

void run(benchmark::State& state, const Load& load) {
  Host host(load);
  std::size_t moves = 0;
  for ([[maybe_unused]] auto _ : state) {
    state.PauseTiming();
    host.prepare(load.news_per_mille);
    state.ResumeTiming();
    Plan plan = host.decide();
    moves += plan.demotions.size() + plan.restores.size();
    benchmark::DoNotOptimize(plan);
  }
  const double tracked = static_cast<double>(kRegionsInAll) * (2 << 20);
  state.counters["MiB"] = static_cast<double>(host.footprint().value) / (1 << 20);
  state.counters["of_tracked_%"] = 100 * static_cast<double>(host.footprint().value) / tracked;
  state.counters["news"] = static_cast<double>(host.news());
  state.counters["moves"] = benchmark::Counter(static_cast<double>(moves), benchmark::Counter::kAvgIterations);
}

void BM_TickOneTiB(benchmark::State& state) {
  run(state, {});
}
void BM_TickOneTiBBusy(benchmark::State& state) {
  run(state, {.news_per_mille = 100, .samples = 20000, .refaults = 20000});
}
void BM_TickOneTiBUnderPressure(benchmark::State& state) {
  run(state, {.short_of_memory = true});
}
void BM_TickOneTiBEverythingReported(benchmark::State& state) {
  run(state, {.news_per_mille = 1000});
}
BENCHMARK(BM_TickOneTiB)->Unit(benchmark::kMillisecond)->Iterations(100);
BENCHMARK(BM_TickOneTiBBusy)->Unit(benchmark::kMillisecond)->Iterations(100);
BENCHMARK(BM_TickOneTiBUnderPressure)->Unit(benchmark::kMillisecond)->Iterations(100);
BENCHMARK(BM_TickOneTiBEverythingReported)->Unit(benchmark::kMillisecond)->Iterations(50);

// What the caller does to find the news: a pass over the pager's counters, beside what it reported last.
void BM_FindNewsOneTiB(benchmark::State& state) {
  struct Counters {
    std::atomic<std::uint16_t> resident{0};
    std::atomic<std::uint16_t> far{0};
    std::atomic<std::uint16_t> rest[6];
  };
  const auto counters = std::make_unique<Counters[]>(kRegionsInAll);
  std::vector<std::uint64_t> reported(kRegionsInAll, 0);
  load::Random random(1);
  std::vector<RegionNews> news;
  for ([[maybe_unused]] auto _ : state) {
    state.PauseTiming();
    for (int i = 0; i < 10000; ++i) ++counters[random.below(kRegionsInAll)].far;
    news.clear();
    state.ResumeTiming();
    for (std::uint32_t r = 0; r < kRegionsInAll; ++r) {
      const auto resident = counters[r].resident.load(std::memory_order_relaxed);
      const auto far = counters[r].far.load(std::memory_order_relaxed);
      const std::uint64_t now = resident | std::uint64_t{far} << 16;
      if (now == reported[r]) continue;
      reported[r] = now;
      news.push_back({r, resident, far, 0});
    }
    benchmark::DoNotOptimize(news.data());
  }
}
BENCHMARK(BM_FindNewsOneTiB)->Unit(benchmark::kMillisecond)->Iterations(100);

}  // namespace
}  // namespace tidepool::policy

BENCHMARK_MAIN();
