#include "bench/load/workers.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "bench/load/pacer.h"

namespace tidepool::load {
namespace {

bool stopping(const Run& run) {
  return run.stopping.load(std::memory_order_relaxed);
}

// Work that the optimizer cannot drop and that touches no memory.
void compute(std::uint64_t rounds) {
  std::uint64_t value = rounds;
  for (std::uint64_t i = 0; i < rounds; ++i) value = mix(value);
  asm volatile("" : : "r"(value));
}

// A write that never looks would overwrite the evidence of a lost one.
constexpr std::uint64_t kWritesPerLook = 4;

void write_page(Run& run, std::uint64_t page, bool look_first) {
  const TruthTable::State before = run.truth.lock(page);
  if (look_first) run.check_locked_page(page, before, run.settings.verify);
  run.content.write(run.memory.page(page), page * kPageSize, before.version + 1);
  run.truth.unlock(page, {.version = before.version + 1, .zero = false});
}

}  // namespace

void run_worker(Run& run, unsigned thread, SteadyClock::time_point start, ThreadCounters& counters) {
  AccessPattern pattern(run.settings.pattern, run.ordinary_pages(), run.settings.seed, thread, run.settings.threads);
  Pacer pacer(run.settings.operations_per_second, run.settings.threads);
  std::uint64_t writes = 0;
  while (!stopping(run)) {
    const auto begin = SteadyClock::now();
    const Access access = pattern.next(begin - start);
    if (access.write) {
      write_page(run, access.page, run.settings.verify != Thoroughness::kNone && ++writes % kWritesPerLook == 0);
    } else {
      run.check_page(access.page, run.settings.verify);
    }
    counters.record(access.write, SteadyClock::now() - begin);
    run.counts.count(access.page, access.write);
    compute(run.settings.work_per_operation);
    pacer.wait(run.stopping);
  }
}

namespace {

constexpr std::size_t kLaneWords = 8;

// One thread's 64 bytes of one page.
class HammerLane {
 public:
  HammerLane(std::byte* page, unsigned lane, std::uint64_t seed)
      : words_(reinterpret_cast<std::uint64_t*>(page) + lane * kLaneWords), key_(mix(seed + lane)) {}

  void write_next() {
    ++version_;
    for (std::size_t i = 0; i < kLaneWords; ++i) word(i).store(expected(i), std::memory_order_relaxed);
  }
  bool intact() const {
    for (std::size_t i = 0; i < kLaneWords; ++i) {
      if (word(i).load(std::memory_order_relaxed) != expected(i)) return false;
    }
    return true;
  }
  std::uint64_t version() const { return version_; }
  std::uint64_t found_version() const { return word(0).load(std::memory_order_relaxed); }

 private:
  std::atomic_ref<std::uint64_t> word(std::size_t i) const { return std::atomic_ref<std::uint64_t>(words_[i]); }
  // Word 0 is the version itself, for the person who reads a report; version 0 is memory that nobody wrote.
  std::uint64_t expected(std::size_t i) const {
    if (version_ == 0 || i == 0) return version_;
    return mix(key_ ^ (version_ << 8) ^ i);
  }

  std::uint64_t* words_;
  std::uint64_t key_;
  std::uint64_t version_ = 0;
};

}  // namespace

void run_hammer(Run& run, unsigned thread, ThreadCounters& counters) {
  std::vector<HammerLane> lanes;
  for (std::uint64_t page = 0; page < run.settings.hammer_pages; ++page) {
    lanes.emplace_back(run.memory.page(page), thread, run.settings.seed + page);
  }
  const auto check = [&run, thread](const HammerLane& lane, std::uint64_t page) {
    if (lane.intact()) return;
    run.mismatches.add(fmt::format("offset {:#x}: lane {} should hold write {}, holds {}", page * kPageSize, thread,
                                   lane.version(), lane.found_version()));
  };
  Random random(mix(run.settings.seed) + thread);
  Pacer pacer(run.settings.operations_per_second, run.settings.threads);
  while (!stopping(run)) {
    const std::uint64_t page = random.below(lanes.size());
    const auto begin = SteadyClock::now();
    check(lanes[page], page);
    lanes[page].write_next();
    counters.record(true, SteadyClock::now() - begin);
    compute(run.settings.work_per_operation);
    pacer.wait(run.stopping);
  }
  for (std::uint64_t page = 0; page < lanes.size(); ++page) check(lanes[page], page);
}

void run_discarder(Run& run, ThreadCounters& counters) {
  constexpr std::chrono::milliseconds kPause{2};
  Random random(run.settings.seed ^ 0xd15ca4d);
  const std::uint64_t first_page = run.first_ordinary_page();
  const std::uint64_t last_page = run.memory.pages().value;
  while (!stopping(run)) {
    // Mostly short runs, at times a whole huge page: both halves of the kernel's work are met.
    const bool huge = random.below(16) == 0;
    std::uint64_t first = first_page + random.below(last_page - first_page);
    std::uint64_t count = 1 + random.below(32);
    if (huge && last_page - first_page >= 2 * kPagesPerHugePage) {
      first =
          std::max(first & ~(kPagesPerHugePage - 1), (first_page + kPagesPerHugePage - 1) & ~(kPagesPerHugePage - 1));
      count = kPagesPerHugePage;
    }
    count = std::min(count, last_page - first);
    const bool keep_contents = run.memory.shared() && random.below(4) == 0;

    std::vector<TruthTable::State> states;
    for (std::uint64_t i = 0; i < count; ++i) states.push_back(run.truth.lock(first + i));
    const Result<> done =
        keep_contents ? run.memory.unmap_entries(first, PageCount{count}) : run.memory.discard(first, PageCount{count});
    if (!done) run.mismatches.add(done.error().message());
    if (done && !keep_contents) {
      for (TruthTable::State& state : states) state.zero = true;
    }
    const std::uint64_t looked_at = random.below(count);
    run.check_locked_page(first + looked_at, states[looked_at], Thoroughness::kFull);
    for (std::uint64_t i = 0; i < count; ++i) run.truth.unlock(first + i, states[i]);
    counters.discarded_pages.fetch_add(count, std::memory_order_relaxed);
    std::this_thread::sleep_for(kPause);
  }
}

Result<UniqueFd> open_direct_file(const std::string& path, PageCount pages) {
  UniqueFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600)};
  if (!file.valid()) return errno_failure("open with O_DIRECT", path, "use a file on a disk file system, not on tmpfs");
  if (::ftruncate(file.get(), static_cast<off_t>(to_bytes(pages).value)) != 0) return errno_failure("size", path);
  return file;
}

namespace {

struct alignas(kPageSize) PageBuffer {
  std::array<std::byte, kPageSize> bytes;
};

// The system call itself: a reader that meets this write finds that out from the truth table, which a wrapper that a
// thread sanitizer watches cannot know.
ssize_t read_into_shared_page(int file, void* page, off_t offset) {
  return ::syscall(SYS_pread64, file, page, kPageSize, offset);
}

bool transfer_page(ssize_t moved, const char* what, Run& run, std::uint64_t page) {
  if (moved == static_cast<ssize_t>(kPageSize)) return true;
  run.mismatches.add(fmt::format("offset {:#x}: {} with O_DIRECT: {}", page * kPageSize, what,
                                 moved < 0 ? std::strerror(errno) : "short transfer"));
  return false;
}

// The device reads the page: what reaches the file must be what the truth table says.
void page_to_file(Run& run, int file, std::uint64_t page, TruthTable::State state, PageBuffer& scratch) {
  const auto offset = static_cast<off_t>(page * kPageSize);
  if (!transfer_page(::pwrite(file, run.memory.page(page), kPageSize, offset), "write", run, page)) return;
  if (!transfer_page(::pread(file, &scratch, kPageSize, offset), "read", run, page)) return;
  if (const auto wrong = run.content.describe_mismatch(&scratch, run.expectation(page, state))) {
    run.mismatches.add("written with O_DIRECT: " + *wrong);
  }
}

// The device writes the page: the next version comes from the file.
TruthTable::State file_to_page(Run& run, int file, std::uint64_t page, TruthTable::State state, PageBuffer& scratch) {
  const auto offset = static_cast<off_t>(page * kPageSize);
  const TruthTable::State next{.version = state.version + 1, .zero = false};
  run.content.write(&scratch, page * kPageSize, next.version);
  if (!transfer_page(::pwrite(file, &scratch, kPageSize, offset), "write", run, page)) return state;
  if (!transfer_page(read_into_shared_page(file, run.memory.page(page), offset), "read", run, page)) return state;
  run.check_locked_page(page, next, Thoroughness::kFull);
  return next;
}

}  // namespace

void run_direct_transfers(Run& run, int file, ThreadCounters& counters) {
  Random random(run.settings.seed ^ 0xd12ec7);
  PageBuffer scratch{};
  while (!stopping(run)) {
    const std::uint64_t page = run.first_ordinary_page() + random.below(run.ordinary_pages().value);
    TruthTable::State state = run.truth.lock(page);
    if (random.below(2) == 0) {
      page_to_file(run, file, page, state, scratch);
    } else {
      state = file_to_page(run, file, page, state, scratch);
    }
    run.truth.unlock(page, state);
    counters.direct_transfers.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace tidepool::load
