// tidepool-load as a program. Most of all: does it notice when its memory lies?
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "bench/load/page_content.h"
#include "tests/integration/load/load_process.h"

namespace tidepool::load {
namespace {

const std::vector<std::string> kIdle{"--size", "16MiB", "--duration", "0", "--hold-after-fill", "1000", "--seed", "5"};

// Everything that the program printed until it ended.
std::string rest_of(LoadProcess& process) {
  std::string text;
  while (const auto line = process.read_line()) text += *line + "\n";
  return text;
}

// The first page whose first version is of this kind.
std::uint64_t page_of_kind(PageKind kind) {
  const PageContent content(5);
  std::uint64_t page = 10;
  while (content.kind_of(page * kPageSize, 1) != kind) ++page;
  return page;
}

// In how many of the pages (a last one may be short) the two differ.
int differing_pages(std::span<const std::byte> one, std::span<const std::byte> other) {
  int differing = 0;
  for (std::size_t at = 0; at < one.size(); at += kPageSize) {
    const std::size_t size = std::min<std::size_t>(kPageSize, one.size() - at);
    differing += std::ranges::equal(one.subspan(at, size), other.subspan(at, size)) ? 0 : 1;
  }
  return differing;
}

// Waits for so many pages of the process's memory to become something else. False (and a failed test) when they never
// do, or when the process is gone.
bool wait_for_change(const LoadProcess& process, AddressRange range, const std::vector<std::byte>& from,
                     int pages = 1) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < deadline && !testing::Test::HasFailure()) {
    const std::vector<std::byte> now = process.peek(range.start, range.size());
    if (!testing::Test::HasFailure() && differing_pages(now, from) >= pages) return true;
  }
  ADD_FAILURE() << "the memory did not change";
  return false;
}

TEST(LoadProgram, FindsNothingWrongWithUndisturbedMemoryOfEachKind) {
  for (const std::string kind : {"private", "shared", "tmpfs", "shared-anon"}) {
    for (const std::string pattern :
         {"uniform", "zipf", "sequential", "scan", "phase-shift", "diurnal", "write-heavy", "hammer"}) {
      LoadProcess process({"--memory", kind, "--pattern", pattern, "--size", "16MiB", "--threads", "4", "--duration",
                           "0.3", "--discard"});
      process.wait_until_ready();
      const std::string report = rest_of(process);
      EXPECT_EQ(process.wait_for_exit(), 0) << kind << " " << pattern << "\n" << report;
      EXPECT_NE(report.find("mismatches 0"), std::string::npos) << report;
    }
  }
}

TEST(LoadProgram, FindsOneFlippedBit) {
  LoadProcess process(kIdle);
  const AddressRange range = process.wait_until_ready();
  const std::uint64_t page = page_of_kind(PageKind::kRandom);
  auto byte = process.peek(range.start + page * kPageSize + 2000, 1);
  byte[0] ^= std::byte{0x08};
  process.poke(range.start + page * kPageSize + 2000, byte);
  process.signal(SIGTERM);
  const std::string report = rest_of(process);
  EXPECT_EQ(process.wait_for_exit(), 1);
  EXPECT_NE(report.find("mismatches 1\n"), std::string::npos) << report;
  EXPECT_NE(report.find("1 of 512 words differ, from byte 2000 on"), std::string::npos) << report;
}

TEST(LoadProgram, FindsAPageThatWasLost) {
  LoadProcess process(kIdle);
  const AddressRange range = process.wait_until_ready();
  process.poke(range.start + page_of_kind(PageKind::kCompressible) * kPageSize, std::vector<std::byte>(kPageSize));
  process.signal(SIGTERM);
  const std::string report = rest_of(process);
  EXPECT_EQ(process.wait_for_exit(), 1);
  EXPECT_NE(report.find("the page reads as zeros"), std::string::npos) << report;
}

TEST(LoadProgram, FindsAPageInAnotherPagesPlace) {
  LoadProcess process(kIdle);
  const AddressRange range = process.wait_until_ready();
  const std::uint64_t from = page_of_kind(PageKind::kRandom) * kPageSize;
  const std::uint64_t to = page_of_kind(PageKind::kCompressible) * kPageSize;
  process.poke(range.start + to, process.peek(range.start + from, kPageSize));
  process.signal(SIGTERM);
  const std::string report = rest_of(process);
  EXPECT_EQ(process.wait_for_exit(), 1);
  EXPECT_NE(report.find("holds the page of offset"), std::string::npos) << report;
}

// Goal: a write that a memory manager lost is found although the page is perfectly consistent.
TEST(LoadProgram, FindsALostWriteWhileItIsWriting) {
  LoadProcess process(
      {"--size", "64KiB", "--duration", "0", "--pattern", "write-heavy", "--seed", "5", "--rate", "2000"});
  const AddressRange range = process.wait_until_ready();
  const auto all = process.peek(range.start, range.size());
  // Two pages: one that is just being written when the thread stops would be written on, over what is put back, and
  // nothing would be lost. Then all the old contents come back at once.
  ASSERT_TRUE(wait_for_change(process, range, all, 2));
  process.stop_threads();
  process.poke(range.start, all);
  process.signal(SIGCONT);
  process.signal(SIGTERM);
  const std::string report = rest_of(process);
  EXPECT_EQ(process.wait_for_exit(), 1);
  EXPECT_NE(report.find("holds its version 1, intact"), std::string::npos) << report;
}

TEST(LoadProgram, FindsALostWriteUnderTheHammer) {
  constexpr std::uint64_t kLane = 64;
  LoadProcess process(
      {"--size", "64KiB", "--duration", "0", "--pattern", "hammer", "--hammer-pages", "1", "--threads", "4"});
  const AddressRange range = process.wait_until_ready();
  const AddressRange hammered{.start = range.start, .end = range.start + kPageSize};
  ASSERT_TRUE(wait_for_change(process, hammered, std::vector<std::byte>(kPageSize)));
  const std::vector<std::byte> old = process.peek(hammered.start, kPageSize);
  // Every thread's lane: one that is stopped in the middle of a write goes on with it, and notices nothing.
  for (std::uint64_t at = 0; at < 4 * kLane; at += kLane) {
    const auto lane = std::span(old).subspan(at, kLane);
    ASSERT_TRUE(wait_for_change(process, {.start = range.start + at, .end = range.start + at + kLane},
                                {lane.begin(), lane.end()}));
  }
  process.stop_threads();
  process.poke(range.start, old);
  process.signal(SIGCONT);
  process.signal(SIGTERM);
  const std::string report = rest_of(process);
  EXPECT_EQ(process.wait_for_exit(), 1) << report;
  EXPECT_NE(report.find("lane"), std::string::npos) << report;
}

TEST(LoadProgram, ReportsInBetweenWhenAsked) {
  LoadProcess process({"--size", "16MiB", "--duration", "0", "-o", "json"});
  process.wait_until_ready();
  process.signal(SIGUSR1);
  const auto interim = process.read_line();
  ASSERT_TRUE(interim);
  EXPECT_NE(interim->find(R"("report":"interim")"), std::string::npos) << *interim;
  EXPECT_NE(interim->find(R"("since_last")"), std::string::npos) << *interim;
  process.signal(SIGINT);
  const std::string report = rest_of(process);
  EXPECT_EQ(process.wait_for_exit(), 0);
  EXPECT_NE(report.find(R"("report":"final")"), std::string::npos) << report;
  EXPECT_NE(report.find(R"("mismatches":0)"), std::string::npos) << report;
}

// The largest readable and writable mappings besides the workload's own.
TEST(LoadProgram, KeepsItsOwnMappingsSmallOrMarked) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's shadow memory is large; the release build checks this";
#endif
  LoadProcess process(
      {"--size", "1GiB", "--duration", "0", "--hold-after-fill", "1000", "--threads", "8", "--pattern", "uniform"});
  const AddressRange workload = process.wait_until_ready();
  std::ifstream smaps("/proc/" + std::to_string(process.pid()) + "/smaps");
  AddressRange current;
  bool writable = false;
  std::uint64_t seen = 0;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long long start = 0;
    unsigned long long end = 0;
    char mode[5] = {};
    if (std::sscanf(line.c_str(), "%llx-%llx %4s", &start, &end, mode) == 3) {
      current = {.start = start, .end = end};
      writable = mode[1] == 'w';
    } else if (line.starts_with("VmFlags:") && writable && !workload.overlaps(current) && current.size() > (1u << 20)) {
      EXPECT_NE(line.find(" dd"), std::string::npos) << std::hex << current.start << "-" << current.end << " " << line;
    }
    seen += workload == current && line.starts_with("VmFlags:") ? 1 : 0;
  }
  EXPECT_EQ(seen, 1u) << "the workload's memory is one mapping of its own";
}

TEST(LoadProgram, TransfersPagesWithDirectIo) {
  const std::filesystem::path file = std::filesystem::path(TIDEPOOL_BINARY_DIR) / "tests" / "load_direct_io.bin";
  LoadProcess process(
      {"--size", "16MiB", "--duration", "0.5", "--threads", "2", "--odirect", file.string(), "-o", "json"});
  process.wait_until_ready();
  const std::string report = rest_of(process);
  EXPECT_EQ(process.wait_for_exit(), 0) << report;
  EXPECT_EQ(report.find(R"("direct_transfers":0)"), std::string::npos) << report;
  std::filesystem::remove(file);
}

TEST(LoadProgram, RefusesNonsenseWithStatusTwo) {
  const std::vector<std::vector<std::string>> wrong{{"--pattern", "sideways"},
                                                    {"--size", "5"},
                                                    {"--size", "0"},
                                                    {"--threads", "0"},
                                                    {"--read-ratio", "1.5"},
                                                    {"--bogus"},
                                                    {"--pattern", "hammer", "--threads", "65"},
                                                    {"--pattern", "hammer", "--size", "4KiB", "--hammer-pages", "1"}};
  for (const auto& arguments : wrong) {
    LoadProcess process(arguments);
    EXPECT_EQ(process.wait_for_exit(), 2) << testing::PrintToString(arguments);
  }
}

TEST(LoadProgram, RemovesItsTmpfsFile) {
  LoadProcess process(
      {"--memory", "tmpfs", "--size", "1MiB", "--duration", "0.1", "--file", "/dev/shm/tidepool-load-test"});
  process.wait_until_ready();
  rest_of(process);
  EXPECT_EQ(process.wait_for_exit(), 0);
  EXPECT_FALSE(std::filesystem::exists("/dev/shm/tidepool-load-test"));
}

}  // namespace
}  // namespace tidepool::load
