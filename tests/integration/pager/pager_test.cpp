// The pager against processes that write and verify their memory all the while.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "base/mapping.h"
#include "kmod-interfaces/pagemap.h"
#include "tests/integration/pager/pager_case.h"

namespace tidepool::daemon {
namespace {

struct Kind {
  const char* name;
  bool shared;
  bool huge;
  bool discard;
  bool forks;
  bool clean;
};

class PagerKinds : public testing::TestWithParam<Kind> {};

TEST_P(PagerKinds, LosesNothingUnderConstantDemotion) {
  const Kind kind = GetParam();
  PagedProcessOptions options;
  options.shared = kind.shared;
  options.huge = kind.huge;
  options.discard = kind.discard;
  options.fork_children = kind.forks;
  PagedProcess process(options);
  Rig rig(process, options, kind.clean);
  process.start();
  rig.churn(kind.forks ? 40000 : 100000, 7);
  rig.release_and_expect_nothing_lost(rig.store);
  std::printf("demoted %lu, demand %lu, prefetched %lu, cancelled %lu, clean %lu, discarded %lu\n",
              rig.vm->counters.demoted_pages.load(), rig.vm->counters.promoted_demand.load(),
              rig.vm->counters.promoted_prefetch.load(), rig.vm->counters.demotions_cancelled.load(),
              rig.vm->counters.clean_drops.load(), rig.vm->counters.discarded_pages.load());
}

INSTANTIATE_TEST_SUITE_P(Memory, PagerKinds,
                         testing::Values(Kind{"Shared", true, false, false, false, false},
                                         Kind{"SharedHuge", true, true, false, false, false},
                                         Kind{"SharedWithForks", true, false, false, true, false},
                                         Kind{"Private", false, false, false, false, false},
                                         Kind{"PrivateHuge", false, true, false, false, false},
                                         Kind{"PrivateDiscarding", false, false, true, false, false},
                                         Kind{"PrivateCleanCopies", false, false, true, false, true},
                                         Kind{"PrivateWithForks", false, false, false, true, true}),
                         [](const auto& kind) { return kind.param.name; });

TEST(Pager, BringsEverythingHomeOnRelease) {
  PagedProcessOptions options;
  options.write = false;
  PagedProcess process(options);
  Rig rig(process, options);
  ASSERT_TRUE(rig.send_all_out());
  EXPECT_EQ(rig.vm->count(PageState::kFar), options.pages - options.pages / 16);
  ASSERT_TRUE(rig.release());
  EXPECT_EQ(rig.vm->count(PageState::kFar), 0u);
  process.start();
  EXPECT_TRUE(process.await_operations(10000));
  EXPECT_EQ(process.mismatches(), 0u);
}

// Some virtual machines' kernels map a page of its own instead.
bool reading_maps_the_page_of_zeros() {
  const auto page = Mapping::anonymous(Bytes{kPageSize});
  if (!page) return false;
  const auto address = reinterpret_cast<std::uintptr_t>(page->data());
  [[maybe_unused]] const std::byte read = *static_cast<const volatile std::byte*>(page->data());
  const auto pagemap = kernel::Pagemap::open(::getpid());
  bool zeros = false;
  EXPECT_TRUE(pagemap && pagemap->for_each({address, address + kPageSize}, kernel::uapi::kPageIsPresent,
                                           [&](const kernel::uapi::page_region& found) {
                                             zeros = (found.categories & kernel::uapi::kPageIsPfnZero) != 0;
                                           }));
  return zeros;
}

// A page that was only ever read is the kernel's page of zeros: it costs the host nothing, so nothing is saved by its
// going.
TEST(Pager, CallsNothingFarThatCostNothing) {
  PagedProcessOptions options;
  options.shared = false;
  options.read_untouched = true;
  PagedProcess process(options);
  Rig rig(process, options);
  EXPECT_EQ(rig.vm->count(PageState::kResident), options.pages);
  ASSERT_TRUE(rig.send_all_out());
  const std::uint64_t costing_nothing = reading_maps_the_page_of_zeros() ? options.pages / 16 : 0;
  EXPECT_EQ(rig.vm->count(PageState::kFar), options.pages - costing_nothing);
  EXPECT_EQ(rig.vm->count(PageState::kReleased), costing_nothing);
  process.start();
  EXPECT_TRUE(process.await_operations(20000));
  EXPECT_EQ(process.mismatches(), 0u);
}

TEST(Pager, MovesOfARegionOnlyThePagesThatAreMeant) {
  PagedProcessOptions options;
  options.shared = false;
  PagedProcess process(options);
  Rig rig(process, options);
  std::bitset<kPagesPerRegion> meant;
  std::size_t there = 0;
  for (std::uint64_t page = 0; page < kPagesPerRegion; page += 3) {
    meant.set(page);
    if (page < rig.object().map->pages().value &&
        rig.object().map->load(PageIndex{page}).state() == PageState::kResident)
      ++there;
  }
  ASSERT_GT(there, 50u);
  RegionToDemote region{&rig.object(), 0};
  region.only = std::make_shared<const std::bitset<kPagesPerRegion>>(meant);
  ASSERT_TRUE(rig.pager().demote(rig.vm, region));
  ASSERT_TRUE(eventually([&] { return rig.idle(); }));
  EXPECT_EQ(rig.vm->count(PageState::kFar), there);
  for (std::uint64_t page = 0; page < std::min(kPagesPerRegion, rig.object().map->pages().value); ++page) {
    const bool far = rig.object().map->load(PageIndex{page}).state() == PageState::kFar;
    EXPECT_TRUE(!far || meant.test(page)) << page;
  }
  process.start();
  EXPECT_TRUE(process.await_operations(10000));
  EXPECT_EQ(process.mismatches(), 0u);
}

// Each piece costs a round trip through the process, so what lies between two that go and is far already goes along.
TEST(Pager, DropsPrivateMemoryInOnePieceAcrossFarPages) {
  PagedProcessOptions options;
  options.shared = false;
  options.write = false;
  PagedProcess process(options);
  Rig rig(process, options);
  // A piece may be called back, and goes the next time.
  const std::uint64_t far = options.pages - options.pages / 16;
  const auto all_out = [&] {
    for (int attempt = 0; attempt < 20 && rig.vm->count(PageState::kFar) != far; ++attempt)
      if (!rig.send_all_out()) return false;
    return rig.vm->count(PageState::kFar) == far;
  };
  ASSERT_TRUE(all_out());
  const std::uint64_t pieces = rig.vm->counters.drops;
  const std::uint64_t demoted = rig.vm->counters.demoted_pages;
  ASSERT_GT(pieces, 0u);

  // Of every piece some pages come home, singly.
  std::uint64_t home = 0;
  for (std::uint64_t page = 1; page < options.pages; page += 4) {
    if (rig.object().map->load(PageIndex{page}).state() != PageState::kFar) continue;
    std::promise<std::uint64_t> left;
    rig.pager().restore(rig.vm, &rig.object(), {PageRun{PageIndex{page}, 1}}, RestoreKind::kAsked,
                        [&](std::uint64_t pages) { left.set_value(pages); });
    ASSERT_EQ(left.get_future().get(), 0u);
    ++home;
  }
  ASSERT_GT(home, 2 * pieces);
  ASSERT_EQ(rig.vm->count(PageState::kFar), far - home);

  ASSERT_TRUE(all_out());
  EXPECT_EQ(rig.vm->counters.drops, 2 * pieces);
  EXPECT_EQ(rig.vm->counters.demoted_pages, demoted + home) << "those that went along were far before";
  EXPECT_EQ(rig.accounted(), options.pages);
  process.start();
  EXPECT_TRUE(process.await_operations(10000));
  EXPECT_EQ(process.mismatches(), 0u);
}

// What leaves a slice lies anywhere in the memory: thousands of stretches, ordered in one go.
TEST(Pager, BringsScatteredStretchesHomeAndNothingBesides) {
  PagedProcessOptions options;
  options.write = false;
  PagedProcess process(options);
  Rig rig(process, options);
  ASSERT_TRUE(rig.send_all_out());
  const std::uint64_t far = rig.vm->count(PageState::kFar);
  std::vector<PageRun> runs;
  for (std::uint64_t page = 0; page + 1 < options.pages; page += 7) runs.push_back({PageIndex{page}, 2});
  runs.push_back({PageIndex{options.pages - 1}, 100});  // the part that there is
  runs.push_back({PageIndex{options.pages + 5}, 3});    // nothing
  std::uint64_t wanted = 0;
  for (const PageRun& run : runs)
    for (std::uint64_t page = run.first.value; page < std::min<std::uint64_t>(run.end(), options.pages); ++page)
      wanted += rig.object().map->load(PageIndex{page}).state() == PageState::kFar;
  std::promise<std::uint64_t> left;
  rig.pager().restore(rig.vm, &rig.object(), runs, RestoreKind::kAsked,
                      [&](std::uint64_t pages) { left.set_value(pages); });
  EXPECT_EQ(left.get_future().get(), 0u);
  EXPECT_EQ(rig.vm->count(PageState::kFar), far - wanted);
  EXPECT_EQ(rig.vm->counters.promoted_restore, wanted);
  std::promise<std::uint64_t> none;
  rig.pager().restore(rig.vm, &rig.object(), {}, RestoreKind::kAsked,
                      [&](std::uint64_t pages) { none.set_value(pages); });
  EXPECT_EQ(none.get_future().get(), 0u);
  process.start();
  EXPECT_TRUE(process.await_operations(10000));
  EXPECT_EQ(process.mismatches(), 0u);
}

TEST(Pager, NeverShowsACorruptPage) {
  PagedProcessOptions options;
  options.threads = 1;
  PagedProcess process(options);
  Rig rig(process, options);
  ASSERT_TRUE(rig.send_all_out());
  rig.store.corrupt = true;
  process.start();
  EXPECT_TRUE(eventually([&] { return rig.integrity_failures > 0; }));
  const std::uint64_t stuck_at = process.operations();
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(process.operations(), stuck_at);
  EXPECT_EQ(process.mismatches(), 0u);
}

TEST(Pager, WaitsForAStoreThatIsAwayForAWhile) {
  PagedProcessOptions options;
  PagedProcess process(options);
  Rig rig(process, options);
  ASSERT_TRUE(rig.send_all_out());
  rig.store.unavailable = 200;
  process.start();
  EXPECT_TRUE(process.await_operations(5000));
  EXPECT_EQ(process.mismatches(), 0u);
}

TEST(Pager, KeepsPagesWhenTheStoreIsFull) {
  PagedProcessOptions options;
  PagedProcess process(options);
  Rig rig(process, options);
  rig.store.full = true;
  ASSERT_TRUE(rig.send_all_out());
  EXPECT_GT(rig.vm->counters.store_full.load(), 0u);
  process.start();
  EXPECT_TRUE(process.await_operations(10000));
  EXPECT_EQ(process.mismatches(), 0u);
}

TEST(Pager, ResumesDropsOfAStoppedProcess) {
  PagedProcessOptions options;
  options.shared = false;
  PagedProcess process(options);
  Rig rig(process, options);
  process.start();
  ASSERT_TRUE(process.await_operations(1000));
  process.signal(SIGSTOP);
  rig.demote_all();
  EXPECT_TRUE(eventually([&] { return rig.vm->drops_overdue > 0; }));
  process.signal(SIGCONT);
  EXPECT_TRUE(eventually([&] { return rig.idle() && rig.vm->drops_overdue == 0; }));
  EXPECT_TRUE(process.await_operations(10000));
  EXPECT_EQ(process.mismatches(), 0u);
}

// A process can write to the ring that was placed in it.
TEST(Pager, NothingGoesThroughABrokenRing) {
  PagedProcessOptions options;
  options.shared = false;
  PagedProcess process(options);
  Rig rig(process, options);
  rig.demote(0);
  ASSERT_TRUE(eventually([&] { return rig.idle() && rig.vm->count(PageState::kFar) > 0; }));
  const std::uint64_t demoted = rig.vm->counters.demoted_pages;
  process.break_dropper();
  rig.demote_all();
  EXPECT_TRUE(eventually([&] { return rig.vm->ring_broken.load(); }));
  EXPECT_TRUE(eventually([&] { return rig.idle(); }));
  EXPECT_EQ(rig.vm->counters.demoted_pages, demoted);
  process.start();
  EXPECT_TRUE(process.await_operations(10000));
  EXPECT_EQ(process.mismatches(), 0u);
  const auto released = rig.release();
  EXPECT_TRUE(released) << released.error().message();
}

// Each of them has as much under way as one VM may, and two as much as all may.
TEST(Pager, StoppedProcessesHoldUpNobodyElse) {
  PagedProcessOptions small;
  PagedProcessOptions large;
  large.shared = false;
  DemoterConfig bounds{.grace = 0ms, .drop_deadline = 200ms};
  bounds.max_pages_per_vm = 2 * kPagesPerRegion;
  bounds.max_pages = 2 * bounds.max_pages_per_vm;
  large.pages = 4 * bounds.max_pages_per_vm;
  std::array<PagedProcess, 3> stopped{PagedProcess(large), PagedProcess(large), PagedProcess(large)};
  PagedProcess works(small);
  std::array<MemoryStore, 3> stores;
  Rig rig(works, small, false, {}, nullptr, bounds);
  std::array<std::shared_ptr<PagedVm>, 3> vms;
  for (std::size_t i = 0; i < vms.size(); ++i) {
    vms[i] = rig.enrol(stopped[i], large, stores[i], false, true);
    stopped[i].signal(SIGSTOP);
  }
  for (const auto& vm : vms) {
    MemoryObject& object = *vm->objects[0];
    for (std::uint64_t region = 0; region < object.map->regions(); ++region) rig.pager().demote(vm, {&object, region});
  }
  for (const auto& vm : vms) EXPECT_TRUE(eventually([&] { return vm->drops_overdue > 0; }));
  rig.demote_all();
  EXPECT_TRUE(eventually([&] { return rig.vm->counters.demoted_pages >= small.pages / 2; }));
  works.start();
  EXPECT_TRUE(works.await_operations(1000));
  for (PagedProcess& each : stopped) each.signal(SIGCONT);
  for (const auto& vm : vms) EXPECT_TRUE(eventually([&] { return vm->drops_overdue == 0; }));
  EXPECT_TRUE(eventually([&] { return rig.idle(); }));
  for (std::size_t i = 0; i < vms.size(); ++i) {
    stopped[i].start();
    EXPECT_TRUE(stopped[i].await_operations(1000));
    EXPECT_EQ(stopped[i].mismatches(), 0u);
  }
  EXPECT_EQ(works.mismatches(), 0u);
}

TEST(Pager, NoticesThatTheProcessDied) {
  PagedProcessOptions options;
  PagedProcess process(options);
  Rig rig(process, options);
  ASSERT_TRUE(rig.send_all_out());
  EXPECT_GT(rig.store.usage().pages.value, 0u);
  process.kill_now();
  EXPECT_TRUE(eventually([&] { return rig.gone.load(); }));
  EXPECT_TRUE(eventually([&] { return rig.store.usage().pages.value == 0; }));
}

// No file may grow while it lives: no page map can be made.
class NoFileGrows {
 public:
  NoFileGrows() {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit none{0, before_.rlim_max};
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    ::setrlimit(RLIMIT_FSIZE, &none);
  }
  ~NoFileGrows() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }
  NoFileGrows(const NoFileGrows&) = delete;
  NoFileGrows& operator=(const NoFileGrows&) = delete;

 private:
  rlimit before_{};
  sighandler_t handler_ = SIG_DFL;
};

// Its missing pages are not zeros, and nobody knows what they are: it must not go on.
TEST(Pager, AChildForWhosePagesThereIsNoMapGetsSigbusAndNeverZeros) {
  PagedProcessOptions options;
  options.shared = false;
  options.fork_children = true;
  PagedProcess process(options);
  Rig rig(process, options);
  ASSERT_TRUE(rig.send_all_out());
  {
    const NoFileGrows no_map;
    process.start();
    ASSERT_TRUE(eventually([&] {
      rig.demote_all();
      return process.children_lost() > 0;
    }));
  }
  EXPECT_GT(rig.vm->counters.children_lost, 0u);
  EXPECT_EQ(rig.integrity_failures, 0) << "the parent has lost nothing";
  rig.churn(20000, 7);
  rig.release_and_expect_nothing_lost(rig.store);
}

TEST(Pager, MovesNothingWhileTheHostIsFrozen) {
  PagedProcessOptions options;
  PagedProcess process(options);
  Rig rig(process, options);
  rig.pager().halt(Halt::kOutward);
  EXPECT_FALSE(rig.demote(0));
  EXPECT_EQ(rig.vm->count(PageState::kFar), 0u);
  rig.pager().halt(Halt::kNothing);
  EXPECT_TRUE(rig.demote(0));
  EXPECT_TRUE(eventually([&] { return rig.vm->count(PageState::kFar) > 0; }));
}

TEST(Pager, BringsHomeOnlyWhatIsAskedForWhileTheHostIsFrozen) {
  PagedProcessOptions options;
  PagedProcess process(options);
  Rig rig(process, options);
  ASSERT_TRUE(rig.send_all_out());
  const std::uint64_t far = rig.vm->count(PageState::kFar);
  ASSERT_GT(far, kPagesPerRegion);
  rig.pager().halt(Halt::kEverything);
  std::atomic<bool> own_done{false};
  rig.pager().restore(rig.vm, &rig.object(), {PageRun{PageIndex{0}, options.pages}}, RestoreKind::kOwnAccord,
                      [&](std::uint64_t) { own_done = true; });
  // Asked for later, and done, so the other one has had its turns.
  std::promise<std::uint64_t> left;
  rig.pager().restore(rig.vm, &rig.object(), {PageRun{PageIndex{0}, kPagesPerRegion}}, RestoreKind::kAsked,
                      [&](std::uint64_t pages) { left.set_value(pages); });
  EXPECT_EQ(left.get_future().get(), 0u);
  EXPECT_FALSE(own_done);
  EXPECT_GE(rig.vm->count(PageState::kFar), far - kPagesPerRegion);
  rig.pager().halt(Halt::kNothing);
  EXPECT_TRUE(eventually([&] { return own_done.load(); }));
  EXPECT_EQ(rig.vm->count(PageState::kFar), 0u);
}

TEST(Pager, BringsHomeOfItsOwnAccordOnlySoMuchInASecond) {
  PagedProcessOptions options;
  PagedProcess process(options);
  Rig rig(process, options);
  ASSERT_TRUE(rig.send_all_out());
  const std::uint64_t far = rig.vm->count(PageState::kFar);
  ASSERT_GT(far, 2 * kPagesPerRegion);
  rig.pager().bound_restores(Bytes{far * kPageSize / 2});
  const auto begun = std::chrono::steady_clock::now();
  std::atomic<bool> own_done{false};
  rig.pager().restore(rig.vm, &rig.object(), {PageRun{PageIndex{0}, options.pages}}, RestoreKind::kOwnAccord,
                      [&](std::uint64_t) { own_done = true; });
  EXPECT_TRUE(eventually([&] { return own_done.load(); }));
  EXPECT_GT(std::chrono::steady_clock::now() - begun, std::chrono::milliseconds(1500)) << "two seconds' worth";
  EXPECT_EQ(rig.vm->count(PageState::kFar), 0u);

  ASSERT_TRUE(rig.send_all_out());
  rig.pager().bound_restores(Bytes{kPageSize});  // hours
  rig.pager().restore(rig.vm, &rig.object(), {PageRun{PageIndex{0}, options.pages}}, RestoreKind::kOwnAccord,
                      [](std::uint64_t) {});
  std::promise<std::uint64_t> left;
  rig.pager().restore(rig.vm, &rig.object(), {PageRun{PageIndex{0}, options.pages}}, RestoreKind::kAsked,
                      [&](std::uint64_t pages) { left.set_value(pages); });
  auto asked = left.get_future();
  ASSERT_EQ(asked.wait_for(std::chrono::minutes(1)), std::future_status::ready) << "what is asked for is not held back";
  EXPECT_EQ(asked.get(), 0u);
}

// Where there is swap, sampling must not fill it: it protects instead.
TEST(Pager, SamplesSharedMemoryByWritesWhereThereIsSwap) {
  const std::filesystem::path proc =
      std::filesystem::temp_directory_path() / ("tidepool-proc-" + std::to_string(::getpid()));
  std::filesystem::create_directory(proc);
  std::ofstream(proc / "swaps") << "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
                                << "/dev/vdb partition\t1048572\t\t0\t\t-2\n";
  kernel::KernelRoots roots;
  roots.proc = proc.string();
  PagedProcessOptions options;
  options.shared = true;
  options.threads = 1;
  PagedProcess process(options);
  Rig rig(process, options, false, roots);
  EXPECT_FALSE(rig.pager().sampling_sees_reads(rig.object()));
  std::vector<PageIndex> pages;
  for (std::uint64_t page = 0; page < 512; page += 8) pages.push_back(PageIndex{page});
  EXPECT_EQ(rig.pager().arm_samples(*rig.vm, rig.object(), pages), pages.size());
  EXPECT_EQ(rig.vm->counters.faults_minor, 0u);
  process.start();
  EXPECT_TRUE(eventually([&] { return rig.object().map->region(0).touches >= 32; }));
  EXPECT_EQ(rig.vm->counters.faults_minor, 0u) << "nothing was unmapped";
  EXPECT_EQ(process.mismatches(), 0u);
  std::filesystem::remove_all(proc);
}

TEST(Pager, CountsAccessesToSampledPages) {
  for (const bool shared : {true, false}) {
    PagedProcessOptions options;
    options.shared = shared;
    options.threads = 1;
    PagedProcess process(options);
    Rig rig(process, options);
    std::vector<PageIndex> pages;
    for (std::uint64_t page = 0; page < 512; page += 8) pages.push_back(PageIndex{page});
    EXPECT_EQ(rig.pager().arm_samples(*rig.vm, rig.object(), pages), pages.size());
    EXPECT_EQ(rig.object().map->region(0).touches, 0u);
    process.start();
    EXPECT_TRUE(eventually([&] { return rig.object().map->region(0).touches >= 32; }));
    EXPECT_EQ(process.mismatches(), 0u);
  }
}

}  // namespace
}  // namespace tidepool::daemon
