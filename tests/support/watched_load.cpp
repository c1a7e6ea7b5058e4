#include "tests/support/watched_load.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "kmod-interfaces/pidfd.h"

namespace tidepool::test {
namespace {

using telemetry::TrackedMemory;
using telemetry::TrackedObject;
using telemetry::TrackedSpace;

std::string fresh_path() {
  static int number = 0;
  return (std::filesystem::temp_directory_path() /
          ("tidepool-counts-" + std::to_string(::getpid()) + "-" + std::to_string(++number)))
      .string();
}

std::vector<std::string> with_counts(std::vector<std::string> arguments, const std::string& path) {
  for (const char* more : {"--duration", "0", "--no-final-check", "--access-counts"}) arguments.emplace_back(more);
  arguments.push_back(path);
  return arguments;
}

double sum(const std::vector<double>& values) {
  double all = 0;
  for (const double value : values) all += value;
  return all;
}

}  // namespace

WatchedLoad::WatchedLoad(std::vector<std::string> arguments)
    : counts_path_(fresh_path()),
      load_(with_counts(std::move(arguments), counts_path_)),
      range_(load_.wait_until_ready()) {
  auto memory = std::make_shared<TrackedMemory>();
  memory->vm = VmId{1};
  memory->epoch = 1;
  TrackedObject object;
  object.id = {VmId{1}, 0};
  object.pages = whole_pages(Bytes{range_.size()});
  memory->objects.push_back(object);
  TrackedSpace space;
  if (const auto process = kernel::Process::open({}, load_.pid())) space.process = process->id();
  if (auto pidfd = kernel::open_pidfd(load_.pid())) space.pidfd = std::make_shared<UniqueFd>(std::move(*pidfd));
  space.segments = {{range_, 0, PageIndex{0}}};
  memory->spaces.push_back(std::move(space));
  memory_ = {memory};
}

WatchedLoad::~WatchedLoad() {
  std::error_code ignored;
  std::filesystem::remove(counts_path_, ignored);
}

void WatchedLoad::set_divided(std::shared_ptr<const telemetry::DividedMappings> divided) {
  auto memory = std::make_shared<TrackedMemory>(*memory_.front());
  ++memory->epoch;
  memory->spaces.front().divided = std::move(divided);
  memory_ = {memory};
}

int WatchedLoad::end() {
  load_.signal(SIGTERM);
  return load_.wait_for_exit();
}

double WatchedLoad::accesses() const {
  return sum(TrueCounts(counts_path_).regions(Counted::kReadsAndWrites));
}

WatchResult WatchedLoad::watch(telemetry::Tracker& tracker, const std::string& title, const WatchRequest& request) {
  const SystemClock clock;
  RateEstimate estimate(whole_pages(Bytes{range_.size()}));
  TrueCounts counts(counts_path_);
  tracker.set_cpu_share(request.cpu_share);
  tracker.set_memory(memory_);
  const Nanoseconds cpu_before = tracker.info().cpu;
  counts.start();
  const MonoTime start = clock.now();
  const auto watch_on = [&] {
    const Nanoseconds passed = clock.now() - start;
    return passed < request.duration ||
           (passed < 4 * request.duration && (estimate.samples() < request.enough_samples || estimate.unseen() > 0));
  };
  while (watch_on() && tracker.info().usable) {
    tracker.round(estimate);
    std::this_thread::sleep_for(request.every);
  }
  const double seconds = std::chrono::duration<double>(clock.now() - start).count();
  const std::vector<double> truth = counts.regions(request.what);
  WatchResult result;
  result.info = tracker.info();
  tracker.set_memory({});
  result.accuracy = accuracy_of(estimate.rates(), truth);
  result.samples = estimate.samples();
  result.unseen_regions = estimate.unseen();
  const double cpu = std::chrono::duration<double>(result.info.cpu - cpu_before).count();
  result.cpu_share = cpu / seconds;
  result.cpu_ms_per_gib = cpu / seconds * 1000 * static_cast<double>(1ull << 30) / static_cast<double>(range_.size());
  const double looked = static_cast<double>(estimate.looks()) * kPageSize / static_cast<double>(1ull << 30);
  result.cpu_ms_per_gib_looked = looked > 0 ? cpu * 1000 / looked : 0;
  result.operations_per_second = sum(truth) / seconds;
  EXPECT_EQ(estimate.malformed(), 0u);
  std::printf(
      "%-16s %-28s precision %.2f recall %.2f captured %.3f | cpu %.2f%% of a core (allowed %.2f%%), "
      "%.1f ms/GiB/s | %llu samples, %zu of %zu regions unseen | %.0f operations/s\n",
      result.info.name.c_str(), title.c_str(), result.accuracy.precision, result.accuracy.recall,
      result.accuracy.captured, result.cpu_share * 100, request.cpu_share * 100, result.cpu_ms_per_gib,
      static_cast<unsigned long long>(result.samples), result.unseen_regions, truth.size(),
      result.operations_per_second);
  std::fflush(stdout);
  return result;
}

}  // namespace tidepool::test
