// Recorded traces played to the engine.
#include "bench/policy/replay.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "telemetry/trace/trace_writer.h"

namespace tidepool::simulator {
namespace {

using policy::AccessSample;
using policy::kRegionPages;
using std::chrono::seconds;

constexpr std::uint32_t kRegions = 64;

// Every round looks at two pages of each region; those of the first `hot` regions are in use.
UniqueFd trace_of(std::uint32_t hot, unsigned rounds, bool finished = true) {
  UniqueFd file{::memfd_create("trace", MFD_CLOEXEC)};
  telemetry::TraceDescription description;
  description.vm = "web-3";
  description.start = MonoTime{seconds(1000)};
  description.objects = {{0, PageCount{kRegions * kRegionPages}}};
  auto writer = telemetry::TraceWriter::begin(file.duplicate(), "a trace", description, Bytes{16u << 20});
  EXPECT_TRUE(writer);
  for (unsigned r = 0; r < rounds; ++r) {
    std::vector<AccessSample> samples;
    for (std::uint32_t region = 0; region < kRegions; ++region) {
      AccessSample sample;
      sample.object = {VmId{1}, 0};
      sample.pages = {PageIndex{std::uint64_t{region} * kRegionPages}, kRegionPages};
      sample.until = MonoTime{seconds(1000 + r)};
      sample.since = sample.until - seconds(1);
      sample.window = seconds(1);
      sample.watched = 2;
      sample.used = region < hot ? 2 : 0;
      samples.push_back(sample);
    }
    EXPECT_TRUE(writer->round(MonoTime{seconds(1000 + r)}, samples).value_or(false));
  }
  if (finished) {
    EXPECT_TRUE(writer->finish());
  }
  ::lseek(file.get(), 0, SEEK_SET);
  return file;
}

Replayed played(UniqueFd file, const ReplaySpec& spec) {
  auto reader = telemetry::TraceReader::open(std::move(file), "a trace", VmId{1});
  EXPECT_TRUE(reader);
  auto result = replay(std::move(*reader), spec);
  EXPECT_TRUE(result) << result.error().message();
  return result ? *result : Replayed{};
}

TEST(Replay, FindsWhatWasCold) {
  const Replayed result = played(trace_of(kRegions / 4, 900), {.stall_budget = 0.01});
  EXPECT_EQ(result.vm, "web-3");
  EXPECT_TRUE(result.whole);
  EXPECT_EQ(result.rounds, 900u);
  EXPECT_EQ(result.samples, 900u * kRegions);
  EXPECT_EQ(result.strays, 0u);
  EXPECT_DOUBLE_EQ(result.uses, 900.0 * kRegions / 4 * kRegionPages);
  EXPECT_GT(result.demoted, 0u) << "three quarters are never used";
  EXPECT_LT(result.resident, 0.9);
  EXPECT_EQ(result.faults, 0u) << "nothing of the hot quarter goes";
}

TEST(Replay, ChargesForWhatIsUsedAndDoesNotFit) {
  const Replayed fits = played(trace_of(kRegions / 4, 300), {.limit = 0.5, .stall_budget = 1.0});
  const Replayed all = played(trace_of(kRegions, 300), {.limit = 0.5, .stall_budget = 1.0});
  EXPECT_EQ(fits.oracle_faults, 0);
  EXPECT_LT(fits.faults, all.faults);
  EXPECT_GT(all.faults, 0u);
  EXPECT_GT(all.oracle_faults, 0);
  EXPECT_GT(all.stall, 0);
}

TEST(Replay, RepeatsItself) {
  const ReplaySpec spec{.limit = 0.5, .stall_budget = 1.0};
  const Replayed one = played(trace_of(kRegions / 2, 120), spec);
  const Replayed other = played(trace_of(kRegions / 2, 120), spec);
  EXPECT_EQ(one.faults, other.faults);
  EXPECT_EQ(one.demoted, other.demoted);
  EXPECT_EQ(one.resident, other.resident);
}

TEST(Replay, PlaysACutTraceAsFarAsItGoes) {
  const Replayed result = played(trace_of(kRegions / 4, 60, false), {});
  EXPECT_FALSE(result.whole);
  EXPECT_GT(result.rounds, 0u);
  EXPECT_LE(result.rounds, 60u);
}

TEST(Replay, RefusesVmsLargerThanAnyHost) {
  const UniqueFd file{::memfd_create("trace", MFD_CLOEXEC)};
  telemetry::TraceDescription description;
  description.objects = {{0, PageCount{kRegionPages}}, {1, PageCount{~std::uint64_t{0}}}};
  auto writer = telemetry::TraceWriter::begin(file.duplicate(), "a trace", description, Bytes{16u << 20});
  ASSERT_TRUE(writer);
  EXPECT_TRUE(writer->round(MonoTime{seconds(1)}, {}));
  EXPECT_TRUE(writer->finish());
  ::lseek(file.get(), 0, SEEK_SET);
  auto reader = telemetry::TraceReader::open(file.duplicate(), "a trace", VmId{1});
  ASSERT_TRUE(reader);
  EXPECT_EQ(replay(std::move(*reader), {}).error().code, std::errc::value_too_large);
}

}  // namespace
}  // namespace tidepool::simulator
