// Traces that nobody vouches for, down to those whose checksums are right: read, replayed, and played to policy.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench/policy/replay.h"
#include "telemetry/trace/replay_tracker.h"
#include "telemetry/trace/trace_block.h"
#include "telemetry/trace/trace_writer.h"
#include "tests/fuzz/fuzz_driver.h"

namespace tidepool::telemetry {
namespace {

using fuzz::Corpus;
using fuzz::Mutator;
using policy::AccessSample;
using std::chrono::seconds;

constexpr VmId kVm{7};
constexpr std::uint64_t kPages = 8 * kPagesPerHugePage;

UniqueFd file_with(std::string_view bytes) {
  UniqueFd file{::memfd_create("trace", MFD_CLOEXEC)};
  EXPECT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  return file;
}

std::string recorded_trace() {
  UniqueFd file = file_with("");
  TraceDescription description;
  description.vm = "web-3";
  description.start = MonoTime{seconds(1000)};
  description.objects = {{0, PageCount{kPages}}, {3, PageCount{512}}};
  auto writer = TraceWriter::begin(file.duplicate(), "a trace", description, Bytes{4u << 20});
  for (unsigned r = 0; r < 12; ++r) {
    std::vector<AccessSample> samples;
    for (std::uint32_t i = 0; i < 9; ++i) {
      AccessSample sample;
      sample.object = {kVm, i == 8 ? 3u : 0u};
      sample.pages = {PageIndex{i == 8 ? 0 : std::uint64_t{i} * 512}, 512};
      sample.until = MonoTime{seconds(1001 + r)};
      sample.since = MonoTime{seconds(1000 + r)};
      sample.window = seconds(1);
      sample.watched = 8;
      sample.used = (i * 3 + r) % 9;
      sample.far = i == 5;
      sample.confidence = i == 6 ? 0.8F : 1;
      samples.push_back(sample);
    }
    EXPECT_TRUE(writer->round(MonoTime{seconds(1001 + r)}, samples).value_or(false));
  }
  EXPECT_TRUE(writer->finish());
  std::string bytes(static_cast<std::size_t>(::lseek(file.get(), 0, SEEK_END)), '\0');
  EXPECT_EQ(::pread(file.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  return bytes;
}

struct Block {
  BlockKind kind{};
  std::string content;
};

// Contents of the blocks of a sound trace.
std::vector<Block> blocks_of(const std::string& trace) {
  std::vector<Block> blocks;
  BlockCodec codec;
  for (std::size_t at = kTracePrefix; at < trace.size();) {
    ByteCursor head(std::string_view(trace).substr(at, kBlockHead));
    const auto kind = static_cast<BlockKind>(head.u32());
    const std::uint32_t packed = head.u32();
    const std::uint32_t length = head.u32();
    blocks.push_back({kind, codec.unpack(std::string_view(trace).substr(at + kBlockHead, packed), length).value()});
    at += kBlockHead + packed;
  }
  return blocks;
}

// Everything there is to be read; samples are sound, whatever the file is.
std::size_t read_all(std::string_view bytes) {
  auto reader = TraceReader::open(file_with(bytes), "a trace", kVm);
  if (!reader) return 0;
  std::size_t rounds = 0;
  for (;;) {
    const auto round = (*reader)->next();
    if (!round || !*round) return rounds;
    ++rounds;
    EXPECT_GE((*round)->at, MonoTime{});
    for (const AccessSample& sample : (*round)->samples) {
      EXPECT_TRUE(traceable(sample));
      EXPECT_EQ(sample.object.vm, kVm);
    }
  }
}

class NoNonsense final : public SampleSink {
 public:
  void add(const AccessSample& sample) override {
    EXPECT_TRUE(policy::well_formed(sample));
    EXPECT_LE(sample.pages.end(), kPages);
    EXPECT_GE(sample.since, MonoTime{});
  }
};

void replay_all(std::string_view bytes, Mutator& mutator) {
  auto reader = TraceReader::open(file_with(bytes), "a trace", kVm);
  if (!reader) return;
  ManualClock clock;
  ReplayTracker tracker(std::move(*reader), clock);
  auto memory = std::make_shared<TrackedMemory>();
  memory->vm = kVm;
  memory->objects.resize(1);
  memory->objects[0].id = {kVm, 0};
  memory->objects[0].pages = PageCount{kPages};
  tracker.set_memory({memory});
  NoNonsense sink;
  MonoTime last{};
  for (int i = 0; i < 40 && tracker.info().usable; ++i) {
    ASSERT_GE(*tracker.next(), last) << "time goes on";
    last = *tracker.next();
    clock.advance(seconds(static_cast<std::int64_t>(mutator.number(100))));
    tracker.round(sink);
  }
}

void play_to_policy(std::string_view bytes) {
  auto reader = TraceReader::open(file_with(bytes), "a trace", kVm);
  if (!reader) return;
  // What a VM of any size needs is not the question here.
  std::uint64_t pages = 0;
  for (const TracedObject& object : (*reader)->description().objects)
    pages += std::min<std::uint64_t>(object.pages.value, 1ull << 40);
  if (pages > 64 * kPages) return;
  const auto played = simulator::replay(std::move(*reader), {.limit = 0.5, .stall_budget = 0.5});
  if (!played) return;
  ASSERT_GE(played->resident, 0);
  ASSERT_LE(played->resident, 1);
}

TEST(FuzzTrace, AnyBytes) {
  const Corpus corpus{.inputs = {recorded_trace()}, .tokens = {std::string(kTraceMagic)}};
  ASSERT_EQ(read_all(corpus.inputs.front()), 12u);
  fuzz::fuzz(corpus, 4000, [](std::string_view input, Mutator&) { ASSERT_LE(read_all(input), 100u); });
}

// Behind the checksums: contents are changed and packed anew.
TEST(FuzzTrace, ContentsThatSomebodyMade) {
  const std::string sound = recorded_trace();
  const std::vector<Block> blocks = blocks_of(sound);
  ASSERT_GE(blocks.size(), 3u);
  Corpus corpus;
  for (const Block& block : blocks) corpus.inputs.push_back(block.content);
  corpus.tokens = {std::string(10, '\xff'), std::string("\xff\xff\xff\xff\x0f"), std::string(1, '\3'),
                   std::string("\xfe\xff\xff\xff\xff\xff\xff\xff\xff\1")};
  BlockCodec codec;
  std::size_t believed = 0;
  fuzz::fuzz(corpus, 4000, [&](std::string_view content, Mutator& mutator) {
    std::string made = sound.substr(0, kTracePrefix);
    const std::size_t changed = mutator.number(blocks.size());
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const auto packed = codec.pack(blocks[i].kind, i == changed ? content : std::string_view(blocks[i].content));
      if (!packed) return;
      made += *packed;
    }
    believed += read_all(made);
    replay_all(made, mutator);
    play_to_policy(made);
  });
  EXPECT_GT(believed, 1000u);
}

}  // namespace
}  // namespace tidepool::telemetry
