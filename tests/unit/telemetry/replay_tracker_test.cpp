// A recorded trace in a tracker's place: what comes when, what is left out, how it ends, and a policy that goes by it.
#include "telemetry/trace/replay_tracker.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <limits>
#include <set>

#include "telemetry/hotness/tracker_set.h"
#include "telemetry/trace/trace_writer.h"
#include "tests/unit/policy/policy_fixture.h"
#include "tests/unit/telemetry/tracked_fakes.h"

namespace tidepool::telemetry {
namespace {

using namespace std::chrono_literals;
using policy::AccessSample;
using policy::kRegionPages;

constexpr VmId kVm{1};
constexpr std::uint32_t kRegions = 32;
constexpr MonoTime kRecorded{Nanoseconds{100h}};

AccessSample sample_of(std::uint32_t region, std::uint32_t used, MonoTime until) {
  AccessSample sample;
  sample.object = {kVm, 0};
  sample.pages = {PageIndex{std::uint64_t{region} * kRegionPages}, kRegionPages};
  sample.until = until;
  sample.since = until - 1s;
  sample.window = 1s;
  sample.watched = 8;
  sample.used = used;
  return sample;
}

UniqueFd file_of(const std::vector<TraceRound>& rounds, bool finished = true) {
  UniqueFd file{::memfd_create("trace", MFD_CLOEXEC)};
  TraceDescription description;
  description.vm = "web-3";
  description.start = kRecorded;
  description.objects = {{0, PageCount{std::uint64_t{kRegions} * kRegionPages}}};
  auto writer = TraceWriter::begin(file.duplicate(), "a trace", description, Bytes{64u << 20});
  EXPECT_TRUE(writer);
  for (const TraceRound& round : rounds) EXPECT_TRUE(writer->round(round.at, round.samples).value_or(false));
  if (finished) {
    EXPECT_TRUE(writer->finish());
  }
  ::lseek(file.get(), 0, SEEK_SET);
  return file;
}

std::unique_ptr<TraceReader> reader_of(UniqueFd file) {
  auto reader = TraceReader::open(std::move(file), "a trace", kVm);
  EXPECT_TRUE(reader) << reader.error().message();
  return std::move(*reader);
}

// A round per second; in round r region r is in use.
std::vector<TraceRound> some_rounds(std::uint32_t count) {
  std::vector<TraceRound> rounds;
  for (std::uint32_t r = 0; r < count; ++r)
    rounds.push_back({kRecorded + r * 1s, {sample_of(r, 8, kRecorded + r * 1s)}});
  return rounds;
}

MemoryList memory_of(std::uint64_t regions) {
  return managed_memory(std::make_shared<FakePagedObject>(regions));
}

std::vector<AccessSample> round(Tracker& tracker) {
  SampleList seen;
  tracker.round(seen);
  return seen.samples;
}

TEST(ReplayTracker, ReportsEachRoundWhenItsTimeHasCome) {
  ManualClock clock;
  const MonoTime began = clock.now();
  ReplayTracker tracker(reader_of(file_of(some_rounds(4))), clock);
  tracker.set_memory(memory_of(kRegions));
  EXPECT_EQ(tracker.next(), began);
  ASSERT_EQ(round(tracker).size(), 1u);
  EXPECT_TRUE(round(tracker).empty()) << "nothing more happened yet";
  clock.advance(1s);
  const auto second = round(tracker);
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].pages.first.value, kRegionPages);
  EXPECT_EQ(second[0].until, began + 1s);
  EXPECT_EQ(second[0].since, began);
  EXPECT_EQ(second[0].window, 1s);
  EXPECT_TRUE(tracker.info().usable);
  clock.advance(1h);
  EXPECT_EQ(round(tracker).size(), 2u) << "what was missed is made up for";
  EXPECT_FALSE(tracker.info().usable);
  EXPECT_EQ(tracker.info().why_not, "the trace is over");
  EXPECT_EQ(tracker.info().samples, 4u);
}

TEST(ReplayTracker, LeavesOutMemoryThatIsNotThere) {
  ManualClock clock;
  ReplayTracker tracker(reader_of(file_of(some_rounds(6))), clock);
  clock.advance(1s);
  EXPECT_TRUE(round(tracker).empty()) << "nobody gave it memory";
  tracker.set_memory(memory_of(3));  // regions 3 to 5 were freed
  clock.advance(4s);
  const auto seen = round(tracker);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].pages.first.value, 2 * kRegionPages);
  EXPECT_EQ(tracker.strays(), 3u);
}

TEST(ReplayTracker, GivesItsPlaceToTheNextTrackerAtItsEnd) {
  for (const bool finished : {true, false}) {
    ManualClock clock;
    std::vector<std::unique_ptr<Tracker>> all;
    all.push_back(std::make_unique<ReplayTracker>(reader_of(file_of(some_rounds(3), finished)), clock));
    TrackerSet set(std::move(all), 0.01);
    set.set_memory(memory_of(kRegions));
    EXPECT_EQ(set.status()[0].used, finished) << "of a short trace that was cut off nothing had reached the file";
    SampleList sink;
    clock.advance(1h);
    set.round(sink);
    EXPECT_EQ(sink.samples.size(), finished ? 3u : 0u);
    EXPECT_FALSE(set.status()[0].used);
    EXPECT_NE(set.status()[0].why_not_used.find(finished ? "over" : "cut off"), std::string::npos);
  }
}

TEST(ReplayTracker, ReportsWhatIsBeforeTheDamage) {
  // Enough for several blocks; the last one's middle is hit.
  std::vector<TraceRound> rounds;
  for (std::uint32_t r = 0; r < 400; ++r) {
    rounds.push_back({kRecorded + r * 1s, {}});
    for (std::uint32_t i = 0; i < 64; ++i)
      rounds.back().samples.push_back(sample_of(i % kRegions, (r * 31 + i * 7) % 9, kRecorded + r * 1s));
  }
  const UniqueFd file = file_of(rounds);
  const off_t size = ::lseek(file.get(), 0, SEEK_END);
  char byte = 0;
  ASSERT_EQ(::pread(file.get(), &byte, 1, size - 60), 1);
  byte = static_cast<char>(byte ^ 0x55);
  ASSERT_EQ(::pwrite(file.get(), &byte, 1, size - 60), 1);
  ::lseek(file.get(), 0, SEEK_SET);
  ManualClock clock;
  ReplayTracker tracker(reader_of(file.duplicate()), clock);
  tracker.set_memory(memory_of(kRegions));
  clock.advance(1h);
  EXPECT_FALSE(round(tracker).empty());
  EXPECT_FALSE(tracker.info().usable);
  ASSERT_TRUE(tracker.error());
  EXPECT_EQ(tracker.error()->code, std::errc::bad_message);
  EXPECT_NE(tracker.info().why_not.find("damaged"), std::string::npos) << tracker.info().why_not;
}

TEST(ReplayTracker, KeepsItsTimesWithinTheClocks) {
  constexpr MonoTime kLast{Nanoseconds::max()};
  AccessSample late = sample_of(1, 4, kLast);
  ManualClock clock;
  clock.advance(200h);  // later than the recording: times move towards the end of time
  ReplayTracker tracker(
      reader_of(file_of({{kRecorded, {sample_of(0, 8, kRecorded)}}, {kRecorded - 50h, {late}}, {kLast, {late}}})),
      clock);
  tracker.set_memory(memory_of(kRegions));
  const auto seen = round(tracker);
  ASSERT_EQ(seen.size(), 2u) << "a round before the one before is due at once";
  EXPECT_EQ(tracker.backward(), 1u);
  EXPECT_EQ(seen[1].until, kLast);
  EXPECT_LE(seen[1].since, seen[1].until);
  EXPECT_EQ(tracker.next(), kLast);
  for (const AccessSample& sample : seen) EXPECT_TRUE(policy::well_formed(sample));

  ManualClock early;  // before the recording: times move towards zero
  early.advance(-59min);
  ReplayTracker other(reader_of(file_of({{kRecorded, {sample_of(0, 8, MonoTime{2s})}}})), early);
  other.set_memory(memory_of(kRegions));
  const auto first = round(other);
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].since, MonoTime{});
  EXPECT_TRUE(policy::well_formed(first[0]));
}

// Policy is told by a recording what it is otherwise told by the host's own trackers.
TEST(ReplayTracker, DrivesThePolicyEngine) {
  constexpr std::uint32_t kHot = 8;
  std::vector<TraceRound> rounds;
  for (std::uint32_t r = 0; r < 600; ++r) {
    rounds.push_back({kRecorded + r * 1s, {}});
    for (std::uint32_t region = 0; region < kRegions; ++region)
      rounds.back().samples.push_back(sample_of(region, region < kHot ? 8 : 0, rounds.back().at));
  }
  policy::TestHost host;
  policy::TestVm& vm = host.add(kVm.value, kRegions);
  vm.view.stall_budget = 0.01;
  ManualClock clock;
  std::vector<std::unique_ptr<Tracker>> all;
  all.push_back(std::make_unique<ReplayTracker>(reader_of(file_of(rounds)), clock));
  TrackerSet trackers(std::move(all), 0.01);
  trackers.set_memory(memory_of(kRegions));
  std::set<std::uint32_t> demoted;
  while (trackers.status()[0].used) {
    SampleList seen;
    trackers.round(seen);
    for (const AccessSample& sample : seen.samples) {
      EXPECT_EQ(sample.until, clock.now());
      const bool resident = vm.region(sample.pages.first.value / kRegionPages).resident > 0;
      if (resident) host.samples.push_back(sample);
    }
    const policy::Plan plan = host.tick();
    for (const policy::Move& move : plan.demotions) demoted.insert(move.region.region);
    host.carry_out(plan);
    clock.advance(1s);
  }
  EXPECT_EQ(trackers.status()[0].why_not_used, "the trace is over");
  EXPECT_FALSE(demoted.empty()) << "three quarters were never used";
  for (const std::uint32_t region : demoted) EXPECT_GE(region, kHot);
}

}  // namespace
}  // namespace tidepool::telemetry
