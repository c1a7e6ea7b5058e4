// Goal: pages of a slice that its server has handed over come without a word to it, and nothing that it hands over does
// any harm.
#include <dirent.h>

#include <algorithm>

#include "tests/unit/pool/client/link_rig.h"

namespace tidepool::pool {
namespace {

using protocol::ErrorCode;
using protocol::MessageType;
using protocol::SliceId;

ServerSettings hands(Hands what) {
  ServerSettings settings;
  settings.hands = what;
  return settings;
}

std::ptrdiff_t reads_asked(LinkRig& rig) {
  return std::ranges::count(rig.server().requests_for_pages(), MessageType::kRead);
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  DIR* const folder = ::opendir("/proc/self/fd");
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count;
}

class SliceFile : public testing::TestWithParam<bool> {
 protected:
  LinkRig rig{hands(Hands::kFile), [](ServerLinkOptions& options) { options.authenticate_unix = GetParam(); }};
};
INSTANTIATE_TEST_SUITE_P(Tags, SliceFile, testing::Bool());

TEST_P(SliceFile, GivesPagesWithoutAskingForThem) {
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  ASSERT_TRUE(rig.write(999, 3, 1));
  ASSERT_TRUE(rig.reads(999, 3));
  ASSERT_TRUE(rig.write(999, 4, 2));
  Asked again(LinkOp::kRead, SliceId{1}, {999});
  ASSERT_EQ(rig.ask(again), LinkOutcome::kAnswered);
  EXPECT_TRUE(again.holds(0, 4));
  EXPECT_EQ(again.item(0).version, 2u);
  EXPECT_EQ(again.item(0).tag[0], 4);
  EXPECT_EQ(reads_asked(rig), 0);
  const LinkFigures figures = rig.link().figures();
  EXPECT_EQ(figures.from_files, 2u);
  EXPECT_EQ(figures.requests, 4u);
  EXPECT_GT(figures.typical_read.count(), 0);
}

TEST_P(SliceFile, IsNotForWhatNobodyWaitsForNorForMuch) {
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  std::vector<std::uint32_t> slots;
  for (std::uint32_t slot = 0; slot < 20; ++slot) slots.push_back(slot);
  for (const std::uint32_t slot : slots) ASSERT_TRUE(rig.write(slot, static_cast<std::uint8_t>(slot), 1));
  EXPECT_TRUE(rig.reads(3, 3, Priority::kPrefetch));
  EXPECT_EQ(reads_asked(rig), 1);
  Asked many(LinkOp::kRead, SliceId{1}, slots);
  EXPECT_EQ(rig.ask(many), LinkOutcome::kAnswered);
  EXPECT_EQ(reads_asked(rig), 2);
  EXPECT_EQ(rig.link().figures().from_files, 0u);
}

TEST_P(SliceFile, LeavesToTheServerWhatIsNotInIt) {
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  Asked nothing(LinkOp::kRead, SliceId{1}, {5});
  ASSERT_EQ(rig.ask(nothing), LinkOutcome::kAnswered);
  EXPECT_EQ(nothing.item(0).status, ErrorCode::kEmpty);
  EXPECT_EQ(reads_asked(rig), 1);
  ASSERT_TRUE(rig.write(5, 3, 1));
  ASSERT_TRUE(rig.reads(5, 3));
  Asked discard(LinkOp::kDiscard, SliceId{1}, {5}, Priority::kWriteBack);
  discard.item(0).version = 2;
  ASSERT_EQ(rig.ask(discard), LinkOutcome::kAnswered);
  ASSERT_EQ(rig.ask(nothing), LinkOutcome::kAnswered);
  EXPECT_EQ(nothing.item(0).status, ErrorCode::kEmpty);
  Asked beyond(LinkOp::kRead, SliceId{1}, {1'000'000});
  EXPECT_TRUE(rig.ask(beyond));
}

TEST_P(SliceFile, GoesWithItsSliceAndComesWithAConnection) {
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  ASSERT_TRUE(rig.write(1, 3, 1));
  const std::size_t open = open_descriptors();
  for (int i = 0; i < 5; ++i) {
    const std::size_t ups = rig.ups().size();
    rig.server().cut();
    ASSERT_TRUE(rig.up_times(ups + 1) || rig.is_up());
    ASSERT_TRUE(eventually([&] { return rig.is_up() && rig.reads(1, 3); }));
  }
  EXPECT_EQ(reads_asked(rig), 0);
  EXPECT_LE(open_descriptors(), open + 2) << "one file to a slice, however often it came";
  rig.link().release(SliceId{1});
  Asked gone(LinkOp::kRead, SliceId{1}, {1});
  EXPECT_TRUE(eventually([&] { return rig.server().attached_slices() == 0; }));
  EXPECT_EQ(rig.ask(gone), LinkOutcome::kRefused);
  EXPECT_EQ(gone.request().refusal, ErrorCode::kNoSuchSlice);
}

class HarmlessFile : public testing::TestWithParam<Hands> {};
INSTANTIATE_TEST_SUITE_P(SliceFiles, HarmlessFile,
                         testing::Values(Hands::kNothing, Hands::kShortFile, Hands::kPipe, Hands::kOtherFile));

TEST_P(HarmlessFile, LeavesEverythingToTheServer) {
  LinkRig rig(hands(GetParam()));
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  ASSERT_TRUE(rig.write(1, 3, 1));
  EXPECT_TRUE(rig.reads(1, 3));
  EXPECT_EQ(reads_asked(rig), 1);
  EXPECT_EQ(rig.link().figures().from_files, 0u);
  EXPECT_EQ(rig.link().figures().bad_frames, 0u);
}

class LyingAboutFiles : public testing::TestWithParam<Hands> {};
INSTANTIATE_TEST_SUITE_P(SliceFiles, LyingAboutFiles, testing::Values(Hands::kNoFile, Hands::kTooMany));

TEST_P(LyingAboutFiles, CutsTheConnectionAndKeepsNoDescriptor) {
  const std::size_t open = open_descriptors();
  LinkRig rig(hands(GetParam()));
  EXPECT_NE(rig.attach(1).outcome, AttachOutcome::kCreated);
  EXPECT_TRUE(eventually([&] { return rig.link().figures().bad_frames >= 1; }));
  // Its own sockets, and those of the server's thread.
  EXPECT_LE(open_descriptors(), open + 40);
  ServerSettings honest = rig.settings();
  honest.hands = Hands::kFile;
  rig.server().restart(honest);
  EXPECT_TRUE(eventually([&] { return rig.attach(2).outcome == AttachOutcome::kCreated; }));
}

}  // namespace
}  // namespace tidepool::pool
