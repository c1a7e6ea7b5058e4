#include "bench/load/run.h"

#include <fmt/format.h>

#include <functional>
#include <thread>

namespace tidepool::load {

void MismatchLog::add(std::string description) {
  count_.fetch_add(1, std::memory_order_relaxed);
  const std::scoped_lock lock(mutex_);
  if (first_.size() < kKept) first_.push_back(std::move(description));
}

std::vector<std::string> MismatchLog::first() const {
  const std::scoped_lock lock(mutex_);
  return first_;
}

void ThreadCounters::record(bool write, std::chrono::nanoseconds took) {
  (write ? writes : reads).fetch_add(1, std::memory_order_relaxed);
  latency.record(took);
  // The reporter may take the maximum at the same moment; at worst one slow access counts for the next interval.
  if (took.count() > slowest_ns.load(std::memory_order_relaxed))
    slowest_ns.store(took.count(), std::memory_order_relaxed);
}

Run::Run(WorkloadMemory memory_in, TruthTable truth_in, RunSettings settings_in)
    : memory(std::move(memory_in)),
      truth(std::move(truth_in)),
      settings(std::move(settings_in)),
      content(settings.seed) {}

std::uint64_t Run::first_ordinary_page() const {
  return settings.pattern.kind == PatternKind::kHammer ? settings.hammer_pages : 0;
}

PageCount Run::ordinary_pages() const {
  return PageCount{memory.pages().value - first_ordinary_page()};
}

Expectation Run::expectation(std::uint64_t page, TruthTable::State state) const {
  return {.address = page * kPageSize, .version = state.version, .zero = state.zero};
}

void Run::check_page(std::uint64_t page, Thoroughness how) {
  // A page that is written all the time might never be read between two writes.
  constexpr int kOptimisticReads = 8;
  for (int attempt = 0; attempt < kOptimisticReads; ++attempt) {
    const TruthTable::State state = truth.read(page);
    const Expectation expected = expectation(page, state);
    if (content.matches(memory.page(page), expected, how)) return;
    if (!truth.unchanged_since(page, state)) continue;
    const auto description = content.describe_mismatch(memory.page(page), expected);
    if (!truth.unchanged_since(page, state)) continue;
    mismatches.add(
        description.value_or(fmt::format("offset {:#x}: version {} was wrong when first read and right when read again",
                                         expected.address, expected.version)));
    return;
  }
  const TruthTable::State state = truth.lock(page);
  check_locked_page(page, state, how);
  truth.unlock(page, state);
}

void Run::check_locked_page(std::uint64_t page, TruthTable::State state, Thoroughness how) {
  const Expectation expected = expectation(page, state);
  if (content.matches(memory.page(page), expected, how)) return;
  mismatches.add(
      content.describe_mismatch(memory.page(page), expected)
          .value_or(fmt::format("offset {:#x}: version {} was wrong when first read and right when read again",
                                expected.address, expected.version)));
}

namespace {

// Calls body(thread, page) for every ordinary page, each thread with a contiguous share.
void for_all_pages(const Run& run, const std::function<void(unsigned, std::uint64_t)>& body) {
  std::vector<std::jthread> threads;
  const std::uint64_t first = run.first_ordinary_page();
  const std::uint64_t pages = run.ordinary_pages().value;
  for (unsigned t = 0; t < run.settings.threads; ++t) {
    threads.emplace_back([&run, &body, t, first, pages] {
      const std::uint64_t end = first + pages * (t + 1) / run.settings.threads;
      for (std::uint64_t page = first + pages * t / run.settings.threads; page < end; ++page) {
        if (run.stopping.load(std::memory_order_relaxed)) return;
        body(t, page);
      }
    });
  }
}

}  // namespace

void fill_all(Run& run) {
  for_all_pages(run, [&run](unsigned, std::uint64_t page) {
    const TruthTable::State state = run.truth.lock(page);
    run.content.write(run.memory.page(page), page * kPageSize, state.version + 1);
    run.truth.unlock(page, {.version = state.version + 1, .zero = false});
  });
}

void check_all(Run& run, std::vector<ThreadCounters>& counters) {
  const Thoroughness how = run.settings.verify == Thoroughness::kNone ? Thoroughness::kNone : Thoroughness::kFull;
  for_all_pages(run, [&run, &counters, how](unsigned thread, std::uint64_t page) {
    run.check_page(page, how);
    counters[thread].checked_pages.fetch_add(1, std::memory_order_relaxed);
  });
}

}  // namespace tidepool::load
