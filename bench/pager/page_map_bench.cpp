// The page map at the size of a large host: 1,000 VMs and 1 TiB of guest memory, every page of it touched and known.
#include <benchmark/benchmark.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <vector>

#include "base/mapping.h"
#include "daemon/pager/page_map.h"

namespace tidepool::bench {
namespace {

using daemon::PageEntry;
using daemon::PageMap;
using daemon::PageState;

constexpr std::uint64_t kVms = 1000;
constexpr std::uint64_t kPagesPerVm = (1ull << 40) / kPageSize / kVms / kPagesPerHugePage * kPagesPerHugePage;

struct SimulatedHost {
  std::vector<std::unique_ptr<PageMap>> maps;
  double fill_ns_per_page = 0;

  SimulatedHost() {
    const auto before = std::chrono::steady_clock::now();
    for (std::uint64_t vm = 0; vm < kVms; ++vm) {
      auto map = PageMap::create("bench-pages", PageCount{kPagesPerVm}, true);
      if (!map) throw std::runtime_error(map.error().message());
      if (const auto first = (*map)->append(PageCount{kPagesPerVm}, 0); !first)
        throw std::runtime_error(first.error().message());
      for (std::uint64_t page = 0; page < kPagesPerVm; ++page) {
        PageEntry expected = PageEntry::plain(PageState::kUntouched);
        // A third is far, in runs: coldness has locality.
        const bool far = page / 64 % 3 == 0;
        const PageEntry entry =
            far ? PageEntry::stored(PageState::kFar, pool::Location{page}) : PageEntry::plain(PageState::kResident);
        (*map)->exchange(PageIndex{page}, expected, entry);
      }
      maps.push_back(std::move(*map));
    }
    const double ns = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - before).count();
    fill_ns_per_page = ns / static_cast<double>(kVms * kPagesPerVm);
  }
};

double in_seconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

// Every entry of every map is read and sorted by state. Floor: the same number of bytes of ordinary memory, summed up.
std::uint64_t walk_entries(const SimulatedHost& host) {
  std::uint64_t far = 0;
  for (const auto& map : host.maps) {
    for (std::uint64_t page = 0; page < kPagesPerVm; ++page)
      far += map->load(PageIndex{page}).state() == PageState::kFar ? 1 : 0;
  }
  return far;
}

// What a policy tick reads: 16 bytes per 2 MiB.
std::uint64_t walk_regions(SimulatedHost& host) {
  std::uint64_t far = 0;
  for (const auto& map : host.maps) {
    for (std::uint64_t region = 0; region < map->regions(); ++region)
      far += map->region(region).far.load(std::memory_order_relaxed);
  }
  return far;
}

void page_map_walk(benchmark::State& state) {
  try {
    SimulatedHost host;
    Bytes footprint;
    for (const auto& map : host.maps) footprint += map->footprint();
    constexpr std::uint64_t kPlainWords =
        kPagesPerVm * 100;  // a tenth: twice 2 GiB of memory would measure the machine's patience
    auto plain = Mapping::anonymous(Bytes{kPlainWords * 8});
    if (!plain) throw std::runtime_error(plain.error().message());
    std::fill_n(reinterpret_cast<std::uint64_t*>(plain->data()), kPlainWords, 1);
    double entries = 0, regions = 0, floor = 0;
    std::uint64_t far = 0;
    for (auto _ : state) {
      const auto start = std::chrono::steady_clock::now();
      far = walk_entries(host);
      const auto walked = std::chrono::steady_clock::now();
      const std::uint64_t counted = walk_regions(host);
      const auto regions_walked = std::chrono::steady_clock::now();
      std::uint64_t sum = 0;
      const auto* const words = reinterpret_cast<const volatile std::uint64_t*>(plain->data());
      for (std::uint64_t i = 0; i < kPlainWords; ++i) sum += words[i];
      const auto summed = std::chrono::steady_clock::now();
      benchmark::DoNotOptimize(sum);
      if (far != counted) throw std::runtime_error("the regions' counters disagree with the entries");
      entries += in_seconds(walked - start);
      regions += in_seconds(regions_walked - walked);
      floor += in_seconds(summed - regions_walked);
      state.SetIterationTime(in_seconds(walked - start));
    }
    const auto rounds = static_cast<double>(state.iterations());
    const double pages = static_cast<double>(kVms * kPagesPerVm);
    state.counters["footprint_MiB"] = static_cast<double>(footprint.value) / (1 << 20);
    state.counters["footprint_percent"] = 100 * static_cast<double>(footprint.value) / (pages * kPageSize);
    state.counters["change_ns_per_page"] = host.fill_ns_per_page;
    state.counters["walk_ns_per_page"] = entries / rounds / pages * 1e9;
    state.counters["floor_ns_per_page"] = floor / rounds / static_cast<double>(kPlainWords) * 1e9;
    state.counters["regions_walk_ms"] = regions / rounds * 1e3;
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}
BENCHMARK(page_map_walk)->Iterations(3)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tidepool::bench
