// Fetching ahead, with a real process: on where it pays, off where it does not, and on again when the load changes.
#include <gtest/gtest.h>

#include "tests/integration/pager/pager_case.h"
#include "tests/support/later_store.h"

namespace tidepool::daemon {
namespace {

using tests::Visits;

// Demotes everything, over and over, until the condition holds.
template <class Condition>
bool demotes_until(Rig& rig, PagedProcess& process, Condition&& condition) {
  return eventually(
             [&] {
               const bool idle = rig.idle();
               for (std::uint64_t region = 0; idle && region < rig.object().map->regions(); ++region)
                 rig.pager().demote(rig.vm, {&rig.object(), region, ~std::uint32_t{0}, /*spares=*/false});
               return condition();
             },
             240s) &&
         process.mismatches() == 0;
}

class Prefetch : public testing::TestWithParam<bool> {};

TEST_P(Prefetch, IsOnWhereItPaysAndOffWhereNot) {
  PagedProcessOptions options;
  options.shared = GetParam();
  options.threads = 1;
  options.pages = 8192;
  options.write = false;
  options.visits = Visits::kInOrder;
  PagedProcess process(options);
  Rig rig(process, options);
  const PagerCounters& counters = rig.vm->counters;
  process.start();

  // A reader of everything in order: what is fetched ahead is used, so ever more of it is.
  EXPECT_TRUE(demotes_until(rig, process, [&] { return counters.prefetch_window >= 128; }))
      << counters.prefetch_window << " pages ahead, " << counters.prefetch_used << " used, " << counters.prefetch_wasted
      << " wasted";
  // Then most pages come home before they are asked for. (How far ahead it pays to fetch depends on what a fault costs
  // at the moment, and that on what else this machine does.)
  std::uint64_t faults = counters.promoted_demand;
  std::uint64_t ahead = counters.promoted_prefetch;
  EXPECT_TRUE(demotes_until(rig, process, [&] {
    const std::uint64_t asked_for = counters.promoted_demand - faults;
    if (asked_for < 2000) return false;
    const bool mostly_ahead = counters.promoted_prefetch - ahead > asked_for;
    faults = counters.promoted_demand;
    ahead = counters.promoted_prefetch;
    return mostly_ahead;
  }));

  // Streams that end where they were found out: nothing that is fetched is used.
  process.visit(Visits::kBeginnings);
  EXPECT_TRUE(demotes_until(rig, process, [&] { return counters.prefetch_window == 0; }))
      << counters.prefetch_window << " pages ahead, " << counters.prefetch_used << " used, " << counters.prefetch_wasted
      << " wasted";
  EXPECT_GT(counters.prefetch_wasted, 0u);
  const std::uint64_t vain = counters.promoted_prefetch;
  const std::uint64_t later = counters.promoted_demand;
  EXPECT_TRUE(demotes_until(rig, process, [&] { return counters.promoted_demand > later + 200; }));
  // Runs that had been ordered may have been on their way.
  EXPECT_LE(counters.promoted_prefetch - vain, 512u);

  process.visit(Visits::kInOrder);
  EXPECT_TRUE(demotes_until(rig, process, [&] { return counters.prefetch_window != 0; }))
      << counters.prefetch_used << " used, " << counters.prefetch_wasted << " wasted";
  const std::uint64_t again = counters.promoted_prefetch;
  EXPECT_TRUE(demotes_until(rig, process, [&] { return counters.promoted_prefetch > again + 500; }));
  EXPECT_EQ(process.mismatches(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Memory, Prefetch, testing::Values(true, false),
                         [](const auto& kind) { return kind.param ? "Shared" : "Private"; });

// A store that takes its time keeps the VM's operations busy: advice waits for them, and is not forgotten.
TEST(PrefetchFromAfar, ServesNearlyAllOfAStream) {
  PagedProcessOptions options;
  options.threads = 1;
  options.pages = 8192;
  options.write = false;
  options.visits = Visits::kInOrder;
  PagedProcess process(options);
  MemoryStore memory;
  tests::LaterStore later(memory, tests::LaterStore::Answers::kWhenAsked, 100us, 5);
  Rig rig(process, options, false, {}, &later);
  const PagerCounters& counters = rig.vm->counters;
  process.start();
  // Everything goes while the process stands still, and comes home as it is walked through.
  const auto once = [&] {
    process.signal(SIGSTOP);
    const bool out = rig.send_all_out();
    process.signal(SIGCONT);
    return out && eventually([&] { return rig.vm->count(PageState::kFar) == 0 && process.operations() != 0; });
  };
  for (int round = 0; round < 100 && counters.prefetch_window < 128; ++round) ASSERT_TRUE(once());
  ASSERT_GE(counters.prefetch_window, 128u)
      << counters.prefetch_used << " used, " << counters.prefetch_wasted << " wasted";
  const std::uint64_t demand = counters.promoted_demand;
  const std::uint64_t ahead = counters.promoted_prefetch;
  for (int round = 0; round < 5; ++round) ASSERT_TRUE(once());
  const std::uint64_t asked_for = counters.promoted_demand - demand;
  EXPECT_GT(asked_for, 0u);
  EXPECT_GE(counters.promoted_prefetch - ahead, 9 * asked_for) << asked_for << " pages on demand";
  EXPECT_EQ(process.mismatches(), 0u);
}

TEST(PrefetchAtRandom, FetchesNextToNothing) {
  PagedProcessOptions options;
  options.threads = 1;
  options.pages = 8192;
  PagedProcess process(options);
  Rig rig(process, options);
  process.start();
  EXPECT_TRUE(demotes_until(rig, process, [&] { return rig.vm->counters.promoted_demand > 2000; }));
  EXPECT_LT(rig.vm->counters.promoted_prefetch * 10, rig.vm->counters.promoted_demand);
}

}  // namespace
}  // namespace tidepool::daemon
