// Idle page tracking over files that stand in for the kernel's: what it marks, what it makes of what it finds, and what
// it does when they are cut short, contradict themselves or vanish.
#include "telemetry/hotness/idle_page_tracker.h"

#include <gtest/gtest.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/kmod-interfaces/kernel_tree.h"
#include "tests/unit/telemetry/tracked_fakes.h"

namespace tidepool::telemetry {
namespace {

using namespace std::chrono_literals;

constexpr pid_t kTarget = 4711;
constexpr std::uint64_t kStart = 0x200000;     // address of its memory
constexpr std::uint64_t kFirstFrame = 0x1000;  // of its first page; the others follow
constexpr std::uint64_t kLru = 1 << 5;
constexpr std::uint64_t kHead = 1 << 15;
constexpr std::uint64_t kTail = 1 << 16;
constexpr std::uint64_t kThp = 1 << 22;
constexpr std::uint64_t kPresent = 1ull << 63;

// A process of some regions of memory, and this process as it is.
class IdlePageFiles : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "page frame numbers are for root";
    tree_.add_process(kTarget, "target", "/usr/bin/target");
    tree_.link("proc/" + std::to_string(::getpid()), "/proc/" + std::to_string(::getpid()));
    tree_.write("sys/kernel/mm/page_idle/bitmap", std::string(4096, '\0'));
    tree_.write("proc/kpageflags", "");
    for (std::uint64_t i = 0; i < kPages; ++i) {
      set("proc/kpageflags", kFirstFrame + i, kLru);
      set(kPagemap, kStart / kPageSize + i, kPresent | (kFirstFrame + i));
    }
    auto memory = std::make_shared<TrackedMemory>();
    memory->vm = VmId{1};
    TrackedObject object;
    object.id = {VmId{1}, 0};
    object.pages = PageCount{kPages};
    memory->objects.push_back(object);
    TrackedSpace space;
    space.process = kernel::Process::open(tree_.roots(), kTarget)->id();
    space.segments = {{{kStart, kStart + kPages * kPageSize}, 0, PageIndex{0}}};
    memory->spaces.push_back(space);
    memory_ = {memory};
  }

  void set(const std::string& file, std::uint64_t index, std::uint64_t value) {
    std::fstream stream(tree_.path_of(file), std::ios::in | std::ios::out | std::ios::binary);
    if (!stream) stream.open(tree_.path_of(file), std::ios::out | std::ios::binary);
    stream.seekp(static_cast<std::streamoff>(index * sizeof value));
    stream.write(reinterpret_cast<const char*>(&value), sizeof value);
  }
  std::uint64_t get(const std::string& file, std::uint64_t index) {
    std::uint64_t value = 0;
    std::ifstream stream(tree_.path_of(file), std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(index * sizeof value));
    stream.read(reinterpret_cast<char*>(&value), sizeof value);
    return value;
  }
  bool marked(std::uint64_t frame) { return ((get(kBitmap, frame / 64) >> (frame % 64)) & 1) != 0; }
  void touch(std::uint64_t page) {
    const std::uint64_t frame = kFirstFrame + page;
    set(kBitmap, frame / 64, get(kBitmap, frame / 64) & ~(1ull << (frame % 64)));
  }

  IdlePageTracker make(IdlePageConfig config = {}) {
    IdlePageTracker tracker(config, tree_.roots(), clock_, cpu_);
    tracker.set_cpu_share(1);  // all 512 pages of each region
    tracker.set_memory(memory_);
    return tracker;
  }
  // Goes on until the windows have passed, so that all that was marked is looked at.
  SampleList look(IdlePageTracker& tracker) {
    clock_.advance(70s);
    SampleList seen;
    tracker.round(seen);
    for (const auto& sample : seen.samples) EXPECT_TRUE(policy::well_formed(sample));
    return seen;
  }
  // The first round marks a first few, which teaches what a look costs; then all.
  void begin(IdlePageTracker& tracker) {
    SampleList ignored;
    tracker.round(ignored);
    look(tracker);
  }

  static constexpr std::uint64_t kPages = 2 * kPagesPerHugePage;
  const std::string kBitmap = "sys/kernel/mm/page_idle/bitmap";
  const std::string kPagemap = "proc/" + std::to_string(kTarget) + "/pagemap";
  kernel::KernelTree tree_;
  ManualClock clock_;
  ManualClock cpu_;
  MemoryList memory_;
};

TEST_F(IdlePageFiles, PagemapsAreOpenWhileTheirProcessesAreWatched) {
  WatchedPagemaps pagemaps(tree_.roots());
  const kernel::ProcessId target = memory_.front()->spaces.front().process;
  const kernel::Pagemap* opened = pagemaps.of(target);
  ASSERT_NE(opened, nullptr);
  pagemaps.set_memory(memory_);
  EXPECT_EQ(pagemaps.of(target), opened);
  const kernel::ProcessId recycled{.pid = target.pid, .start_ticks = target.start_ticks + 1};
  EXPECT_EQ(pagemaps.of(recycled), nullptr);
  EXPECT_EQ(pagemaps.size(), 2u);
  pagemaps.set_memory(memory_);  // what failed is forgotten, to be tried again
  EXPECT_EQ(pagemaps.size(), 1u);
  auto another = std::make_shared<TrackedMemory>(*memory_.front());
  another->spaces.front().process = recycled;
  pagemaps.set_memory({another});
  EXPECT_EQ(pagemaps.size(), 0u);
}

TEST_F(IdlePageFiles, TellsUsedFromIdlePages) {
  IdlePageTracker tracker = make();
  begin(tracker);
  EXPECT_EQ(tracker.looks_per_unit(), 512u);
  EXPECT_TRUE(marked(kFirstFrame + 5));
  for (std::uint64_t page = 64; page < 128; page += 2) touch(page);
  std::uint64_t watched = 0;
  for (const auto& sample : look(tracker).samples) {
    watched += sample.watched;
    EXPECT_EQ(sample.used, sample.pages.first.value == 64 ? 32u : 0u);
    EXPECT_EQ(sample.pages.count, 64u);
    EXPECT_EQ(sample.window, 70s);
  }
  EXPECT_EQ(watched, kPages);
  EXPECT_TRUE(marked(kFirstFrame + 64)) << "it is watched again";
}

TEST_F(IdlePageFiles, LooksAtFewPagesWhenTheBudgetIsSmall) {
  IdlePageTracker tracker = make({.windows = {}, .fewest_looks = 4});
  tracker.set_cpu_share(1e-9);
  begin(tracker);
  EXPECT_EQ(tracker.looks_per_unit(), 4u);
}

TEST_F(IdlePageFiles, DoesNothingBeyondItsBudget) {
  IdlePageTracker tracker = make();
  tracker.set_cpu_share(0);
  SampleList seen;
  tracker.round(seen);
  EXPECT_FALSE(marked(kFirstFrame)) << "nothing may be done for nothing";
  EXPECT_EQ(tracker.info().cpu, 0ns);
}

TEST_F(IdlePageFiles, DoesNotCountPagesThatMovedToAnotherFrame) {
  IdlePageTracker tracker = make();
  begin(tracker);
  for (std::uint64_t page = 0; page < 100; ++page) set(kPagemap, kStart / kPageSize + page, kPresent | (0x4000 + page));
  std::uint64_t watched = 0;
  for (const auto& sample : look(tracker).samples) watched += sample.watched;
  EXPECT_EQ(watched, kPages - 100);
}

TEST_F(IdlePageFiles, LooksAtAHugePageOnce) {
  for (std::uint64_t i = 0; i < kPagesPerHugePage; ++i)
    set("proc/kpageflags", kFirstFrame + i, kThp | (i == 0 ? kHead | kLru : kTail));
  IdlePageTracker tracker = make();
  begin(tracker);
  EXPECT_TRUE(marked(kFirstFrame));
  EXPECT_FALSE(marked(kFirstFrame + 1));
  touch(0);
  for (const auto& sample : look(tracker).samples) {
    if (sample.pages.first.value != 0) continue;
    EXPECT_EQ(sample.pages.count, kPagesPerHugePage);
    EXPECT_EQ(sample.watched, 1u);
    EXPECT_EQ(sample.used, 1u);
  }
}

TEST_F(IdlePageFiles, FindsTheHeadOfASmallerFolio) {
  for (std::uint64_t i = 0; i < 16; ++i) set("proc/kpageflags", kFirstFrame + i, i == 0 ? kHead | kLru : kTail);
  IdlePageTracker tracker = make();
  begin(tracker);
  EXPECT_TRUE(marked(kFirstFrame));
  for (std::uint64_t i = 1; i < 16; ++i) EXPECT_FALSE(marked(kFirstFrame + i)) << i;
  EXPECT_TRUE(marked(kFirstFrame + 16));
}

TEST_F(IdlePageFiles, LeavesAloneWhatCannotBeWatched) {
  set("proc/kpageflags", kFirstFrame + 3, 0);                            // on no list
  set("proc/kpageflags", kFirstFrame + 4, kTail);                        // without a head
  set("proc/kpageflags", kFirstFrame + 5, kLru | 1 << 24);               // the zero page
  set(kPagemap, kStart / kPageSize + 6, 0);                              // not present
  set(kPagemap, kStart / kPageSize + 7, kPresent | ((1ull << 55) - 1));  // a frame beyond any memory
  IdlePageTracker tracker = make();
  begin(tracker);
  for (std::uint64_t i = 3; i < 8; ++i) EXPECT_FALSE(marked(kFirstFrame + i)) << i;
  EXPECT_TRUE(tracker.info().usable) << tracker.info().why_not;
}

TEST_F(IdlePageFiles, CountsNothingWhereTheBitmapIsCutShort) {
  IdlePageTracker tracker = make();
  begin(tracker);
  std::filesystem::resize_file(tree_.path_of(kBitmap), kFirstFrame / 8 + 13);
  std::uint64_t watched = 0;
  for (const auto& sample : look(tracker).samples) watched += sample.watched;
  EXPECT_EQ(watched, 64u) << "of the one whole word that is left";
}

TEST_F(IdlePageFiles, GoesOnWithoutAProcessThatVanished) {
  IdlePageTracker tracker = make();
  begin(tracker);
  std::filesystem::resize_file(tree_.path_of(kPagemap), 0);
  EXPECT_TRUE(look(tracker).samples.empty());
  EXPECT_TRUE(tracker.info().usable);
}

TEST_F(IdlePageFiles, DoesNotTakeAStrangerForItsProcess) {
  tree_.write("proc/4711/stat", kernel::stat_line(kTarget, "stranger", 'S', 0x400000, /*start_ticks=*/999999));
  IdlePageTracker tracker = make();
  begin(tracker);
  EXPECT_FALSE(marked(kFirstFrame));
}

TEST_F(IdlePageFiles, SaysWhenTheKernelLacksIt) {
  std::filesystem::remove(tree_.path_of(kBitmap));
  IdlePageTracker tracker = make();
  EXPECT_FALSE(tracker.info().usable);
  EXPECT_NE(tracker.info().why_not.find("CONFIG_IDLE_PAGE_TRACKING"), std::string::npos) << tracker.info().why_not;
  SampleList seen;
  tracker.round(seen);
}

// A file never forgets a mark, however often its page is touched: the self-check notices.
TEST_F(IdlePageFiles, DeclaresItselfUnusableWhenItDoesNotSeeTheTruth) {
  struct sysinfo host {};
  ::sysinfo(&host);
  const std::uint64_t frames = (host.totalram * host.mem_unit + (8ull << 30)) / kPageSize;
  tree_.write("proc/kpageflags", {});
  {
    std::ofstream flags(tree_.path_of("proc/kpageflags"), std::ios::binary);
    const std::vector<std::uint64_t> chunk(65536, kLru);
    for (std::uint64_t i = 0; i < frames; i += chunk.size())
      flags.write(reinterpret_cast<const char*>(chunk.data()), static_cast<std::streamsize>(chunk.size() * 8));
  }
  IdlePageTracker tracker = make();
  for (int i = 0; i < 10 && tracker.info().usable; ++i) look(tracker);
  EXPECT_FALSE(tracker.info().usable);
  EXPECT_NE(tracker.info().why_not.find("self-check"), std::string::npos) << tracker.info().why_not;
}

TEST(ScanPlan, CoversEveryPageOnceHoweverOftenItIsMapped) {
  auto memory = std::make_shared<TrackedMemory>();
  memory->vm = VmId{1};
  memory->objects.resize(1);
  memory->objects[0].pages = PageCount{2000};
  TrackedSpace space;
  space.segments = {{{0x1000000, 0x1000000 + 1000 * kPageSize}, 0, PageIndex{100}},
                    {{0x9000000, 0x9000000 + 1500 * kPageSize}, 0, PageIndex{0}}};
  memory->spaces = {space, space};
  std::vector<int> times(2000, 0);
  for (const ScanUnit& unit : scan_units(memory)) {
    EXPECT_LE(unit.pages.count, kPagesPerHugePage);
    EXPECT_EQ(unit.addresses.size(), unit.pages.count * kPageSize);
    EXPECT_EQ(unit.pages.first.value / kPagesPerHugePage, (unit.pages.end() - 1) / kPagesPerHugePage);
    for (std::uint64_t page = unit.pages.first.value; page < unit.pages.end(); ++page) ++times[page];
  }
  for (std::uint64_t page = 0; page < 2000; ++page) EXPECT_EQ(times[page], page < 1500 ? 1 : 0) << page;
}

MemoryList plain_memory(std::uint64_t regions, std::uint32_t vm = 1) {
  auto memory = std::make_shared<TrackedMemory>();
  memory->vm = VmId{vm};
  memory->objects.resize(1);
  TrackedSpace space;
  space.segments = {{{kStart, kStart + regions * kHugePageSize}, 0, PageIndex{0}}};
  memory->spaces.push_back(space);
  return {memory};
}

TEST(ScanPlan, GivesHotMemoryShortWindowsAndColdMemoryLongOnes) {
  ManualClock clock;
  ScanPlan plan({.shortest = 1s, .doublings = 6});
  plan.set_memory(plain_memory(2), clock.now());
  for (int second = 0; second < 600; ++second) {
    while (const auto slot = plan.next(clock.now())) {
      plan.watch(*slot, clock.now(), plan.unit(*slot).pages.first.value == 0 ? 1.0 : 0.0);
    }
    clock.advance(1s);
  }
  EXPECT_EQ(plan.window(0), 1s);
  EXPECT_EQ(plan.window(1), 64s);
}

TEST(ScanPlan, ForgetsMemoryThatIsGoneAndReusesItsSlots) {
  ManualClock clock;
  ScanPlan plan({});
  const MemoryList first = plain_memory(4, 1);
  MemoryList both = first;
  both.push_back(plain_memory(2, 2).front());
  plan.set_memory(both, clock.now());
  EXPECT_EQ(plan.size(), 6u);
  while (const auto slot = plan.next(clock.now())) plan.watch(*slot, clock.now(), std::nullopt);
  EXPECT_EQ(plan.set_memory(first, clock.now()).size(), 2u);
  clock.advance(1h);
  std::size_t due = 0;
  while (plan.next(clock.now())) ++due;
  EXPECT_EQ(due, 4u);
  plan.set_memory(both, clock.now());
  EXPECT_EQ(plan.slots(), 6u);
}

}  // namespace
}  // namespace tidepool::telemetry
