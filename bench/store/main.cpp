// What the page stores cost beside what they are made of: bare LZ4 for the compressed store, memcpy for the mapped one,
// over the same pages. And what they cost in memory: bookkeeping for each page, compaction for each page it moves.
#include <benchmark/benchmark.h>
#include <lz4.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/mapping.h"
#include "bench/load/page_content.h"
#include "bench/support/timing.h"
#include "pool/store/compressed_store.h"
#include "pool/store/crc32c.h"
#include "pool/store/mapped_store.h"

namespace tidepool::bench {
namespace {

using namespace literals;
using pool::PageStatus;

constexpr std::uint64_t kPages = 8192;  // 32 MiB for each thread
constexpr std::size_t kBatch = 512;
constexpr std::int64_t kRounds = 15;

template <class T>
T value_of(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message());
  return std::move(*result);
}

Mapping memory(std::uint64_t pages) {
  Mapping mapping = value_of(Mapping::anonymous(Bytes{pages * kPageSize}));
  std::memset(mapping.data(), 1, mapping.size());
  return mapping;
}

// Pages that compress 2:1 to 4:1, as the workload makes them.
Mapping compressible_pages(std::uint64_t seed) {
  Mapping pages = memory(kPages);
  const load::PageContent content(seed);
  std::uint64_t address = 0;
  for (std::uint64_t page = 0; page < kPages; ++page, address += kPageSize) {
    while (content.kind_of(address, 1) != load::PageKind::kCompressible) address += kPageSize;
    content.write(pages.data() + page * kPageSize, address, 1);
  }
  return pages;
}

std::unique_ptr<pool::EmbeddedStore> make_store(bool compressed) {
  return value_of(compressed ? pool::create_compressed_store({.capacity = 1_GiB})
                             : pool::create_mapped_store({.capacity = 1_GiB, .most_unreturned = 1_GiB}));
}

// One thread's pages, on their way through a store and through its floor.
class Lane {
 public:
  explicit Lane(std::uint64_t seed) : pages_(compressible_pages(seed)), out_(memory(kPages)), back_(memory(kPages)) {
    locations_.resize(kPages);
    sizes_.resize(kPages);
  }

  // With the calls that the store makes: the ones that need no memory of 16 KiB to be cleared for each page.
  void compress_bare() {
    LZ4_stream_t stream;
    LZ4_initStream(&stream, sizeof stream);
    for (std::uint64_t page = 0; page < kPages; ++page) {
      LZ4_resetStream_fast(&stream);
      sizes_[page] =
          LZ4_compress_fast_continue(&stream, chars(pages_, page), chars(out_, page), kPageSize, kPageSize, 1);
    }
  }
  void decompress_bare() {
    for (std::uint64_t page = 0; page < kPages; ++page)
      if (LZ4_decompress_safe(chars(out_, page), chars(back_, page), sizes_[page], kPageSize) != kPageSize) wrong();
  }
  void copy_out_bare() { std::memcpy(out_.data(), pages_.data(), pages_.size()); }
  void copy_back_bare() { std::memcpy(back_.data(), out_.data(), out_.size()); }

  void write(pool::PageStore& store) {
    std::vector<pool::WriteItem> items(kBatch);
    for (std::uint64_t first = 0; first < kPages; first += kBatch) {
      std::fill(items.begin(), items.end(), pool::WriteItem{});
      store.stage(items);
      for (std::size_t i = 0; i < kBatch; ++i) {
        std::byte* const page = pages_.data() + (first + i) * kPageSize;
        if (items[i].buffer == nullptr) {
          items[i].buffer = page;
        } else {
          std::memcpy(items[i].buffer, page, kPageSize);
        }
      }
      pool::WriteBatch batch{items, pool::Priority::kWriteBack, {}};
      store.submit_write(batch);
      for (std::size_t i = 0; i < kBatch; ++i) {
        if (items[i].status != PageStatus::kOk) wrong();
        locations_[first + i] = items[i].location;
      }
    }
  }
  // The mapped store shows its memory, and the pager hands that to the kernel: here it is copied, as in the floor.
  void read(pool::PageStore& store) {
    std::vector<pool::ReadItem> items(kBatch);
    for (std::uint64_t first = 0; first < kPages; first += kBatch) {
      for (std::size_t i = 0; i < kBatch; ++i)
        items[i] = {.location = locations_[first + i], .buffer = back_.data() + (first + i) * kPageSize};
      pool::ReadBatch batch{items, pool::Priority::kDemand, {}};
      store.submit_read(batch);
      for (const pool::ReadItem& item : items) {
        if (item.status != PageStatus::kOk) wrong();
        if (item.page != item.buffer) std::memcpy(item.buffer, item.page, kPageSize);
      }
    }
  }
  void release(pool::PageStore& store) { store.release(locations_); }
  const std::vector<pool::Location>& locations() const { return locations_; }
  void check() const {
    if (std::memcmp(pages_.data(), back_.data(), pages_.size()) != 0) wrong();
  }

 private:
  [[noreturn]] static void wrong() { throw std::runtime_error("a page did not come back as it went"); }
  static char* chars(const Mapping& mapping, std::uint64_t page) {
    return reinterpret_cast<char*>(mapping.data()) + page * kPageSize;
  }

  Mapping pages_;
  Mapping out_;
  Mapping back_;
  std::vector<pool::Location> locations_;
  std::vector<int> sizes_;
};

Spent in_all(std::vector<std::unique_ptr<Lane>>& lanes, const std::function<void(Lane&)>& work) {
  return spent_on([&] {
    std::vector<std::jthread> threads;
    for (std::size_t i = 1; i < lanes.size(); ++i) threads.emplace_back([&, i] { work(*lanes[i]); });
    work(*lanes[0]);
  });
}

// Arguments: 1 compressed or 0 mapped, threads, 1 writing or 0 reading.
void store_throughput(benchmark::State& state) {
  try {
    const bool compressed = state.range(0) == 1;
    const bool writing = state.range(2) == 1;
    const auto store = make_store(compressed);
    std::vector<std::unique_ptr<Lane>> lanes;
    for (std::int64_t i = 0; i < state.range(1); ++i)
      lanes.push_back(std::make_unique<Lane>(static_cast<std::uint64_t>(i) + 1));
    AgainstFloor written, read;
    const auto round = [&] {
      const Spent out = in_all(lanes, [&](Lane& lane) { compressed ? lane.compress_bare() : lane.copy_out_bare(); });
      const Spent write = in_all(lanes, [&](Lane& lane) { lane.write(*store); });
      const Spent back =
          in_all(lanes, [&](Lane& lane) { compressed ? lane.decompress_bare() : lane.copy_back_bare(); });
      const Spent got = in_all(lanes, [&](Lane& lane) { lane.read(*store); });
      written.add(out, write);
      read.add(back, got);
      for (const auto& lane : lanes) lane->check();
    };
    const auto release = [&] { in_all(lanes, [&](Lane& lane) { lane.release(*store); }); };
    round();
    release();
    written = read = {};
    const Bytes fixed = make_store(compressed)->usage().metadata;
    state.counters["fixed_bookkeeping_KiB"] = static_cast<double>(fixed.value) / 1024;
    for ([[maybe_unused]] auto _ : state) {
      round();
      const pool::StoreUsage usage = store->usage();
      state.counters["bookkeeping_bytes_per_page"] =
          static_cast<double>((usage.metadata - fixed).value) / static_cast<double>(usage.pages.value);
      state.counters["stored_percent"] =
          100 * static_cast<double>(usage.used.value) / static_cast<double>(to_bytes(usage.pages).value);
      release();
      state.SetIterationTime((writing ? written : read).last_seconds());
    }
    const AgainstFloor& figures = writing ? written : read;
    const double gib = static_cast<double>(lanes.size() * kPages * kPageSize) / static_cast<double>(1ull << 30);
    state.counters["store_GiBps"] = gib / figures.seconds();
    state.counters["floor_GiBps"] = gib / figures.floor_seconds();
    state.counters["ratio"] = figures.ratio();
    state.counters["cpu_ratio"] = figures.cpu_ratio();
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}
BENCHMARK(store_throughput)
    ->ArgNames({"compressed", "threads", "writing"})
    ->ArgsProduct({{1, 0}, {1, 4}, {1, 0}})
    ->Iterations(kRounds)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

// Every other page goes, at random; then the store gives back what it can.
void compaction(benchmark::State& state) {
  try {
    std::vector<double> per_page, given_back;
    for ([[maybe_unused]] auto _ : state) {
      const auto store = make_store(true);
      Lane lane(1);
      lane.write(*store);
      const Bytes full = store->usage().used;
      std::vector<pool::Location> odd = lane.locations();
      std::shuffle(odd.begin(), odd.end(), std::mt19937_64(3));
      odd.resize(odd.size() / 2);
      store->release(odd);
      const Spent spent = spent_on([&] {
        while (store->maintain()) {
        }
      });
      per_page.push_back(spent.cpu_seconds / (static_cast<double>(kPages) / 2) * 1e9);
      given_back.push_back(100 *
                           (1 - static_cast<double>(store->usage().used.value) / static_cast<double>(full.value)));
      state.SetIterationTime(spent.seconds);
    }
    state.counters["cpu_ns_per_page_kept"] = median(per_page);
    state.counters["given_back_percent"] = median(given_back);
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}
// Of a page that is in no cache and of one that is.
void checksum(benchmark::State& state) {
  const Mapping pages = compressible_pages(1);
  std::uint32_t sum = 0;
  const auto ns = [&](std::uint64_t different) {
    const Spent spent = spent_on([&] {
      for (std::uint64_t page = 0; page < kPages; ++page)
        sum += pool::crc32c({pages.data() + page % different * kPageSize, kPageSize}, 7);
    });
    return spent.seconds * 1e9 / static_cast<double>(kPages);
  };
  std::vector<double> cached, fresh;
  for ([[maybe_unused]] auto _ : state) {
    fresh.push_back(ns(kPages));
    cached.push_back(ns(4));
    state.SetIterationTime(cached.back() / 1e9);
  }
  benchmark::DoNotOptimize(sum);
  state.counters["cached_ns"] = median(cached);
  state.counters["fresh_ns"] = median(fresh);
}
BENCHMARK(checksum)->Iterations(kRounds)->UseManualTime()->Unit(benchmark::kNanosecond);

BENCHMARK(compaction)->Iterations(5)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tidepool::bench

BENCHMARK_MAIN();
