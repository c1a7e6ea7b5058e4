// What a read of one page from a memory server on this host costs, beside the bare echo of 4 KiB on the same transport
// in the same run: first one, then the other, round after round. And how many pages come with many reads under way,
// beside nbdkit's memory plugin where libnbd is there. Counters: medians over the rounds. Run
// build/release/bin/bench_pool on a quiet machine; it starts the tidepool-memd beside it.
#include <benchmark/benchmark.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <vector>

#ifdef TIDEPOOL_HAS_LIBNBD
#include "bench/pool/block_server.h"
#endif
#include "bench/pool/echo_process.h"
#include "bench/pool/served_slice.h"
#include "bench/support/timing.h"

namespace tidepool::bench {
namespace {

constexpr int kReads = 2000;  // of a round
constexpr std::int64_t kRounds = 15;

using Clock = std::chrono::steady_clock;

double microseconds_at(std::vector<double>& latencies, double quantile) {
  const auto at = latencies.begin() + static_cast<std::ptrdiff_t>(quantile * static_cast<double>(latencies.size() - 1));
  std::nth_element(latencies.begin(), at, latencies.end());
  return *at;
}

// A read with room for its pages.
struct Read {
  explicit Read(std::size_t pages) : room(pages * protocol::kSlotBytes), items(pages) {
    for (std::size_t i = 0; i < pages; ++i) items[i].payload = room.data() + i * protocol::kSlotBytes;
    request.slice = ServedSlice::kSlice;
    request.items = items;
  }
  void ask(pool::Link& link, std::uint32_t slot) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      items[i].slot = (slot + static_cast<std::uint32_t>(i)) % ServedSlice::kSlots;
    }
    link.submit(request);
  }

  std::vector<std::byte> room;
  std::vector<pool::LinkItem> items;
  pool::LinkRequest request;
};

void take(pool::Link& link, bool spinning) {
  if (!spinning) {
    pollfd wait{link.answers_descriptor(), POLLIN, 0};
    ::poll(&wait, 1, 100);
  }
  link.take_answers();
}

// Arguments: 1 TCP or 0 unix socket, 1 spinning or 0 sleeping.
void round_trip(benchmark::State& state) {
  try {
    const bool spinning = state.range(1) == 1;
    EchoProcess echo(state.range(0) == 1);
    ServedSlice served(state.range(0) == 1);
    Read read(1);
    std::atomic<bool> done{false};
    bool right = true;
    read.request.done = [&](pool::LinkRequest&, pool::LinkOutcome outcome) {
      right = right && outcome == pool::LinkOutcome::kAnswered;
      done = true;
    };
    std::uint32_t slot = 0;
    const auto timed = [&](const auto& once) {
      std::vector<double> latencies;
      for (int i = 0; i < kReads; ++i) {
        const auto before = Clock::now();
        once();
        latencies.push_back(std::chrono::duration<double, std::micro>(Clock::now() - before).count());
      }
      return latencies;
    };
    const auto one_read = [&] {
      done = false;
      read.ask(served.link(), slot++ % ServedSlice::kSlots);
      while (!done) take(served.link(), spinning);
    };
    const auto one_echo = [&] { echo.round_trip(spinning); };
    timed(one_echo);
    timed(one_read);
    std::vector<double> floors, reads, floors99, reads99, more;
    for ([[maybe_unused]] auto _ : state) {
      auto floor = timed(one_echo);
      auto ours = timed(one_read);
      floors.push_back(microseconds_at(floor, 0.5));
      reads.push_back(microseconds_at(ours, 0.5));
      floors99.push_back(microseconds_at(floor, 0.99));
      reads99.push_back(microseconds_at(ours, 0.99));
      more.push_back(reads.back() - floors.back());
      state.SetIterationTime(reads.back() / 1e6);
    }
    if (!right) return state.SkipWithError("a read was not answered");
    state.counters["read_p50_us"] = median(reads);
    state.counters["floor_p50_us"] = median(floors);
    state.counters["read_p99_us"] = median(reads99);
    state.counters["floor_p99_us"] = median(floors99);
    state.counters["more_us"] = median(more);
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}
BENCHMARK(round_trip)
    ->ArgNames({"tcp", "spinning"})
    ->ArgsProduct({{0, 1}, {1, 0}})
    ->Iterations(kRounds)
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

// Arguments: 1 TCP or 0 unix socket, reads under way, pages of each.
void stream(benchmark::State& state) {
  try {
#ifdef TIDEPOOL_HAS_LIBNBD
    BlockServer peer(state.range(0) == 1, ServedSlice::kSlots);
    std::vector<double> peers, ratios;
#endif
    ServedSlice served(state.range(0) == 1);
    const auto depth = static_cast<std::size_t>(state.range(1));
    const auto pages = static_cast<std::size_t>(state.range(2));
    std::vector<std::unique_ptr<Read>> reads;
    std::atomic<std::uint32_t> slot{0};
    std::atomic<std::ptrdiff_t> left{0};
    std::atomic<std::size_t> under_way{0};
    std::atomic<bool> right{true};
    for (std::size_t i = 0; i < depth; ++i) {
      Read& read = *reads.emplace_back(std::make_unique<Read>(pages));
      read.request.done = [&](pool::LinkRequest&, pool::LinkOutcome outcome) {
        if (outcome != pool::LinkOutcome::kAnswered) right = false;
        if (left.fetch_sub(1) > 0) {
          read.ask(served.link(), slot += static_cast<std::uint32_t>(pages));
        } else {
          --under_way;
        }
      };
    }
    constexpr std::size_t kPages = 32768;
    std::vector<double> rates;
    for ([[maybe_unused]] auto _ : state) {
      left = static_cast<std::ptrdiff_t>(kPages / pages - depth);
      under_way = depth;
      const auto before = Clock::now();
      for (const auto& read : reads) read->ask(served.link(), slot += static_cast<std::uint32_t>(pages));
      while (under_way > 0) take(served.link(), false);
      const double seconds = Seconds(Clock::now() - before).count();
      rates.push_back(kPages / seconds);
#ifdef TIDEPOOL_HAS_LIBNBD
      peers.push_back(kPages / spent_on([&] { peer.read(kPages, static_cast<unsigned>(depth), pages); }).seconds);
      ratios.push_back(rates.back() / peers.back());
#endif
      state.SetIterationTime(seconds);
    }
    if (!right) return state.SkipWithError("a read was not answered");
    state.counters["pages_per_second"] = median(rates);
#ifdef TIDEPOOL_HAS_LIBNBD
    state.counters["nbdkit_pages_per_second"] = median(peers);
    state.counters["ratio"] = median(ratios);
#endif
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}
BENCHMARK(stream)
    ->ArgNames({"tcp", "depth", "pages"})
    ->ArgsProduct({{0, 1}, {32}, {1, 8}})
    ->Iterations(kRounds)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tidepool::bench

BENCHMARK_MAIN();
