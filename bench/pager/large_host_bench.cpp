// A large host, simulated: 1,000 VMs and 1 TiB of guest memory, every page of it touched and known. The kernel and the
// stored pages are left out; what remains is what the pager itself does for a fault and a demotion, and a round of
// policy reads.
#include <benchmark/benchmark.h>

#include <chrono>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "base/mapping.h"
#include "bench/support/timing.h"
#include "daemon/pager/page_map.h"
#include "daemon/pager/paged_vm.h"

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
    for ([[maybe_unused]] auto _ : state) {
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

// Where a VM has its memory: two segments, as QEMU has RAM below and above 4 GiB.
struct SimulatedVm {
  std::unique_ptr<daemon::MemoryObject> object;
  daemon::SegmentTable segments;

  SimulatedVm(std::unique_ptr<PageMap> map, std::uint64_t number) : object(std::make_unique<daemon::MemoryObject>()) {
    object->map = std::move(map);
    const std::uint64_t base = (number + 1) << 40;
    constexpr std::uint64_t kSplit = kPagesPerVm / 2;
    const std::uint64_t middle = base + (kSplit << kPageShift);
    segments =
        daemon::SegmentTable{{{{base, middle}, object.get(), PageIndex{0}, 0},
                              {{middle + (1ull << 32), middle + (1ull << 32) + ((kPagesPerVm - kSplit) << kPageShift)},
                               object.get(),
                               PageIndex{kSplit},
                               0}}};
  }
};

struct RandomPage {
  std::uint32_t vm;
  std::uint32_t page;
};

std::vector<RandomPage> random_far_pages(std::size_t count) {
  std::mt19937_64 random(11);
  std::vector<RandomPage> pages;
  while (pages.size() < count) {
    const RandomPage page{static_cast<std::uint32_t>(random() % kVms),
                          static_cast<std::uint32_t>(random() % kPagesPerVm)};
    if (page.page / 64 % 3 == 0) pages.push_back(page);
  }
  return pages;
}

double ns_each(const std::vector<RandomPage>& pages, const std::function<void(RandomPage)>& what) {
  const auto before = std::chrono::steady_clock::now();
  for (const RandomPage page : pages) what(page);
  return in_seconds(std::chrono::steady_clock::now() - before) * 1e9 / static_cast<double>(pages.size());
}

// The map's part in a fault on a far page and in its demotion, anywhere in 1 TiB: nothing is in any cache. Floor: one
// access to a word anywhere in as much memory as the maps take.
void simulated_faults(benchmark::State& state) {
  try {
    SimulatedHost host;
    std::vector<SimulatedVm> vms;
    for (auto& map : host.maps) vms.emplace_back(std::move(map), vms.size());
    const std::vector<RandomPage> pages = random_far_pages(1 << 20);
    std::vector<double> faults, demotions, floors;
    std::uint64_t sum = 0;
    for ([[maybe_unused]] auto _ : state) {
      floors.push_back(
          ns_each(pages, [&](RandomPage at) { sum += vms[at.vm].object->map->load(PageIndex{at.page}).raw(); }));
      faults.push_back(ns_each(pages, [&](RandomPage at) {
        const std::uint64_t half = at.page < kPagesPerVm / 2 ? 0 : 1ull << 32;
        const std::uint64_t address = ((at.vm + 1ull) << 40) + half + (std::uint64_t{at.page} << kPageShift);
        const daemon::Segment* const segment = vms[at.vm].segments.at(address);
        PageMap& map = *segment->object->map;
        const PageIndex page = segment->page_at(address);
        PageEntry entry = map.load(page);
        if (entry.state() != PageState::kFar) return;  // a page that was drawn twice
        PageEntry fetching = entry.with_state(PageState::kFetching);
        map.exchange(page, entry, fetching);
        map.exchange(page, fetching, PageEntry::plain(PageState::kResident));
        daemon::increment_saturating(map.region(PageMap::region_of(page)).refaults);
      }));
      demotions.push_back(ns_each(pages, [&](RandomPage at) {
        PageMap& map = *vms[at.vm].object->map;
        const PageIndex page{at.page};
        PageEntry entry = map.load(page);
        if (entry.state() != PageState::kResident) return;
        PageEntry demoting = PageEntry::demoting(7, 0);
        map.exchange(page, entry, demoting);
        PageEntry dropping = PageEntry::stored(PageState::kDropping, pool::Location{at.page});
        map.exchange(page, demoting, dropping);
        map.exchange(page, dropping, PageEntry::stored(PageState::kFar, pool::Location{at.page}));
      }));
      state.SetIterationTime(faults.back() * static_cast<double>(pages.size()) / 1e9);
    }
    benchmark::DoNotOptimize(sum);
    state.counters["fault_ns"] = median(faults);
    state.counters["demotion_ns"] = median(demotions);
    state.counters["floor_ns"] = median(floors);
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}
BENCHMARK(simulated_faults)->Iterations(5)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tidepool::bench
