// Starting, reloading and ending the agent: what is in its way, and what it says then.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/support/agent_process.h"
#include "tests/support/process_state.h"

namespace tidepool::tests {
namespace {

class Start : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_agent(); !why.empty()) GTEST_SKIP() << why;
  }
};

TEST_F(Start, AnswersAndEnds) {
  AgentProcess agent;
  ASSERT_TRUE(agent.start());
  EXPECT_NE(agent.expect({"status"}, 0).find("observe"), std::string::npos);
  agent.expect({"health"}, 0);
  EXPECT_EQ(agent.stop(), 0);
  EXPECT_FALSE(std::filesystem::exists(agent.socket()));
  // Nothing is held for an agent that ended in order.
  ASSERT_TRUE(agent.start());
  EXPECT_EQ(agent.stop(), 0);
}

}  // namespace
}  // namespace tidepool::tests
