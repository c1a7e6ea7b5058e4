// The init of the test guest: fills memory with pages that can be verified, works on a hot part of it at a steady rate
// and checks everything when told so on the console. Its lines on the console are the guest's verdict:
//
//   guest ready pages=N            after the fill
//   work ops=N p50_us=A p99_us=B   every few seconds: latency of page accesses as the guest sees it
//   pass N ok pages=M seconds=S    a check of every page
//   MISMATCH ...                   a page that is not what it should be
//
// Kernel command line: load.fill=MiB load.hot=MiB load.rate=operations/s load.seed=N. Console commands: "pass" (check
// everything now), "rate N", "off".
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "base/latency_histogram.h"
#include "base/units.h"
#include "bench/load/page_content.h"
#include "bench/load/random.h"
#include "tests/guest/guest_system.h"

namespace tidepool::guest {
namespace {

using Clock = std::chrono::steady_clock;

class GuestLoad {
 public:
  GuestLoad(std::byte* memory, std::uint64_t pages, std::uint64_t hot_pages, std::uint64_t seed)
      : memory_(memory),
        versions_(pages, 1),
        hot_pages_(std::clamp<std::uint64_t>(hot_pages, 1, pages)),
        content_(seed),
        random_(seed) {}

  void fill() {
    for (std::uint64_t page = 0; page < versions_.size(); ++page)
      content_.write(at(page), page * kPageSize, versions_[page]);
  }

  // One access to the hot part: every access checks the page, every fourth then writes its next version.
  void access() {
    const std::uint64_t page = random_.below(hot_pages_);
    const auto begin = Clock::now();
    check(page);
    if (++accesses_ % 4 == 0) content_.write(at(page), page * kPageSize, ++versions_[page]);
    latency_.record(Clock::now() - begin);
  }

  void check_everything() {
    const std::uint64_t before = mismatches_;
    const auto begin = Clock::now();
    for (std::uint64_t page = 0; page < versions_.size(); ++page) check(page);
    const std::chrono::duration<double> took = Clock::now() - begin;
    ++passes_;
    fmt::print("pass {} {} pages={} seconds={:.1f}\n", passes_, mismatches_ == before ? "ok" : "FAILED",
               versions_.size(), took.count());
  }

  void report() {
    const LatencyHistogram::Snapshot now = latency_.snapshot();
    LatencyHistogram::Snapshot recent = now;
    recent.total -= reported_.total;
    for (unsigned i = 0; i < LatencyHistogram::kBuckets; ++i) recent.counts[i] -= reported_.counts[i];
    reported_ = now;
    const auto us = [&recent](double quantile) {
      return static_cast<double>(recent.percentile(quantile).count()) / 1000;
    };
    fmt::print("work ops={} p50_us={:.1f} p99_us={:.1f} mismatches={}\n", recent.total, us(0.5), us(0.99), mismatches_);
  }

 private:
  std::byte* at(std::uint64_t page) const { return memory_ + page * kPageSize; }

  void check(std::uint64_t page) {
    const load::Expectation expected{.address = page * kPageSize, .version = versions_[page]};
    if (content_.matches(at(page), expected, load::Thoroughness::kFull)) return;
    ++mismatches_;
    fmt::print("MISMATCH {}\n",
               content_.describe_mismatch(at(page), expected).value_or("wrong once, right when read again"));
  }

  std::byte* memory_;
  std::vector<std::uint64_t> versions_;
  std::uint64_t hot_pages_;
  load::PageContent content_;
  load::Random random_;
  std::uint64_t accesses_ = 0;
  std::uint64_t passes_ = 0;
  std::uint64_t mismatches_ = 0;
  LatencyHistogram latency_;
  LatencyHistogram::Snapshot reported_;
};

std::uint64_t number(const std::map<std::string, std::string>& parameters, const std::string& key,
                     std::uint64_t usual) {
  const auto found = parameters.find(key);
  return found == parameters.end() ? usual : std::strtoull(found->second.c_str(), nullptr, 10);
}

[[noreturn]] void work(GuestLoad& load, std::uint64_t rate) {
  constexpr std::chrono::milliseconds kSlice{10};
  constexpr std::chrono::seconds kReportEvery{2};
  auto next_report = Clock::now() + kReportEvery;
  for (auto next_slice = Clock::now();;) {
    const std::uint64_t batch = std::max<std::uint64_t>(1, rate * static_cast<std::uint64_t>(kSlice.count()) / 1000);
    for (std::uint64_t i = 0; i < batch; ++i) load.access();
    const std::string command = poll_command();
    if (command == "pass") load.check_everything();
    if (command.starts_with("rate ")) rate = std::strtoull(command.c_str() + 5, nullptr, 10);
    if (command == "off") power_off();
    if (Clock::now() >= next_report) {
      load.report();
      next_report = Clock::now() + kReportEvery;
    }
    // A guest that is behind does not hurry: its rate is a ceiling.
    next_slice = std::max(next_slice + kSlice, Clock::now() - kSlice);
    std::this_thread::sleep_until(next_slice);
  }
}

[[noreturn]] void run_guest() {
  prepare_system();
  const auto parameters = load_parameters();
  const std::uint64_t bytes = number(parameters, "fill", 64) << 20;
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::puts("guest: no memory for load.fill");
    power_off();
  }
  GuestLoad load(static_cast<std::byte*>(memory), bytes / kPageSize, (number(parameters, "hot", 16) << 20) / kPageSize,
                 number(parameters, "seed", 1));
  load.fill();
  fmt::print("guest ready pages={}\n", bytes / kPageSize);
  work(load, number(parameters, "rate", 2000));
}

}  // namespace
}  // namespace tidepool::guest

int main() {
  try {
    tidepool::guest::run_guest();
  } catch (const std::exception& error) {
    // An init that returns panics the kernel: say why, then go.
    std::printf("guest: %s\n", error.what());
    tidepool::guest::power_off();
  }
}
