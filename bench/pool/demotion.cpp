// Pages on their way to a memory server through all that the agent has: staged, sealed, framed, acknowledged. Beside a
// bare stream of as many bytes over the same transport, and beside one that seals, tags, checks and copies as the
// product does, in the same run.
#include <benchmark/benchmark.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "bench/pool/bare_stream.h"
#include "bench/pool/guarded_stream.h"
#include "bench/pool/served_slice.h"
#include "bench/pool/served_store.h"
#include "bench/support/timing.h"
#include "pool/store/page_store.h"

namespace tidepool::bench {
namespace {

constexpr std::size_t kPages = 16384;  // 64 MiB a round
constexpr std::size_t kBatch = 64;
constexpr std::size_t kBatches = 16;  // under way
constexpr std::size_t kKeepEvery = 4096;
constexpr std::int64_t kRounds = 15;
constexpr int kPort = 17392;
static_assert(kBatch * kPageSize == BareStream::kChunk);

struct Batch {
  std::array<pool::WriteItem, kBatch> items;
  pool::WriteBatch batch;
  std::atomic<bool> under_way{false};
  std::vector<std::byte> own = std::vector<std::byte>(kBatch * kPageSize);  // where the store lends no place
};

class Writer {
 public:
  explicit Writer(const std::shared_ptr<pool::PageStore>& store) : pages_(kPages * kPageSize), store_(store) {
    std::mt19937_64 random(1);
    for (std::size_t at = 0; at < pages_.size(); at += sizeof(std::uint64_t)) {
      const std::uint64_t word = random();
      std::memcpy(pages_.data() + at, &word, sizeof word);
    }
    for (auto& batch : batches_) batch = std::make_unique<Batch>();
    locations_.reserve(kPages);
  }
  ~Writer() = default;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  void round() {
    std::size_t next = 0, refused = 0;
    while (next < kPages || under_way() > 0) {
      bool moved = false;
      const unsigned seen = ended_.load(std::memory_order_acquire);
      for (auto& each : batches_) {
        if (each->under_way.load(std::memory_order_acquire)) continue;
        if (!each->batch.items.empty()) refused += take(*each), moved = true;
        if (next < kPages) submit(*each, next), next += kBatch, moved = true;
      }
      if (!moved) ended_.wait(seen);
    }
    for (auto& each : batches_)
      if (!each->batch.items.empty()) refused += take(*each);
    if (refused != 0) throw std::runtime_error(std::to_string(refused) + " pages were not taken");
  }
  // So that every round finds the store as the one before did.
  void forget() {
    store_->release(locations_);
    locations_.clear();
  }
  // Two slices are leased from now on, and the server's memory for them is there: each keeps some pages.
  void settle_in() {
    round();
    round();
    for (std::size_t i = 0; i < locations_.size(); i += kKeepEvery) locations_[i] = pool::kNoLocation;
    std::erase(locations_, pool::kNoLocation);
    forget();
  }

 private:
  std::size_t under_way() const {
    std::size_t count = 0;
    for (const auto& each : batches_) count += each->under_way.load(std::memory_order_acquire) ? 1 : 0;
    return count;
  }
  void submit(Batch& of, std::size_t first) {
    of.items.fill({});
    store_->stage(of.items);
    for (std::size_t i = 0; i < kBatch; ++i) {
      if (of.items[i].buffer == nullptr) of.items[i].buffer = of.own.data() + i * kPageSize;
      std::memcpy(of.items[i].buffer, pages_.data() + (first + i) * kPageSize, kPageSize);
    }
    of.batch.items = of.items;
    of.batch.priority = pool::Priority::kWriteBack;
    of.batch.done = [this, &of](pool::WriteBatch&) {
      of.under_way.store(false, std::memory_order_release);
      ended_.fetch_add(1, std::memory_order_release);
      ended_.notify_one();
    };
    of.under_way = true;
    store_->submit_write(of.batch);
  }
  std::size_t take(Batch& of) {
    std::size_t refused = 0;
    for (const pool::WriteItem& item : of.items) {
      if (item.status == pool::PageStatus::kOk) {
        locations_.push_back(item.location);
      } else {
        ++refused;
      }
    }
    store_->unstage(of.items);
    of.batch.items = {};
    return refused;
  }

  std::vector<std::byte> pages_;
  const std::shared_ptr<pool::PageStore> store_;
  std::array<std::unique_ptr<Batch>, kBatches> batches_;
  std::vector<pool::Location> locations_;
  std::atomic<unsigned> ended_{0};  // batches
};

// Processor time of both ends, per page.
double cpu_us(pid_t peer, const std::function<void()>& work) {
  const Seconds before = cpu_time() + cpu_time_of(peer);
  work();
  return (cpu_time() + cpu_time_of(peer) - before).count() / kPages * 1e6;
}

// Argument: 1 TCP or 0 unix socket. Counters of processor time: both ends, per page.
void demotion(benchmark::State& state) {
  try {
    const bool tcp = state.range(0) == 1;
    BareStream bare(tcp, kPages / kBatch);
    GuardedStream guarded(tcp, true, kPages / kBatch);
    ServedStore served(tcp ? kPort : 0);
    Writer writer(served.store());
    bare.round();
    guarded.round();
    // Leases its slices.
    for (int tries = 0;; ++tries) {
      try {
        writer.settle_in();
        break;
      } catch (const std::exception&) {
        writer.forget();
        if (tries == 100) throw;
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    }
    AgainstFloor figures, of_ceiling;
    std::vector<double> cpu, floor_cpu, ceiling_cpu;
    for ([[maybe_unused]] auto _ : state) {
      Spent floor, ceiling, spent;
      floor_cpu.push_back(cpu_us(bare.pid(), [&] { floor = spent_on([&] { bare.round(); }); }));
      ceiling_cpu.push_back(cpu_us(guarded.pid(), [&] { ceiling = spent_on([&] { guarded.round(); }); }));
      std::this_thread::sleep_for(std::chrono::milliseconds(200));  // discards of the round before
      cpu.push_back(cpu_us(served.server(), [&] { spent = spent_on([&] { writer.round(); }); }));
      writer.forget();
      figures.add(floor, spent);
      of_ceiling.add(ceiling, spent);
      state.SetIterationTime(figures.last_seconds());
    }
    state.counters["pages_per_second"] = kPages / figures.seconds();
    state.counters["floor_pages_per_second"] = kPages / figures.floor_seconds();
    state.counters["ceiling_pages_per_second"] = kPages / of_ceiling.floor_seconds();
    state.counters["ratio"] = figures.ratio();
    state.counters["ratio_of_ceiling"] = of_ceiling.ratio();
    state.counters["cpu_us"] = median(cpu);
    state.counters["floor_cpu_us"] = median(floor_cpu);
    state.counters["ceiling_cpu_us"] = median(ceiling_cpu);
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}
BENCHMARK(demotion)->ArgName("tcp")->Arg(0)->Arg(1)->Iterations(kRounds)->UseManualTime()->Unit(
    benchmark::kMillisecond);

// Without what the store does: frames of 64 pages that are neither sealed nor, over a unix socket, tagged. Argument as
// above.
void link_writes(benchmark::State& state) {
  try {
    const bool tcp = state.range(0) == 1;
    BareStream bare(tcp, kPages / kBatch);
    ServedSlice served(tcp);
    const std::vector<std::byte> page(kPageSize, std::byte{0x33});
    struct Write {
      std::array<pool::LinkItem, kBatch> items;
      pool::LinkRequest request;
    };
    std::vector<std::unique_ptr<Write>> writes;
    std::atomic<std::ptrdiff_t> left{0};
    std::atomic<std::size_t> under_way{0};
    std::atomic<std::uint64_t> next{0};
    std::atomic<bool> right{true};
    const auto ask = [&](Write& write) {
      const std::uint64_t first = next.fetch_add(kBatch);
      for (std::size_t i = 0; i < kBatch; ++i) {
        write.items[i].slot = static_cast<std::uint32_t>((first + i) % ServedSlice::kSlots);
        write.items[i].version = 2 + first / ServedSlice::kSlots;
        write.items[i].length = protocol::kSlotBytes;
        write.items[i].payload = const_cast<std::byte*>(page.data());  // read only
      }
      served.link().submit(write.request);
    };
    for (std::size_t i = 0; i < kBatches; ++i) {
      Write& write = *writes.emplace_back(std::make_unique<Write>());
      write.request.op = pool::LinkOp::kWrite;
      write.request.slice = ServedSlice::kSlice;
      write.request.items = write.items;
      write.request.priority = pool::Priority::kWriteBack;
      write.request.done = [&](pool::LinkRequest&, pool::LinkOutcome outcome) {
        if (outcome != pool::LinkOutcome::kAnswered) right = false;
        if (left.fetch_sub(1) > 0) {
          ask(write);
        } else {
          --under_way;
        }
      };
    }
    const auto round = [&] {
      left = static_cast<std::ptrdiff_t>(kPages / kBatch - kBatches);
      under_way = kBatches;
      for (const auto& write : writes) ask(*write);
      while (under_way > 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
    };
    bare.round();
    round();
    AgainstFloor figures;
    for ([[maybe_unused]] auto _ : state) {
      const Spent floor = spent_on([&] { bare.round(); });
      figures.add(floor, spent_on(round));
      state.SetIterationTime(figures.last_seconds());
    }
    if (!right) return state.SkipWithError("a write was not answered");
    state.counters["pages_per_second"] = kPages / figures.seconds();
    state.counters["floor_pages_per_second"] = kPages / figures.floor_seconds();
    state.counters["ratio"] = figures.ratio();
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}
BENCHMARK(link_writes)
    ->ArgName("tcp")
    ->Arg(0)
    ->Arg(1)
    ->Iterations(kRounds)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tidepool::bench
