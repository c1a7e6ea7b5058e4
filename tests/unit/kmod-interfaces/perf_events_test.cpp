#include "kmod-interfaces/perf_events.h"

#include <gtest/gtest.h>
#include <linux/perf_event.h>

#include <array>
#include <cstring>
#include <random>

#include "tests/unit/kmod-interfaces/kernel_tree.h"
#include "tests/unit/kmod-interfaces/perf_ring_recorded.h"

namespace tidepool::kernel {
namespace {

constexpr PerfLayout kFaults{};
constexpr PerfLayout kAccesses{.weight = true, .data_source = true};

// A ring into which records are written as the kernel does, from any position on.
class Ring {
 public:
  explicit Ring(std::size_t size, std::uint64_t start = 0) : bytes_(size), tail_(start), head_(start) {}

  void put(std::span<const std::byte> record) {
    for (const std::byte byte : record) bytes_[head_++ % bytes_.size()] = byte;
  }
  void put(std::uint32_t type, const std::vector<std::uint64_t>& words, unsigned misc = PERF_RECORD_MISC_USER) {
    perf_event_header header{};
    header.type = type;
    header.misc = static_cast<std::uint16_t>(misc);
    header.size = static_cast<std::uint16_t>(sizeof header + words.size() * sizeof words[0]);
    put(std::as_bytes(std::span(&header, 1)));
    put(std::as_bytes(std::span(words)));
  }
  PerfRecords read(const PerfLayout& layout) const {
    PerfRecords records;
    read_perf_records(bytes_, tail_, head_, layout, records);
    return records;
  }
  void cut(std::uint64_t bytes) { head_ -= bytes; }

 private:
  std::vector<std::byte> bytes_;
  std::uint64_t tail_;
  std::uint64_t head_;
};

std::uint64_t ids(std::uint32_t pid, std::uint32_t tid) {
  return std::uint64_t{tid} << 32 | pid;
}

PerfSample sample(pid_t pid, pid_t tid, std::int64_t time, std::uint64_t address, std::uint64_t weight = 0,
                  std::uint64_t source = 0) {
  return {pid, tid, MonoTime{Nanoseconds{time}}, address, weight, source};
}

void expect_recorded(const PerfRecords& records) {
  EXPECT_EQ(records.malformed, 0u);
  EXPECT_EQ(records.lost, 0u);
  std::vector<std::uint64_t> pages;
  MonoTime last;
  for (const PerfSample& found : records.samples) {
    EXPECT_EQ(found.pid, recorded::kPid);
    EXPECT_EQ(found.tid, recorded::kPid);
    EXPECT_GT(found.time, last);
    last = found.time;
    const std::uint64_t page = (found.address - recorded::kTouched) >> kPageShift;
    if (found.address >= recorded::kTouched && page < recorded::kPages) pages.push_back(page);
  }
  EXPECT_EQ(pages, (std::vector<std::uint64_t>{recorded::kOrder.begin(), recorded::kOrder.end()}));
}

TEST(PerfRecords, OfPageFaultsRecordedOnLinux618) {
  Ring ring(4096);
  ring.put(std::as_bytes(std::span(recorded::kRing)));
  expect_recorded(ring.read(kFaults));
}

TEST(PerfRecords, GoRoundTheEndOfTheRing) {
  // Positions that are about to wrap as numbers as well.
  for (const std::uint64_t base : {std::uint64_t{0}, std::uint64_t{0} - 4096}) {
    for (std::uint64_t start = base; start != base + 4096; start += 8) {
      Ring ring(4096, start);
      ring.put(std::as_bytes(std::span(recorded::kRing)));
      expect_recorded(ring.read(kFaults));
    }
  }
}

TEST(PerfRecords, OfAccessesCarryWeightAndSource) {
  Ring ring(4096, 4096 - 24);
  ring.put(PERF_RECORD_SAMPLE, {ids(7, 8), 1000, 0x7f0000001234, 230, PERF_MEM_OP_LOAD});
  ring.put(PERF_RECORD_SAMPLE, {ids(7, 9), 2000, 0, 0, PERF_MEM_OP_NA}, PERF_RECORD_MISC_KERNEL);
  const PerfRecords records = ring.read(kAccesses);
  EXPECT_EQ(records.samples, (std::vector{sample(7, 8, 1000, 0x7f0000001234, 230, PERF_MEM_OP_LOAD),
                                          sample(7, 9, 2000, 0, 0, PERF_MEM_OP_NA)}));
  EXPECT_EQ(records.malformed, 0u);
}

TEST(PerfRecords, OfOneOptionalFieldTakeTheirPlaces) {
  Ring weights(4096);
  weights.put(PERF_RECORD_SAMPLE, {ids(1, 1), 5, 4096, 77});
  EXPECT_EQ(weights.read({.weight = true}).samples, std::vector{sample(1, 1, 5, 4096, 77)});
  EXPECT_EQ(weights.read({.data_source = true}).samples, std::vector{sample(1, 1, 5, 4096, 0, 77)});
}

TEST(PerfRecords, SayWhatWasLostAndThrottled) {
  Ring ring(4096);
  ring.put(PERF_RECORD_LOST, {3, 17});
  ring.put(13, {4});  // PERF_RECORD_LOST_SAMPLES
  ring.put(PERF_RECORD_THROTTLE, {1000, 3, 3});
  ring.put(PERF_RECORD_UNTHROTTLE, {1001, 3, 3});
  const PerfRecords records = ring.read(kFaults);
  EXPECT_EQ(records.lost, 21u);
  EXPECT_EQ(records.throttled, 1u);
  EXPECT_EQ(records.malformed, 0u);
  EXPECT_TRUE(records.samples.empty());
}

TEST(PerfRecords, SkipWhatTheyDoNotKnow) {
  Ring ring(4096);
  ring.put(4711, std::vector<std::uint64_t>(40, ~0ull));
  ring.put(PERF_RECORD_COMM, {});
  ring.put(PERF_RECORD_SAMPLE, {ids(1, 2), 3, 4096});
  EXPECT_EQ(ring.read(kFaults).samples, std::vector{sample(1, 2, 3, 4096)});
  EXPECT_EQ(ring.read(kFaults).malformed, 0u);
}

TEST(PerfRecords, LeaveOutAGuestsAddresses) {
  Ring ring(4096);
  ring.put(PERF_RECORD_SAMPLE, {ids(1, 2), 3, 4096}, PERF_RECORD_MISC_GUEST_USER);
  ring.put(PERF_RECORD_SAMPLE, {ids(1, 2), 4, 8192}, PERF_RECORD_MISC_GUEST_KERNEL);
  EXPECT_TRUE(ring.read(kFaults).samples.empty());
  EXPECT_EQ(ring.read(kFaults).of_guests, 2u);
}

TEST(PerfRecords, OfAnotherLayoutAreNotGuessedAt) {
  Ring ring(4096);
  ring.put(PERF_RECORD_SAMPLE, {ids(1, 2), 3, 4096, 5, 6});
  ring.put(PERF_RECORD_SAMPLE, {ids(1, 2), 3, 4096});
  EXPECT_EQ(ring.read(kFaults).samples.size(), 1u);
  EXPECT_EQ(ring.read(kFaults).malformed, 1u);
}

TEST(PerfRecords, ThatAreCutShortEndTheReading) {
  for (std::uint64_t cut = 1; cut < 32; ++cut) {
    Ring ring(4096);
    ring.put(PERF_RECORD_SAMPLE, {ids(1, 2), 3, 4096});
    ring.put(PERF_RECORD_SAMPLE, {ids(1, 2), 4, 8192});
    ring.cut(cut);
    EXPECT_EQ(ring.read(kFaults).samples, std::vector{sample(1, 2, 3, 4096)}) << cut;
    EXPECT_EQ(ring.read(kFaults).malformed, 1u) << cut;
  }
}

TEST(PerfRecords, OfImpossibleSizesEndTheReading) {
  for (const std::uint16_t size : std::to_array<std::uint16_t>({0, 1, 7, 12, 4096, 65535})) {
    Ring ring(4096);
    perf_event_header header{};
    header.type = PERF_RECORD_SAMPLE;
    header.size = size;
    ring.put(std::as_bytes(std::span(&header, 1)));
    ring.put(PERF_RECORD_SAMPLE, {ids(1, 2), 3, 4096});
    EXPECT_TRUE(ring.read(kFaults).samples.empty()) << size;
    EXPECT_EQ(ring.read(kFaults).malformed, 1u) << size;
  }
}

TEST(PerfRecords, OfImpossibleRingsAreRefused) {
  const std::vector<std::byte> bytes(4096);
  for (const std::size_t size : {std::size_t{0}, std::size_t{4095}}) {
    PerfRecords records;
    read_perf_records(std::span(bytes).first(size), 0, 8, kFaults, records);
    EXPECT_EQ(records.malformed, 1u) << size;
  }
  for (const std::uint64_t head : {std::uint64_t{4104}, ~std::uint64_t{0}}) {
    PerfRecords records;
    read_perf_records(bytes, 0, head, kFaults, records);
    EXPECT_EQ(records.malformed, 1u) << head;
  }
}

TEST(PerfRecords, OfRandomBytesStayWithinTheRing) {
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 20'000; ++round) {
    // On the heap, so that a sanitizer sees a step beyond either end.
    const std::size_t size = std::size_t{8} << (random() % 8);
    std::vector<std::byte> bytes(size);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() % 4 == 0 ? random() % 256 : random() % 64);
    const std::uint64_t tail = random();
    const PerfLayout layout{.weight = random() % 2 == 0, .data_source = random() % 2 == 0};
    PerfRecords records;
    read_perf_records(bytes, tail, tail + random() % (size + 1), layout, records);
    EXPECT_LE(records.samples.size(), size / layout.sample_size());
    EXPECT_LE(records.malformed, size / 8);
  }
}

void write_pebs(KernelTree& tree, const std::string& event) {
  const std::string pmu = "sys/bus/event_source/devices/cpu/";
  tree.write(pmu + "type", "4\n");
  tree.write(pmu + "events/mem-loads", event);
  tree.write(pmu + "format/event", "config:0-7\n");
  tree.write(pmu + "format/umask", "config:8-15,40-47\n");
  tree.write(pmu + "format/ldlat", "config1:0-15\n");
  tree.write(pmu + "caps/max_precise", "3\n");
}

TEST(PerfSources, AreAsSysfsDescribesLoads) {
  KernelTree tree;
  write_pebs(tree, "event=0xcd,umask=0x1,ldlat=3\n");
  const auto source = pebs_source(tree.roots());
  ASSERT_TRUE(source) << source.error().message();
  EXPECT_EQ(source->type, 4u);
  EXPECT_EQ(source->config, 0x1cdu);
  EXPECT_EQ(source->config1, 3u);
  EXPECT_EQ(source->precision, 2);
  EXPECT_TRUE(source->exclude_kernel);
  // Bits go where the format scatters them.
  write_pebs(tree, "event=0xcd,umask=0x101\n");
  EXPECT_EQ(pebs_source(tree.roots())->config, 0xcdu | 0x100u | 1ull << 40);
}

TEST(PerfSources, RefuseLoadsThatTheyDoNotUnderstand) {
  for (const char* bad : {"event=0x1cd", "event", "event=", "event=0xcd,edge=1", "=1", "../type=1", "event=0xcd,,"}) {
    KernelTree tree;
    write_pebs(tree, bad);
    if (std::string(bad) == "event") {  // alone it means 1
      EXPECT_EQ(pebs_source(tree.roots())->config, 1u);
      continue;
    }
    EXPECT_FALSE(pebs_source(tree.roots())) << bad;
  }
  KernelTree tree;
  write_pebs(tree, "event=0xcd,umask=0x1,ldlat=3");
  tree.write("sys/bus/event_source/devices/cpu/format/ldlat", "config9:0-15");
  EXPECT_FALSE(pebs_source(tree.roots()));
  tree.write("sys/bus/event_source/devices/cpu/format/ldlat", "config1:60-70");
  EXPECT_FALSE(pebs_source(tree.roots()));
}

TEST(PerfSources, SayWhyThereIsNone) {
  KernelTree tree;
  EXPECT_NE(pebs_source(tree.roots()).error().message().find("mem-loads"), std::string::npos);
  EXPECT_NE(ibs_source(tree.roots()).error().message().find("ibs_op"), std::string::npos);
  write_pebs(tree, "event=0xcd,umask=0x1,ldlat=3");
  tree.write("sys/bus/event_source/devices/cpu/events/mem-loads-aux", "event=0x03,umask=0x82");
  EXPECT_NE(pebs_source(tree.roots()).error().message().find("auxiliary"), std::string::npos);
  // The machine whose tree this is not: whatever it has, the page faults come last and need no file.
  const PerfProbe probe = probe_perf(tree.roots());
  EXPECT_GE(probe.why_not.size(), 2u);
  if (probe.source) {
    EXPECT_EQ(probe.source->means, PerfMeans::kPageFaults);
  }
}

TEST(PerfSources, CountOperationsWhereIbsCan) {
  KernelTree tree;
  tree.write("sys/bus/event_source/devices/ibs_op/type", "11\n");
  EXPECT_EQ(ibs_source(tree.roots())->config, 0u);
  tree.write("sys/bus/event_source/devices/ibs_op/format/cnt_ctl", "config:19\n");
  EXPECT_EQ(ibs_source(tree.roots())->config, 1u << 19);
  EXPECT_EQ(ibs_source(tree.roots())->type, 11u);
}

}  // namespace
}  // namespace tidepool::kernel
