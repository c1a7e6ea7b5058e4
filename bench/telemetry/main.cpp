// How true each tracker is that runs here, what it costs, and what it does to the process: against tidepool-load's own
// count of every access. Prints rows of the table in docs/hotness.md.
//
//   build/release/bin/bench_trackers [--seconds N] [--pairs N] [TRACKER...]     root
//   tests/vm/run --timeout 1200 -- build/release/bin/bench_trackers idle-page soft-dirty damon
//
// Accuracy is of a load with a fixed rate. Slowdown is of one that works as fast as it can, in operations per second of
// its own CPU time, so that others on the machine hardly matter: spells with the tracker and without take turns, and
// the median of the pairs' ratios counts. Faults that the load's threads take are in it; waiting for the pager is not.
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "bench/support/timing.h"
#include "bench/telemetry/managed_load.h"
#include "telemetry/hotness/damon_tracker.h"
#include "telemetry/hotness/fault_sampler.h"
#include "telemetry/hotness/idle_page_tracker.h"
#include "telemetry/hotness/perf_tracker.h"
#include "telemetry/hotness/refault_tracker.h"
#include "telemetry/hotness/referenced_tracker.h"
#include "telemetry/hotness/soft_dirty_tracker.h"
#include "telemetry/hotness/write_tracker.h"

namespace tidepool::bench {
namespace {

using telemetry::Tracker;
using test::Counted;
using test::WatchedLoad;

constexpr auto kSpell = std::chrono::seconds(2);
constexpr auto kEvery = std::chrono::milliseconds(250);

struct Settings {
  std::chrono::seconds seconds{15};
  int pairs = 7;
  double cpu_share = 0.05;
};

// What a tracker needs of the memory.
enum class Needs { kNothing, kDivision, kPager, kFar };

struct Case {
  const char* tracker;
  const char* memory;
  bool shared = false;
  Needs needs = Needs::kNothing;
  Counted counted = Counted::kReadsAndWrites;
  std::function<std::unique_ptr<Tracker>()> make;
};

const kernel::KernelRoots kRoots;
const SystemClock kClock;
const ThreadCpuClock kCpu;

std::vector<Case> all_cases() {
  using namespace telemetry;
  constexpr ScanWindows kWindows{.shortest = std::chrono::milliseconds(250), .doublings = 4};
  const auto idle_page = [=] {
    return std::make_unique<IdlePageTracker>(IdlePageConfig{.windows = kWindows, .pass = std::chrono::seconds(5)},
                                             kRoots, kClock, kCpu);
  };
  const auto referenced = [] { return std::make_unique<ReferencedTracker>(ReferencedConfig{}, kRoots, kClock); };
  const auto damon = [] { return std::make_unique<DamonTracker>(DamonConfig{}, kRoots, kClock); };
  const auto writes = [=] { return std::make_unique<WriteTracker>(kWindows, kRoots, kClock, kCpu); };
  const auto soft_dirty = [] {
    return std::make_unique<SoftDirtyTracker>(SoftDirtyConfig{.allowed = true, .windows = {.doublings = 2}}, kRoots,
                                              kClock, kCpu);
  };
  const auto faults = [] { return std::make_unique<FaultSampler>(FaultSamplerConfig{}, kClock); };
  const auto refaults = [] { return std::make_unique<RefaultTracker>(kClock); };
  const auto perf = [] { return std::make_unique<PerfTracker>(PerfConfig{}, kRoots, kClock, kCpu); };
  return {
      {"refaults", "shared, all of it far", true, Needs::kFar, Counted::kReadsAndWrites, refaults},
      {"idle-page", "private", false, Needs::kNothing, Counted::kReadsAndWrites, idle_page},
      {"idle-page", "shared", true, Needs::kNothing, Counted::kReadsAndWrites, idle_page},
      {"referenced", "private", false, Needs::kDivision, Counted::kReadsAndWrites, referenced},
      {"referenced", "shared", true, Needs::kDivision, Counted::kReadsAndWrites, referenced},
      {"damon", "private", false, Needs::kNothing, Counted::kReadsAndWrites, damon},
      {"write-tracking", "private", false, Needs::kDivision, Counted::kWrites, writes},
      {"soft-dirty", "private", false, Needs::kNothing, Counted::kWrites, soft_dirty},
      {"fault-sampling", "shared", true, Needs::kPager, Counted::kReadsAndWrites, faults},
      {"fault-sampling", "private", false, Needs::kPager, Counted::kWrites, faults},
      {"perf", "private", false, Needs::kNothing, Counted::kReadsAndWrites, perf},
  };
}

// A load with what the case needs in place.
class Prepared {
 public:
  Prepared(const Case& of, const std::string& rate) : load_(arguments(of, rate)) {
    if (of.needs == Needs::kDivision) divide();
    if (of.needs == Needs::kPager || of.needs == Needs::kFar) managed_.emplace(load_, of.shared);
    if (of.needs == Needs::kFar) managed_->demote_all();
  }
  WatchedLoad& load() { return load_; }

 private:
  static std::vector<std::string> arguments(const Case& of, const std::string& rate) {
    std::vector<std::string> all{"--size",   "256MiB", "--pattern", "zipf", "--read-ratio", "0.5",
                                 "--verify", "header", "--huge",    "off",  "--rate",       rate};
    if (of.shared) all.insert(all.end(), {"--memory", "memfd"});
    return all;
  }
  void divide() {
    daemon::FootholdRequest request;
    request.id = load_.memory().front()->spaces.front().process;
    request.userfaultfds = 2;
    request.helper.program = std::string(TIDEPOOL_BINARY_DIR) + "/bin/tidepool-adopt";
    auto foothold = daemon::take_foothold(request);
    if (!foothold) throw std::runtime_error(foothold.error().message());
    auto divided = telemetry::DividedMappings::divide(kernel::Userfaultfd{std::move(foothold->userfaultfd)},
                                                      kernel::Userfaultfd{std::move(foothold->second_userfaultfd)},
                                                      {load_.range()}, Bytes{kHugePageSize});
    if (!divided) throw std::runtime_error(divided.error().message());
    load_.set_divided(std::make_shared<telemetry::DividedMappings>(std::move(*divided)));
  }

  WatchedLoad load_;
  std::optional<ManagedLoad> managed_;
};

class Nowhere final : public telemetry::SampleSink {
 public:
  void add(const policy::AccessSample&) override {}
};

// CPU time of all threads of a process so far, in seconds.
double cpu_of(pid_t pid) {
  clockid_t clock{};
  timespec time{};
  if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &time) != 0)
    throw std::runtime_error("the load's CPU time cannot be read");
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// Of the load, for each second of its CPU time.
double operations_per_second(WatchedLoad& load, Tracker* tracker) {
  Nowhere nowhere;
  const double before = load.accesses();
  const double cpu_before = cpu_of(load.pid());
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < kSpell) {
    if (tracker != nullptr) tracker->round(nowhere);
    std::this_thread::sleep_for(kEvery);
  }
  return (load.accesses() - before) / (cpu_of(load.pid()) - cpu_before);
}

// How much less is done in the same CPU time with the tracker than without.
double slowdown(const Case& of, const Settings& settings) {
  Prepared prepared(of, "0");
  const auto tracker = of.make();
  tracker->set_cpu_share(settings.cpu_share);
  std::vector<double> ratios;
  for (int pair = 0; pair < settings.pairs; ++pair) {
    tracker->set_memory({});
    const double without = operations_per_second(prepared.load(), nullptr);
    tracker->set_memory(prepared.load().memory());
    const double with = operations_per_second(prepared.load(), tracker.get());
    ratios.push_back(with / without);
  }
  return 1 - median(ratios);
}

void measure(const Case& of, const Settings& settings) {
  const auto tracker = of.make();
  if (!tracker->info().usable) {
    std::printf("%s, %s: not here: %s\n", of.tracker, of.memory, tracker->info().why_not.c_str());
    return;
  }
  Prepared prepared(of, "6000");
  if (of.needs != Needs::kFar &&
      telemetry::lacking(telemetry::Coverage::kFar, tracker->covers(prepared.load().memory())) ==
          telemetry::Coverage::kNone) {
    std::printf("%s, %s: sees nothing of memory that is resident\n", of.tracker, of.memory);
    return;
  }
  test::WatchRequest request{.duration = settings.seconds, .every = kEvery, .cpu_share = settings.cpu_share};
  request.what = of.counted;
  const test::WatchResult result = prepared.load().watch(*tracker, of.memory, request);
  if (!result.info.usable) {
    std::printf("%s, %s: gave up: %s\n", of.tracker, of.memory, result.info.why_not.c_str());
    return;
  }
  // A far page comes home with its first use: what is left after that is not the tracker's doing.
  std::string slower = "-";
  if (of.needs != Needs::kFar) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.1f%%", 100 * slowdown(of, settings));
    slower = text.data();
  }
  std::printf("| `%s` | %s%s | %.2f | %.2f | %.3f | %.1f | %.2f%% (%.0f%%) | %s |\n", of.tracker, of.memory,
              of.counted == Counted::kWrites ? ", writes" : "", result.accuracy.precision, result.accuracy.recall,
              result.accuracy.captured, result.cpu_ms_per_gib_looked, result.cpu_share * 100, settings.cpu_share * 100,
              slower.c_str());
  std::fflush(stdout);
}

int usage(const char* what) {
  std::fprintf(stderr, "bench_trackers: %s\nusage: bench_trackers [--seconds N] [--pairs N] [TRACKER...]\n", what);
  return 2;
}

int run(int argc, char** argv) {
  Settings settings;
  std::vector<std::string_view> wanted;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--seconds" || word == "--pairs") {
      const int value = i + 1 < argc ? std::atoi(argv[++i]) : 0;
      if (value < 1 || value > 3600) return usage("a number from 1 to 3600 is wanted");
      if (word == "--seconds") settings.seconds = std::chrono::seconds(value);
      if (word == "--pairs") settings.pairs = value;
    } else if (word.starts_with("-")) {
      return usage("unknown option");
    } else {
      wanted.push_back(word);
    }
  }
  if (::geteuid() != 0) return usage("needs root");
  // The emulated processor is some twenty times slower than a real one: its share is larger for that.
  if (std::getenv("TIDEPOOL_VM") != nullptr) settings.cpu_share = 0.2;
  const std::vector<Case> cases = all_cases();
  for (const std::string_view name : wanted) {
    if (std::ranges::none_of(cases, [&](const Case& of) { return of.tracker == name; }))
      return usage("there is no such tracker");
  }
  std::printf(
      "| tracker | memory | precision | recall | captured | CPU ms per GiB looked at | CPU of one core (allowed) | "
      "slowdown |\n|---|---|---|---|---|---|---|---|\n");
  for (const Case& of : cases) {
    if (!wanted.empty() && std::ranges::find(wanted, of.tracker) == wanted.end()) continue;
    try {
      measure(of, settings);
    } catch (const std::exception& problem) {
      std::printf("%s, %s: %s\n", of.tracker, of.memory, problem.what());
    }
  }
  return 0;
}

}  // namespace
}  // namespace tidepool::bench

int main(int argc, char** argv) {
  return tidepool::bench::run(argc, argv);
}
