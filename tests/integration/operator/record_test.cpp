// Recordings of a real process by the real agent: what is in them, what is refused, and how they end.
#include <sys/stat.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <thread>

#include "telemetry/trace/trace_reader.h"
#include "tests/integration/operator/adoption_case.h"
#include "tests/support/child_process.h"
#include "tests/support/planned_memory.h"

namespace tidepool::tests {
namespace {

struct Recorded {
  telemetry::TraceDescription description;
  std::uint64_t rounds = 0;
  std::uint64_t samples = 0;
  std::optional<telemetry::TraceTotals> totals;
};

Recorded read_trace(const std::string& path) {
  Recorded recorded;
  auto reader = telemetry::TraceReader::open(path, VmId{1});
  EXPECT_TRUE(reader) << reader.error().message();
  if (!reader) return recorded;
  for (;;) {
    const auto round = (*reader)->next();
    EXPECT_TRUE(round) << round.error().message();
    if (!round || !*round) break;
    ++recorded.rounds;
    recorded.samples += (*round)->samples.size();
  }
  recorded.description = (*reader)->description();
  recorded.totals = (*reader)->totals();
  return recorded;
}

class Record : public AdoptionCase {
 protected:
  // Adopts a process that uses its memory all the time.
  void SetUp() override {
    AdoptionCase::SetUp();
    if (IsSkipped()) return;
    start();
    child_ = std::make_unique<ChildProcess>([this] {
      char* memory = memory_.make();
      if (memory == nullptr) return std::string("mmap");
      std::thread([memory] {
        for (std::size_t at = 0;; at = (at + kPageSize) % (16 * kMiB)) {
          static_cast<volatile char*>(memory)[at] = 'y';
          if (at == 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
      }).detach();
      return std::string();
    });
    ASSERT_READY(*child_);
    name_ = adopt_whole(child_->pid(), memory_.range());
    ASSERT_FALSE(name_.empty());
  }

  Outcome record(const std::string& file, const Words& more) {
    Words words{"vm", "record", name_, "--file", file};
    words.insert(words.end(), more.begin(), more.end());
    return agent().tidectl(words);
  }
  std::string start_recording(const std::string& file) {
    const Outcome outcome = record(file, {"--duration", "1h", "--no-wait", "-o", "json"});
    EXPECT_EQ(outcome.code, 0) << outcome.all();
    if (outcome.code != 0) return {};
    return std::string(boost::json::parse(outcome.out).at("id").as_string());
  }

  const PlannedMemory memory_{16 * kMiB};
  std::unique_ptr<ChildProcess> child_;
  std::string name_;
  const TestFolder folder_;
};

TEST_F(Record, HoldsWhatTrackersSaw) {
  const std::string file = folder_ / "a.trace";
  expect_parts(record(file, {"--duration", "4s"}), 0, {"record", "succeeded"});
  struct stat status {};
  ASSERT_EQ(::stat(file.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  const Recorded recorded = read_trace(file);
  EXPECT_EQ(recorded.description.vm, name_);
  ASSERT_EQ(recorded.description.objects.size(), 1u);
  EXPECT_EQ(recorded.description.objects[0].pages, PageCount{16 * kMiB / kPageSize});
  EXPECT_GT(recorded.rounds, 0u);
  EXPECT_GT(recorded.samples, 0u);
  EXPECT_EQ(recorded.totals, (telemetry::TraceTotals{recorded.rounds, recorded.samples, 0}));
  expect_parts(agent().tidectl({"vm", "events", name_}), 0, {"recording", "the time is over", file});
  EXPECT_NE(agent().audit().find("recording"), std::string::npos);
  EXPECT_EQ(release(name_).code, 0);
  expect_as_remembered();
}

TEST_F(Record, NeverTouchesWhatExists) {
  const std::string file = folder_ / "precious";
  std::ofstream(file) << "precious";
  std::filesystem::create_symlink(folder_ / "elsewhere", folder_ / "link");
  for (const std::string& taken : {file, folder_ / "link"})
    expect_parts(record(taken, {"--duration", "1s"}), 1, {taken, "never replaces"});
  EXPECT_EQ(read_file(file), "precious");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "elsewhere"));
  expect_parts(record(folder_ / "no/such/folder", {}), 2, {"folder must exist"});
  expect_parts(record("/dev/full", {}), 1, {"/dev/full"});
  EXPECT_EQ(release(name_).code, 0);
  expect_as_remembered();
}

TEST_F(Record, EndsEarlyWhenItIsToldTo) {
  const std::string operation = start_recording(folder_ / "a.trace");
  expect_parts(record(folder_ / "b.trace", {}), 1, {"already"});
  EXPECT_FALSE(std::filesystem::exists(folder_ / "b.trace"));
  expect_parts(agent().tidectl({"vm", "record", name_, "--stop"}), 0, {});
  expect_parts(agent().tidectl({"operation", operation, "--wait"}), 0, {"record", "succeeded"});
  EXPECT_TRUE(read_trace(folder_ / "a.trace").totals);
  expect_parts(agent().tidectl({"vm", "record", name_, "--stop"}), 1, {"not being recorded"});
  EXPECT_EQ(release(name_).code, 0);
  expect_as_remembered();
}

TEST_F(Record, EndsWholeWithTheVmAndWithTheAgent) {
  const std::string operation = start_recording(folder_ / "a.trace");
  EXPECT_EQ(release(name_).code, 0);
  expect_parts(agent().tidectl({"operation", operation, "--wait"}), 0, {"record", "succeeded"});
  EXPECT_TRUE(read_trace(folder_ / "a.trace").totals);
  expect_as_remembered();
  name_ = adopt_whole(child_->pid(), memory_.range());
  start_recording(folder_ / "b.trace");
  EXPECT_EQ(agent().stop(), 0);
  EXPECT_TRUE(read_trace(folder_ / "b.trace").totals);
}

}  // namespace
}  // namespace tidepool::tests
