// Traces: written and read back, cut off, damaged and made up.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <limits>
#include <random>

#include "telemetry/trace/trace_reader.h"
#include "telemetry/trace/trace_writer.h"

namespace tidepool::telemetry {
namespace {

using policy::AccessSample;
using std::chrono::seconds;

constexpr Bytes kRoomy{64u << 20};
constexpr VmId kVm{7};

UniqueFd memory_file() {
  return UniqueFd{::memfd_create("trace", MFD_CLOEXEC)};
}

std::string content_of(const UniqueFd& file) {
  std::string bytes(static_cast<std::size_t>(::lseek(file.get(), 0, SEEK_END)), '\0');
  EXPECT_EQ(::pread(file.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  return bytes;
}

UniqueFd file_with(std::string_view bytes) {
  UniqueFd file = memory_file();
  EXPECT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  return file;
}

TraceDescription web_3() {
  TraceDescription description;
  description.vm = "web-3";
  description.recorded = std::chrono::system_clock::time_point(seconds(1'700'000'000));
  description.start = MonoTime{seconds(1000)};
  description.objects = {{0, PageCount{1 << 20}}, {3, PageCount{512}}};
  return description;
}

bool same(const AccessSample& a, const AccessSample& b) {
  return a.object == b.object && a.pages == b.pages && a.since == b.since && a.until == b.until &&
         a.window == b.window && a.watched == b.watched && a.used == b.used && a.sees == b.sees &&
         a.evidence == b.evidence && a.far == b.far &&
         std::bit_cast<std::uint32_t>(a.confidence) == std::bit_cast<std::uint32_t>(b.confidence);
}

void expect_same(const std::vector<TraceRound>& read, const std::vector<TraceRound>& written) {
  ASSERT_EQ(read.size(), written.size());
  for (std::size_t r = 0; r < read.size(); ++r) {
    EXPECT_EQ(read[r].at, written[r].at) << r;
    ASSERT_EQ(read[r].samples.size(), written[r].samples.size()) << r;
    for (std::size_t i = 0; i < read[r].samples.size(); ++i)
      EXPECT_TRUE(same(read[r].samples[i], written[r].samples[i])) << "round " << r << " sample " << i;
  }
}

// Well formed, and as different from each other as samples can be.
AccessSample some_sample(std::mt19937_64& random) {
  AccessSample sample;
  const bool wild = random() % 8 == 0;
  sample.object = {kVm, wild ? static_cast<std::uint32_t>(random()) : static_cast<std::uint32_t>(random() % 2)};
  sample.pages = {PageIndex{wild ? random() >> 1 : random() % 4096 * 512}, wild ? 1 + (random() >> 2) : 512};
  sample.since = MonoTime{Nanoseconds{static_cast<std::int64_t>(wild ? random() >> 2 : random() % 1000)}};
  sample.until = sample.since + Nanoseconds{static_cast<std::int64_t>(random() % 1'000'000'000)};
  sample.window = Nanoseconds{static_cast<std::int64_t>(random() % 1'000'000'000)};
  sample.sees = static_cast<policy::Sees>(random() % 3);
  sample.evidence = static_cast<policy::Evidence>(random() % 2);
  sample.far = random() % 2 == 0;
  if (sample.evidence == policy::Evidence::kLooks) {
    sample.watched = 1 + static_cast<std::uint32_t>(random() % (wild ? 0xffffffffu : 512));
    sample.used = static_cast<std::uint32_t>(random() % (std::uint64_t{sample.watched} + 1));
  } else {
    sample.used = static_cast<std::uint32_t>(random());
  }
  if (wild) sample.confidence = static_cast<float>(random() % 1000) / 1000;
  EXPECT_TRUE(policy::well_formed(sample));
  return sample;
}

std::vector<TraceRound> some_rounds(unsigned count, unsigned samples, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::vector<TraceRound> rounds;
  for (unsigned r = 0; r < count; ++r) {
    TraceRound round{MonoTime{seconds(1000 + r)}, {}};
    // Some see nothing.
    for (unsigned i = 0; i < samples && r % 4 != 1; ++i) round.samples.push_back(some_sample(random));
    rounds.push_back(std::move(round));
  }
  return rounds;
}

std::string trace_of(const std::vector<TraceRound>& rounds) {
  const UniqueFd file = memory_file();
  auto writer = TraceWriter::begin(file.duplicate(), "a trace", web_3(), kRoomy);
  EXPECT_TRUE(writer);
  for (const TraceRound& round : rounds) EXPECT_TRUE(writer->round(round.at, round.samples).value_or(false));
  EXPECT_TRUE(writer->finish());
  EXPECT_EQ(writer->written().value, content_of(file).size());
  return content_of(file);
}

struct Read {
  bool opened = false;
  TraceDescription description;
  std::vector<TraceRound> rounds;
  std::optional<TraceTotals> totals;
  std::optional<Error> error;
};

Read read_back(std::string_view bytes) {
  Read read;
  auto reader = TraceReader::open(file_with(bytes), "a trace", kVm);
  if (!reader) {
    read.error = reader.error();
    return read;
  }
  read.opened = true;
  for (;;) {
    auto round = (*reader)->next();
    if (!round) {
      read.error = round.error();
      const auto after = (*reader)->next();
      EXPECT_TRUE(after && !*after) << "after an error there is nothing more";
      break;
    }
    if (!*round) break;
    read.rounds.push_back(std::move(**round));
  }
  read.description = (*reader)->description();
  read.totals = (*reader)->totals();
  return read;
}

TEST(Trace, IsReadBackAsItWasWritten) {
  // Enough for several blocks, some of which end within a round.
  const auto rounds = some_rounds(40, 3000);
  const Read read = read_back(trace_of(rounds));
  EXPECT_FALSE(read.error) << read.error->message();
  EXPECT_EQ(read.description, web_3());
  expect_same(read.rounds, rounds);
  ASSERT_TRUE(read.totals);
  EXPECT_EQ(*read.totals, (TraceTotals{.rounds = 40, .samples = 30 * 3000, .lost = 0}));
}

TEST(Trace, OfNothingIsATrace) {
  const Read read = read_back(trace_of({}));
  EXPECT_EQ(read.description, web_3());
  EXPECT_TRUE(read.rounds.empty());
  EXPECT_EQ(read.totals, TraceTotals{});
}

TEST(Trace, OfRegularLooksTakesFewBytesPerSample) {
  std::vector<TraceRound> rounds;
  for (unsigned r = 0; r < 20; ++r) {
    TraceRound round{MonoTime{seconds(1000 + r)}, {}};
    for (std::uint64_t region = 0; region < 2048; ++region) {
      AccessSample sample;
      sample.object = {kVm, 0};
      sample.pages = {PageIndex{region * 512}, 512};
      sample.until = round.at;
      sample.since = round.at - seconds(1);
      sample.window = seconds(1);
      sample.watched = 2;
      sample.used = region % 5 == 0 ? 1 : 0;
      round.samples.push_back(sample);
    }
    rounds.push_back(std::move(round));
  }
  EXPECT_LT(trace_of(rounds).size(), 20u * 2048 * 2);
}

TEST(Trace, CutOffAnywhereGivesWhatWasBeforeTheCut) {
  const auto rounds = some_rounds(24, 6);
  const std::string whole = trace_of(rounds);
  std::size_t most = 0;
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const Read read = read_back(std::string_view(whole).substr(0, length));
    EXPECT_FALSE(read.totals) << length;
    if (!read.opened) {
      EXPECT_EQ(read.error->code, std::errc::invalid_argument) << length << read.error->message();
      EXPECT_EQ(most, 0u) << "a longer one is never worse";
      continue;
    }
    EXPECT_FALSE(read.error) << length << read.error->message();
    ASSERT_LE(read.rounds.size(), rounds.size());
    ASSERT_GE(read.rounds.size(), most) << length;
    most = read.rounds.size();
    expect_same(read.rounds, {rounds.begin(), rounds.begin() + static_cast<std::ptrdiff_t>(most)});
  }
  EXPECT_EQ(most, rounds.size()) << "only the end was cut off";
}

TEST(Trace, TellsEveryFlippedBitOfABlock) {
  const auto rounds = some_rounds(8, 6);
  const std::string whole = trace_of(rounds);
  for (std::size_t at = 0; at < whole.size() * 8; ++at) {
    std::string bytes = whole;
    bytes[at / 8] = static_cast<char>(bytes[at / 8] ^ (1 << (at % 8)));
    const Read read = read_back(bytes);
    // A length that grew looks like a cut.
    const bool noticed = read.error || !read.totals;
    // zstd's frame header has bits that mean nothing: then all is as it was.
    if (noticed) continue;
    EXPECT_EQ(read.description, web_3()) << "bit " << at;
    expect_same(read.rounds, rounds);
  }
}

TEST(Trace, RandomBytesNeverPass) {
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::string whole = trace_of(some_rounds(8, 6));
  for (int i = 0; i < 2000; ++i) {
    std::string bytes(random() % 200, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    EXPECT_FALSE(read_back(bytes).opened);
    // After a good beginning.
    read_back(whole.substr(0, 16 + random() % (whole.size() - 16)) + bytes);
    // With a good head.
    read_back(whole.substr(0, 28) + bytes);
  }
}

// What the checksum vouches for can be made to do harm, too.
std::string block(BlockKind kind, const std::string& content) {
  return *BlockCodec().pack(kind, content);
}

std::string prefix() {
  std::string bytes(kTraceMagic);
  put_u32(bytes, kTraceVersion);
  put_u32(bytes, kPageSize);
  return bytes;
}

std::string description() {
  std::string content;
  put_varint(content, 1);
  content += "a";
  put_signed(content, 0);
  put_signed(content, 0);
  put_varint(content, 0);
  return block(BlockKind::kDescription, content);
}

void expect_refused(const std::string& bytes, std::errc code, const std::string& words) {
  const Read read = read_back(bytes);
  ASSERT_TRUE(read.error) << words;
  EXPECT_EQ(read.error->code, code) << read.error->message();
  EXPECT_NE(read.error->message().find(words), std::string::npos) << read.error->message();
}

TEST(Trace, HostileHeadersAreRefusedByName) {
  expect_refused("", std::errc::invalid_argument, "no trace");
  expect_refused(std::string(100, '\0'), std::errc::invalid_argument, "no trace");
  std::string bytes(kTraceMagic);
  put_u32(bytes, 2);
  put_u32(bytes, kPageSize);
  expect_refused(bytes, std::errc::not_supported, "version is 2");
  bytes = std::string(kTraceMagic);
  put_u32(bytes, kTraceVersion);
  put_u32(bytes, 65536);
  expect_refused(bytes, std::errc::not_supported, "65536");
  expect_refused(prefix(), std::errc::invalid_argument, "cut off");
  expect_refused(prefix() + block(BlockKind::kEnd, ""), std::errc::bad_message, "does not begin");
  const auto head = [](std::uint32_t kind, std::uint32_t packed, std::uint32_t content) {
    std::string text;
    put_u32(text, kind);
    put_u32(text, packed);
    put_u32(text, content);
    return prefix() + text;
  };
  expect_refused(head(0, 0, 0), std::errc::bad_message, "kind 0");
  expect_refused(head(99, 8, 8), std::errc::bad_message, "kind 99");
  expect_refused(head(1, 8, 0xffffffff), std::errc::bad_message, "so long");
  expect_refused(head(1, 0xffffffff, 100), std::errc::bad_message, "so long");
  expect_refused(head(1, 0, 100), std::errc::bad_message, "checksum");
  std::string content;
  put_varint(content, 100'000);
  expect_refused(prefix() + block(BlockKind::kDescription, content), std::errc::bad_message, "name");
  content.clear();
  put_varint(content, 0);
  put_signed(content, 0);
  put_signed(content, 0);
  put_varint(content, std::numeric_limits<std::uint64_t>::max());
  expect_refused(prefix() + block(BlockKind::kDescription, content), std::errc::bad_message, "objects");
  content.pop_back();
  EXPECT_TRUE(read_back(prefix() + block(BlockKind::kDescription, content)).error) << "an endless number";
}

TEST(Trace, HostileSamplesAreRefused) {
  const auto refused = [](const std::string& content) {
    const Read read = read_back(prefix() + description() + block(BlockKind::kSamples, content));
    return read.error && read.error->code == std::errc::bad_message;
  };
  const std::string round("\x03\x02", 2);
  EXPECT_FALSE(refused(round));
  EXPECT_TRUE(refused(std::string("\x03\x01", 2))) << "before the clock began";
  EXPECT_TRUE(refused(std::string("\xff\x02", 2))) << "a round with a sample's flags";
  EXPECT_TRUE(refused(std::string("\x82\x00\x01\x01\x01", 5))) << "a sample before the first round";
  EXPECT_FALSE(refused(round + std::string("\x82\x00\x01\x01\x01", 5)));
  EXPECT_TRUE(refused(round + std::string("\x82\x00\x00\x01\x01", 5))) << "no pages";
  EXPECT_TRUE(refused(round + std::string("\x82\x00\x01\x01\x02", 5))) << "more uses than looks";
  EXPECT_TRUE(refused(round + std::string("\x82\x00\x01", 3))) << "half a sample";
  EXPECT_TRUE(refused(round + std::string("\x82\x00\x01\xff\xff\xff\xff\x7f\x01", 9))) << "beyond 32 bits";
  EXPECT_TRUE(refused(round + std::string("\x82\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01\x01", 15)))
      << "beyond 64 bits";
  EXPECT_TRUE(refused(round + std::string("\xc2\xff\xff\xff\xff\x00\x01\x01\x01", 9))) << "a confidence that is none";
  EXPECT_TRUE(read_back(prefix() + description() + block(BlockKind::kEnd, "x")).error);
}

TEST(Trace, EndlessRoundIsRefused) {
  // 2 MiB of content compress to nearly nothing: a small file must not become much memory.
  std::string content("\x03\x02", 2);
  const std::string sample("\x02\x00\x01\x01", 4);
  content += std::string("\x82\x00\x01\x01\x01", 5);
  while (content.size() + sample.size() <= kMostBlockContent) content += sample;
  std::string more;
  while (more.size() + sample.size() <= kMostBlockContent) more += sample;
  // In the next block the first sample says how many pages again.
  const std::string again = std::string("\x82\x00\x01\x01\x01", 5) + more.substr(8);
  const std::string first = block(BlockKind::kSamples, content);
  const std::string rest = block(BlockKind::kSamples, again);
  EXPECT_LT(first.size() + rest.size(), 64u << 10);
  expect_refused(prefix() + description() + first + rest + rest + rest, std::errc::bad_message, "samples");
}

TEST(Trace, SaysWhenTheObjectsChanged) {
  const UniqueFd file = memory_file();
  auto writer = TraceWriter::begin(file.duplicate(), "a trace", web_3(), kRoomy);
  ASSERT_TRUE(writer);
  EXPECT_TRUE(writer->round(MonoTime{seconds(1)}, {}));
  const auto before = writer->written();
  EXPECT_TRUE(writer->describe(web_3().objects));
  EXPECT_EQ(writer->written(), before) << "nothing changed";
  EXPECT_TRUE(writer->describe({{0, PageCount{2 << 20}}}));
  EXPECT_TRUE(writer->round(MonoTime{seconds(2)}, {}));
  EXPECT_TRUE(writer->finish(5));
  const Read read = read_back(content_of(file));
  EXPECT_EQ(read.rounds.size(), 2u);
  EXPECT_EQ(read.description.vm, "web-3");
  EXPECT_EQ(read.description.objects, (std::vector<TracedObject>{{0, PageCount{2 << 20}}}));
  EXPECT_EQ(read.totals, (TraceTotals{.rounds = 2, .samples = 0, .lost = 5}));
}

TEST(Trace, NeverGrowsBeyondItsLimit) {
  const UniqueFd file = memory_file();
  auto writer = TraceWriter::begin(file.duplicate(), "a trace", web_3(), kSmallestTrace);
  ASSERT_TRUE(writer);
  std::mt19937_64 random(1);
  bool room = true;
  std::uint64_t rounds = 0;
  for (; room && rounds < 1000; ++rounds) {
    TraceRound round{MonoTime{seconds(1000 + rounds)}, {}};
    for (int i = 0; i < 2000; ++i) round.samples.push_back(some_sample(random));
    room = writer->round(round.at, round.samples).value_or(true);
  }
  EXPECT_FALSE(room);
  EXPECT_FALSE(writer->round(MonoTime{seconds(5000)}, {}).value_or(true)) << "full is full";
  EXPECT_TRUE(writer->finish());
  EXPECT_LE(content_of(file).size(), kSmallestTrace.value);
  const Read read = read_back(content_of(file));
  ASSERT_TRUE(read.totals);
  EXPECT_EQ(read.totals->rounds, read.rounds.size());
  std::uint64_t samples = 0;
  for (const TraceRound& round : read.rounds) samples += round.samples.size();
  EXPECT_EQ(read.totals->samples, samples);
}

TEST(Trace, CountsSamplesThatMakeNoSenseAsLost) {
  const UniqueFd file = memory_file();
  auto writer = TraceWriter::begin(file.duplicate(), "a trace", web_3(), kRoomy);
  ASSERT_TRUE(writer);
  EXPECT_TRUE(writer->round(MonoTime{seconds(1)}, std::vector<AccessSample>(3)));
  EXPECT_TRUE(writer->finish());
  EXPECT_EQ(read_back(content_of(file)).totals, (TraceTotals{.rounds = 1, .samples = 0, .lost = 3}));
}

TEST(Trace, WriterTellsWhatItCannotWrite) {
  TraceDescription description = web_3();
  description.vm = std::string(256, 'x');
  EXPECT_EQ(TraceWriter::begin(memory_file(), "a trace", description, kRoomy).error().code,
            std::errc::invalid_argument);
  EXPECT_EQ(TraceWriter::begin(memory_file(), "a trace", web_3(), Bytes{100}).error().code,
            std::errc::invalid_argument);
  const auto full =
      TraceWriter::begin(UniqueFd{::open("/dev/full", O_WRONLY | O_CLOEXEC)}, "/dev/full", web_3(), kRoomy);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, std::errc::no_space_on_device);
  EXPECT_NE(full.error().message().find("/dev/full"), std::string::npos);
  EXPECT_EQ(TraceReader::open("/nonexistent/trace", kVm).error().code, std::errc::no_such_file_or_directory);
}

}  // namespace
}  // namespace tidepool::telemetry
