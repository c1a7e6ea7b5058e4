// The pager and stores that answer later, out of order, or not for a while: as behind a network.
#include "tests/support/later_store.h"

#include <gtest/gtest.h>

#include "daemon/pager/fetch.h"
#include "tests/integration/pager/pager_case.h"

namespace tidepool::daemon {
namespace {

using tests::LaterStore;

struct LaterKind {
  const char* name;
  bool shared;
  bool discard;
  bool forks;
  bool clean;
  LaterStore::Answers answers;
  bool lends = true;
};

class LaterKinds : public testing::TestWithParam<LaterKind> {};

TEST_P(LaterKinds, LosesNothingUnderConstantDemotion) {
  const LaterKind kind = GetParam();
  PagedProcessOptions options;
  options.shared = kind.shared;
  options.discard = kind.discard;
  options.fork_children = kind.forks;
  PagedProcess process(options);
  MemoryStore memory;
  LaterStore later(memory, kind.answers, 300us, 11, kind.lends);
  Rig rig(process, options, kind.clean, {}, &later);
  process.start();
  rig.churn(kind.forks ? 10000 : 20000, 7);
  rig.release_and_expect_nothing_lost(memory);
}

constexpr auto kByThread = LaterStore::Answers::kByThread;
constexpr auto kWhenAsked = LaterStore::Answers::kWhenAsked;
INSTANTIATE_TEST_SUITE_P(Memory, LaterKinds,
                         testing::Values(LaterKind{"Shared", true, false, false, false, kWhenAsked},
                                         LaterKind{"SharedByThread", true, false, false, false, kByThread, false},
                                         LaterKind{"SharedWithForks", true, false, true, false, kWhenAsked},
                                         LaterKind{"Private", false, false, false, false, kWhenAsked, false},
                                         LaterKind{"PrivateDiscarding", false, true, false, false, kByThread},
                                         LaterKind{"PrivateCleanCopies", false, true, false, true, kWhenAsked},
                                         LaterKind{"PrivateWithForks", false, false, true, true, kByThread}),
                         [](const auto& kind) { return kind.param.name; });

class AwayStore : public testing::TestWithParam<bool> {
 protected:
  // A process whose pages are all out, or all at home, and whose store then goes away. Call it after making any other.
  void begin() {
    options.shared = GetParam();
    process = std::make_unique<PagedProcess>(options);
    later = std::make_unique<LaterStore>(memory, LaterStore::Answers::kWhenAsked, 100us, 3);
    rig = std::make_unique<Rig>(*process, options, false, kernel::KernelRoots{}, later.get());
  }
  void send_out_and_go_away() {
    ASSERT_TRUE(rig->send_all_out());
    ASSERT_GT(rig->vm->count(PageState::kFar), 0u);
    later->hold(true);
  }
  void go_away_while_writing() {
    later->hold(true);
    rig->demote_all();
    ASSERT_TRUE(eventually([&] { return later->waiting_writes() != 0; }));
  }
  void expect_nothing_left_over() {
    EXPECT_TRUE(eventually([&] { return memory.usage().pages.value == 0; }));
    EXPECT_EQ(memory.double_releases, 0);
    EXPECT_EQ(memory.reads_of_nothing, 0);
  }

  PagedProcessOptions options;
  MemoryStore memory;
  std::unique_ptr<PagedProcess> process;
  std::unique_ptr<LaterStore> later;
  std::unique_ptr<Rig> rig;
};

INSTANTIATE_TEST_SUITE_P(Memory, AwayStore, testing::Bool(),
                         [](const auto& shared) { return shared.param ? "Shared" : "Private"; });

TEST_P(AwayStore, KeepsNobodyFromWhatIsOnItsWayOut) {
  begin();
  process->start();
  go_away_while_writing();
  EXPECT_TRUE(process->await_operations(20000));
  EXPECT_EQ(rig->vm->count(PageState::kFar), 0u);
  EXPECT_EQ(rig->vm->count(PageState::kDropping), 0u);
  later->hold(false);
  EXPECT_TRUE(eventually([&] { return rig->idle(); }));
  EXPECT_TRUE(process->await_operations(20000));
  EXPECT_EQ(process->mismatches(), 0u);
}

TEST_P(AwayStore, HoldsNoPageOfAProcessThatDied) {
  begin();
  go_away_while_writing();
  process->kill_now();
  EXPECT_TRUE(eventually([&] { return rig->gone.load(); }));
  rig->pager().abandon(rig->vm);
  EXPECT_TRUE(eventually([&] { return rig->idle(); })) << "the store is not waited for";
  later->hold(false);
  expect_nothing_left_over();
}

TEST_P(AwayStore, IsNotWaitedForWhenTheHostIsFrozen) {
  begin();
  go_away_while_writing();
  rig->pager().halt(Halt::kOutward);
  EXPECT_TRUE(eventually([&] { return rig->vm->count(PageState::kDemoting) == 0; }));
  EXPECT_EQ(later->waiting_writes(), 0u);
  later->hold(false);
  expect_nothing_left_over();
  rig->pager().halt(Halt::kNothing);
  process->start();
  EXPECT_TRUE(process->await_operations(10000));
  EXPECT_EQ(process->mismatches(), 0u);
}

TEST_P(AwayStore, IsNotWaitedForAtTheEnd) {
  begin();
  send_out_and_go_away();
  process->start();
  ASSERT_TRUE(eventually([&] { return later->waiting_reads() != 0; }));
  EXPECT_FALSE(rig->vm->dead);
  rig->pager().stop();
  EXPECT_EQ(later->waiting_reads(), 0u);
  EXPECT_EQ(rig->vm->count(PageState::kFetching), 0u) << "what was asked for is far again, for a successor to see";
}

TEST_P(AwayStore, StopsInTheMiddleOfADemotion) {
  begin();
  go_away_while_writing();
  rig->pager().stop();
  EXPECT_EQ(later->waiting_writes(), 0u);
  EXPECT_EQ(rig->vm->count(PageState::kDemoting), 0u);
  EXPECT_EQ(rig->vm->count(PageState::kFar), 0u);
}

// Who waits for a page that is given back meanwhile is not forgotten.
TEST_P(AwayStore, LetsGoOfWhoWaitsForWhatIsGivenBack) {
  begin();
  send_out_and_go_away();
  process->start();
  ASSERT_TRUE(eventually([&] { return later->waiting_reads() >= options.threads; }));
  process->give_all_back();
  later->hold(false);
  EXPECT_TRUE(process->await_operations(1000));
  EXPECT_LE(process->mismatches(), options.threads) << "one for each that waited";
  expect_nothing_left_over();
}

TEST_P(AwayStore, DelaysNoNeighbour) {
  PagedProcessOptions others;
  others.shared = false;
  others.seed = 5;
  PagedProcess neighbour(others);
  begin();
  MemoryStore near;
  const auto vm = rig->enrol(neighbour, others, near);

  send_out_and_go_away();
  process->start();
  // All that a restore of it may have under way waits, and demand beside it.
  std::promise<std::uint64_t> left;
  rig->pager().restore(rig->vm, &rig->object(), {PageRun{PageIndex{0}, options.pages}}, RestoreKind::kAsked,
                       [&](std::uint64_t pages) { left.set_value(pages); });
  ASSERT_TRUE(eventually([&] { return later->waiting_reads() > shape_of(FetchReason::kRestore).ops_per_vm; }));

  neighbour.start();
  for (std::uint64_t region = 0; region < vm->objects[0]->map->regions(); ++region)
    rig->pager().demote(vm, {vm->objects[0].get(), region});
  EXPECT_TRUE(eventually([&] { return vm->counters.promoted_demand > 100; }));
  EXPECT_TRUE(neighbour.await_operations(20000));
  EXPECT_TRUE(rig->release(vm));
  EXPECT_EQ(neighbour.mismatches(), 0u);

  EXPECT_GT(later->waiting_reads(), 0u) << "it was away all the while";
  later->hold(false);
  EXPECT_EQ(left.get_future().get(), 0u);
  EXPECT_TRUE(process->await_operations(10000));
  EXPECT_EQ(process->mismatches(), 0u);
}

}  // namespace
}  // namespace tidepool::daemon
