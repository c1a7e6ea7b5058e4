// What adoption by rule remembers of those that were refused.
#include <gtest/gtest.h>

#include "daemon/agent/auto_adopter.h"

namespace tidepool::daemon {
namespace {

constexpr kernel::ProcessId kProcess{71, 4711};

TEST(Refusals, LetEverybodyTryOnce) {
  const Refusals refusals;
  EXPECT_TRUE(refusals.due(kProcess, "/usr/bin/a", 1));
}

TEST(Refusals, AreTriedEverMoreRarelyAndNeverGivenUp) {
  Refusals refusals;
  std::uint64_t last = 0;
  std::vector<std::uint64_t> pauses;
  for (std::uint64_t search = 1; search <= 1000; ++search) {
    if (!refusals.due(kProcess, "/usr/bin/a", search)) continue;
    if (last != 0) pauses.push_back(search - last);
    last = search;
    refusals.add(kProcess, "/usr/bin/a", "vm", "locked", search);
  }
  const std::vector<std::uint64_t> first(pauses.begin(), pauses.begin() + 7);
  EXPECT_EQ(first, (std::vector<std::uint64_t>{2, 4, 8, 16, 32, 64, 64}));
  EXPECT_GT(last, 900u);
}

TEST(Refusals, AreToldOnceForEachReason) {
  Refusals refusals;
  EXPECT_TRUE(refusals.add(kProcess, "/usr/bin/a", "vm", "locked", 1));
  EXPECT_FALSE(refusals.add(kProcess, "/usr/bin/a", "vm", "locked", 3));
  EXPECT_TRUE(refusals.add(kProcess, "/usr/bin/a", "vm", "traced", 7));
}

TEST(Refusals, AreListedByName) {
  Refusals refusals;
  refusals.add({72, 1}, "/usr/bin/b", "web", "traced", 1);
  refusals.add(kProcess, "/usr/bin/a", "db", "locked", 1);
  const auto list = refusals.list();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].name, "db");
  EXPECT_EQ(list[0].pid, kProcess.pid);
  EXPECT_EQ(list[1].reason, "traced");
  refusals.remove(kProcess);
  EXPECT_EQ(refusals.list().size(), 1u);
}

TEST(Refusals, EndWhenTheProcessBecomesAnotherProgram) {
  Refusals refusals;
  refusals.add(kProcess, "/usr/bin/a", "vm", "locked", 1);
  EXPECT_FALSE(refusals.due(kProcess, "/usr/bin/a", 2));
  EXPECT_TRUE(refusals.due(kProcess, "/usr/bin/b", 2));
  EXPECT_TRUE(refusals.add(kProcess, "/usr/bin/b", "vm", "locked", 2));
  EXPECT_TRUE(refusals.due(kProcess, "/usr/bin/b", 4)) << "a new program starts with the shortest pause";
}

TEST(Refusals, EndForAnotherProcessWithTheSamePid) {
  Refusals refusals;
  refusals.add(kProcess, "/usr/bin/a", "vm", "locked", 1);
  EXPECT_TRUE(refusals.due({kProcess.pid, kProcess.start_ticks + 1}, "/usr/bin/a", 2));
}

TEST(Refusals, AreForgottenWithTheProcessAndWithTheConfiguration) {
  Refusals refusals;
  refusals.add(kProcess, "/usr/bin/a", "vm", "locked", 1);
  refusals.add({72, 1}, "/usr/bin/a", "vm", "locked", 1);
  refusals.keep({kProcess});
  EXPECT_EQ(refusals.size(), 1u);
  EXPECT_FALSE(refusals.due(kProcess, "/usr/bin/a", 2));
  refusals.clear();
  EXPECT_TRUE(refusals.due(kProcess, "/usr/bin/a", 2));
}

}  // namespace
}  // namespace tidepool::daemon
