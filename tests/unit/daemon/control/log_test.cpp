#include "service/log.h"

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "tests/integration/control/raw_client.h"

namespace tidepool::daemon::testing {
namespace {

class Log : public ::testing::Test {
 protected:
  ~Log() override {
    ::unsetenv("JOURNAL_STREAM");
    start_log("test", LogLevel::kInfo);
  }
};

TEST_F(Log, LinesAreKeyValueWithTimeAndLevel) {
  ::testing::internal::CaptureStderr();
  start_log("tidepoold", LogLevel::kInfo);
  spdlog::info("event=adopted vm={}", "web-3");
  spdlog::debug("event=scan");
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find(" tidepoold level=info event=adopted vm=web-3\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("scan"), std::string::npos);
}

TEST_F(Log, LevelChangesWhileRunning) {
  ::testing::internal::CaptureStderr();
  start_log("tidepoold", LogLevel::kError);
  spdlog::warn("event=a");
  set_log_level(LogLevel::kDebug);
  spdlog::debug("event=b");
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.find("event=a"), std::string::npos);
  EXPECT_NE(text.find("event=b"), std::string::npos);
}

TEST_F(Log, JournalGetsPrioritiesAndNoTime) {
  ::testing::internal::CaptureStderr();
  struct stat info {};
  ASSERT_EQ(::fstat(STDERR_FILENO, &info), 0);
  ::setenv("JOURNAL_STREAM", (std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino)).c_str(), 1);
  start_log("tidepoold", LogLevel::kDebug);
  spdlog::error("event=a");
  spdlog::warn("event=b");
  spdlog::info("event=c");
  spdlog::debug("event=d");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "<3>level=error event=a\n<4>level=warning event=b\n<6>level=info event=c\n<7>level=debug event=d\n");
}

TEST_F(Log, NamesCannotForgeLinesOrKeys) {
  ::testing::internal::CaptureStderr();
  start_log("tidepoold", LogLevel::kInfo);
  spdlog::info("event=a name={}", in_quotes("x\" level=error \\\n2026-01-01 tidepoold level=error\x1b[2J"));
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find(R"(name="x\" level=error \\?2026-01-01 tidepoold level=error?[2J")"
                      "\n"),
            std::string::npos)
      << text;
}

TEST_F(Log, InheritedJournalVariableIsNotBelieved) {
  ::setenv("JOURNAL_STREAM", "1:1", 1);
  ::testing::internal::CaptureStderr();
  start_log("tidepoold", LogLevel::kInfo);
  spdlog::info("event=a");
  EXPECT_EQ(::testing::internal::GetCapturedStderr().find("<6>"), std::string::npos);
}

}  // namespace
}  // namespace tidepool::daemon::testing
