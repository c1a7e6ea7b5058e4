// Soft-dirty bits as a test has them: what the tracker makes of them, when it clears them, and when it leaves them be.
#include "telemetry/hotness/soft_dirty_tracker.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <fstream>
#include <set>

#include "telemetry/hotness/trackers.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"
#include "tests/unit/telemetry/tracked_fakes.h"

namespace tidepool::telemetry {
namespace {

using namespace std::chrono_literals;

constexpr pid_t kTarget = 4711;
constexpr std::uint64_t kStart = 0x200000;
constexpr std::uint64_t kPresent = 1ull << 63;
constexpr std::uint64_t kWritten = 1ull << 55;

// What a kernel knows of the target and of this process.
struct FakeKernel {
  bool keeps_the_bit = true;
  bool clears = true;  // false: it says that it did, and did not
  int error = 0;       // of every call for the target
  int cleared = 0;     // times, of the target
  Nanoseconds clear_cost{0};
  ManualClock* cpu = nullptr;
  std::set<std::uint64_t> absent;   // pages of the target
  std::set<std::uint64_t> written;  // pages of the target
  std::uint64_t read = 0;           // entries of the target
};

// Memory of this process is written when a word of it has changed: as SelfCheck::touch() does.
class FakeProcess final : public kernel::SoftDirtyProcess {
 public:
  FakeProcess(FakeKernel& kernel, bool own) : kernel_(kernel), own_(own) {}

  Result<std::size_t> entries(std::uint64_t address, std::span<kernel::PagemapEntry> out) const override {
    if (!own_ && kernel_.error != 0) return failure_from(kernel_.error, "read", "pagemap");
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::uint64_t at = address + i * kPageSize;
      const std::uint64_t page = (at - kStart) / kPageSize;
      const bool written = own_ ? own_written(at) : kernel_.written.contains(page);
      const bool present = own_ || !kernel_.absent.contains(page);
      out[i].raw = (present ? kPresent : 0) | (written && kernel_.keeps_the_bit ? kWritten : 0);
      kernel_.read += own_ ? 0 : 1;
    }
    return out.size();
  }
  Result<> clear() override {
    if (!own_ && kernel_.error != 0) return failure_from(kernel_.error, "clear", "soft-dirty bits");
    kernel_.cpu->advance(own_ ? 0ns : kernel_.clear_cost);
    if (!own_) ++kernel_.cleared;
    if (!kernel_.clears) return {};
    if (!own_) kernel_.written.clear();
    for (auto& [address, word] : words_) word = word_at(address);
    return {};
  }

 private:
  static std::uint64_t word_at(std::uint64_t address) { return *std::bit_cast<const std::uint64_t*>(address); }
  bool own_written(std::uint64_t address) const {
    const std::uint64_t now = word_at(address);
    const auto [known, is_new] = words_.emplace(address, now);
    return is_new || known->second != now || !kernel_.clears;
  }

  FakeKernel& kernel_;
  const bool own_;
  mutable std::map<std::uint64_t, std::uint64_t> words_;
};

class SoftDirtyFiles : public testing::Test {
 protected:
  SoftDirtyFiles() {
    kernel_.cpu = &cpu_;
    tree_.add_process(kTarget, "target", "/usr/bin/target");
    tree_.add_process(::getpid(), "self", "/usr/bin/self");
    memory_ = make_memory(2);
  }

  MemoryList make_memory(std::uint64_t regions, std::shared_ptr<PagedObject> paged = nullptr) {
    auto memory = std::make_shared<TrackedMemory>();
    memory->vm = VmId{1};
    TrackedObject object;
    object.id = {VmId{1}, 0};
    object.pages = PageCount{regions * kPagesPerHugePage};
    object.paged = std::move(paged);
    memory->objects.push_back(object);
    TrackedSpace space;
    space.process = kernel::Process::open(tree_.roots(), kTarget)->id();
    space.segments = {{{kStart, kStart + regions * kHugePageSize}, 0, PageIndex{0}}};
    memory->spaces.push_back(space);
    return {memory};
  }
  SoftDirtyTracker make(SoftDirtyConfig config = {.allowed = true}) {
    return SoftDirtyTracker(config, tree_.roots(), clock_, cpu_,
                            [this](const kernel::KernelRoots&,
                                   const kernel::ProcessId& id) -> Result<std::unique_ptr<kernel::SoftDirtyProcess>> {
                              return std::make_unique<FakeProcess>(kernel_, id.pid == ::getpid());
                            });
  }
  void begin(SoftDirtyTracker& tracker, double share = 1) {
    tracker.set_cpu_share(share);
    tracker.set_memory(memory_);
    round(tracker, 0s);
  }
  std::vector<policy::AccessSample> round(SoftDirtyTracker& tracker, Nanoseconds later = 70s) {
    clock_.advance(later);
    SampleList seen;
    tracker.round(seen);
    for (const auto& sample : seen.samples) EXPECT_TRUE(policy::well_formed(sample));
    return seen.samples;
  }

  kernel::KernelTree tree_;
  ManualClock clock_;
  ManualClock cpu_;
  FakeKernel kernel_;
  MemoryList memory_;
};

TEST_F(SoftDirtyFiles, AreOfTheOperatorsChoice) {
  const SoftDirtyTracker tracker = make({});
  EXPECT_FALSE(tracker.info().usable);
  EXPECT_NE(tracker.info().why_not.find("trackers.soft_dirty"), std::string::npos) << tracker.info().why_not;
  EXPECT_EQ(kernel_.cleared, 0);
}

TEST_F(SoftDirtyFiles, AreNamedAsMissingWhereTheKernelDoesNotKeepThem) {
  kernel_.keeps_the_bit = false;
  const SoftDirtyTracker tracker = make();
  EXPECT_FALSE(tracker.info().usable);
  EXPECT_NE(tracker.info().why_not.find("CONFIG_MEM_SOFT_DIRTY"), std::string::npos) << tracker.info().why_not;
}

TEST_F(SoftDirtyFiles, TellWhichPagesWereWritten) {
  SoftDirtyTracker tracker = make();
  begin(tracker);
  EXPECT_EQ(kernel_.cleared, 1) << "what was written before is of no interest";
  for (std::uint64_t page = 64; page < 128; page += 2) kernel_.written.insert(page);
  kernel_.absent = {0, 1, 2};
  std::uint64_t watched = 0;
  for (const auto& sample : round(tracker)) {
    watched += sample.watched;
    EXPECT_EQ(sample.used, sample.pages.first.value == 64 ? 32u : 0u);
    EXPECT_EQ(sample.window, 70s);
    EXPECT_EQ(sample.sees, policy::Sees::kWrites);
  }
  EXPECT_EQ(watched, 2 * kPagesPerHugePage - 3) << "what is not there was not watched";
  EXPECT_EQ(kernel_.cleared, 2);
  EXPECT_TRUE(kernel_.written.empty());
}

TEST_F(SoftDirtyFiles, OfMemoryWithABetterTrackerAreLeftAlone) {
  const SoftDirtyTracker tracker = make();
  EXPECT_EQ(tracker.covers(memory_), Coverage::kWritesUnmanaged);
  const auto paged = std::make_shared<FakePagedObject>(2);
  EXPECT_EQ(tracker.covers(make_memory(2, paged)), Coverage::kNone) << "the pager's";
  const SoftDirtyTracker old_kernel = make({.allowed = true, .managed = true});
  EXPECT_EQ(old_kernel.covers(make_memory(2, paged)), Coverage::kWritesPrivate);
  auto divided = std::make_shared<TrackedMemory>(*memory_.front());
  // Any pointer will do: it only says that there is a better one.
  divided->spaces.front().divided = std::shared_ptr<const DividedMappings>(
      memory_.front(), reinterpret_cast<const DividedMappings*>(memory_.front().get()));
  EXPECT_EQ(tracker.covers({divided}), Coverage::kNone);
}

TEST_F(SoftDirtyFiles, OfThePagersMemoryAreDoubted) {
  memory_ = make_memory(2, std::make_shared<FakePagedObject>(2));
  SoftDirtyTracker tracker = make({.allowed = true, .managed = true});
  begin(tracker);
  const auto seen = round(tracker);
  ASSERT_FALSE(seen.empty());
  EXPECT_LT(seen.front().confidence, 1) << "a page that was fetched counts as written";
}

TEST_F(SoftDirtyFiles, AreNotTouchedForNothing) {
  SoftDirtyTracker tracker = make();
  tracker.set_cpu_share(0);
  tracker.set_memory(memory_);
  EXPECT_TRUE(round(tracker).empty());
  EXPECT_EQ(kernel_.cleared, 0);
  EXPECT_EQ(tracker.info().cpu, 0ns);
}

TEST_F(SoftDirtyFiles, AreClearedAsSeldomAsTheBudgetWants) {
  memory_ = make_memory(64);
  kernel_.clear_cost = 20ms;
  SoftDirtyTracker tracker = make({.allowed = true, .windows = {.doublings = 0}});
  begin(tracker, 0.01);
  for (int second = 0; second < 600; ++second) {
    kernel_.written.insert(static_cast<std::uint64_t>(second));
    round(tracker, 1s);
  }
  // Two seconds' worth each, and a second's in advance.
  EXPECT_GT(kernel_.cleared, 100);
  EXPECT_LE(tracker.info().cpu, 600s / 100 + 10ms + 20ms);
}

TEST_F(SoftDirtyFiles, AreReadInTurnWhereTheBudgetAffordsFew) {
  memory_ = make_memory(64);
  SoftDirtyTracker tracker = make({.allowed = true, .windows = {.doublings = 0}});
  kernel_.clear_cost = 1s / 50;
  begin(tracker, 0.002);
  std::set<std::uint64_t> regions;
  std::uint64_t before = kernel_.read;
  for (int minute = 0; minute < 40; ++minute) {
    for (const auto& sample : round(tracker, 60s)) regions.insert(sample.pages.first.value / kPagesPerHugePage);
    EXPECT_LE(kernel_.read - before, 64 * kPagesPerHugePage);
    before = kernel_.read;
  }
  EXPECT_EQ(regions.size(), 64u) << "none is forgotten";
}

TEST_F(SoftDirtyFiles, ChargeForTheFaultsThatTheyCause) {
  SoftDirtyTracker tracker = make({.allowed = true, .cost_per_write = 2us});
  begin(tracker);
  for (std::uint64_t page = 0; page < 500; ++page) kernel_.written.insert(page);
  const Nanoseconds before = tracker.info().cpu;
  round(tracker);
  EXPECT_EQ(tracker.info().cpu - before, 1ms);
}

TEST_F(SoftDirtyFiles, OfLargeProcessesAreLeftAlone) {
  kernel_.clear_cost = 200ms;
  SoftDirtyTracker tracker = make();
  begin(tracker);
  EXPECT_EQ(kernel_.cleared, 1) << "that is how it is known";
  for (int i = 0; i < 5; ++i) round(tracker);
  EXPECT_EQ(kernel_.cleared, 1);
  EXPECT_NE(tracker.info().blind_spots.back().find("too large"), std::string::npos);

  memory_ = make_memory(64ull * 512);  // 64 GiB
  SoftDirtyTracker other = make();
  begin(other);
  EXPECT_EQ(kernel_.cleared, 1) << "nor need it be tried";
}

TEST_F(SoftDirtyFiles, ThatAreNotClearedEndTheTracker) {
  SoftDirtyTracker tracker = make();
  begin(tracker);
  kernel_.clears = false;
  for (unsigned i = 0; i <= SelfCheck::kTolerated; ++i) round(tracker);
  EXPECT_FALSE(tracker.info().usable);
  EXPECT_NE(tracker.info().why_not.find("self-check"), std::string::npos) << tracker.info().why_not;
}

TEST_F(SoftDirtyFiles, OfAProcessThatEndedAreNoFailure) {
  SoftDirtyTracker tracker = make();
  begin(tracker);
  kernel_.error = ESRCH;
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(round(tracker).empty());
  EXPECT_TRUE(tracker.info().usable) << tracker.info().why_not;
  kernel_.error = EPERM;
  for (unsigned i = 0; i < kToleratedFailures; ++i) round(tracker);
  EXPECT_FALSE(tracker.info().usable);
}

TEST_F(SoftDirtyFiles, StartAnewWithChangedMemory) {
  SoftDirtyTracker tracker = make();
  begin(tracker);
  kernel_.written.insert(5);
  memory_ = make_memory(2);
  tracker.set_memory(memory_);
  EXPECT_TRUE(round(tracker).empty()) << "what was mapped anew counts as written";
  EXPECT_FALSE(round(tracker).empty());
}

TEST(TrackersByPreference, AreAllThereAndSoftDirtyBitsWaitForAWord) {
  const SystemClock clock;
  const ThreadCpuClock cpu;
  std::vector<std::string> names;
  std::string why_not;
  for (const auto& tracker : trackers_by_preference({}, {}, clock, cpu)) {
    names.push_back(tracker->info().name);
    EXPECT_FALSE(tracker->info().blind_spots.empty()) << names.back();
    EXPECT_EQ(tracker->info().usable, tracker->info().why_not.empty()) << names.back();
    if (names.back() == "soft-dirty") why_not = tracker->info().why_not;
  }
  EXPECT_EQ(names, (std::vector<std::string>{"refaults", "idle-page", "referenced", "damon", "write-tracking",
                                             "soft-dirty", "fault-sampling", "perf"}));
  EXPECT_NE(why_not.find("trackers.soft_dirty"), std::string::npos) << why_not;
}

// The files of /proc themselves.
TEST_F(SoftDirtyFiles, AreClearedByTheKernelsOwnWord) {
  const std::string folder = "proc/" + std::to_string(kTarget);
  tree_.write(folder + "/clear_refs", "");
  const std::uint64_t entry = kPresent | kWritten;
  tree_.write(folder + "/pagemap", {reinterpret_cast<const char*>(&entry), sizeof entry});
  const auto id = kernel::Process::open(tree_.roots(), kTarget)->id();
  const auto process = kernel::open_soft_dirty(tree_.roots(), id);
  ASSERT_TRUE(process) << process.error().message();
  kernel::PagemapEntry read[2];
  EXPECT_EQ((*process)->entries(0, read).value_or(9), 1u) << "the file ends there";
  EXPECT_TRUE(read[0].soft_dirty());
  ASSERT_TRUE((*process)->clear());
  std::string word;
  std::ifstream(tree_.path_of(folder + "/clear_refs")) >> word;
  EXPECT_EQ(word, "4");
  kernel::ProcessId former = id;
  ++former.start_ticks;
  EXPECT_EQ(kernel::open_soft_dirty(tree_.roots(), former).error().code.value(), ESRCH);
}

}  // namespace
}  // namespace tidepool::telemetry
