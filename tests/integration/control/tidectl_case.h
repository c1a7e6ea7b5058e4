// The real tidectl against a real server with an agent of the test's making behind it.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "daemon/control/api_server.h"
#include "tests/integration/control/fake_agent.h"
#include "tests/integration/control/raw_client.h"

namespace tidepool::daemon::testing {

using Words = std::vector<std::string>;

std::string slurp(const std::string& path);

// Two VMs: "web-3" and "db 1".
class Tidectl : public ::testing::Test {
 protected:
  struct Outcome {
    int code = -1;  // exit status; 1000 + signal
    std::string out;
    std::string err;
  };

  Tidectl();
  void SetUp() override { start(); }

  void start();
  // From here on tidectl finds a tidepoold beside itself.
  void place_agent_program();

  Outcome run(const Words& words);
  // Not waited for; its output goes to files.
  pid_t spawn(const Words& words, const std::string& out, const std::string& err);
  // On a terminal, with what a person types.
  Outcome run_on_terminal(const Words& words, const std::string& typed);
  // Runs it: the exit status, and what stands in its output, of either kind.
  void expect(const Words& words, int code, std::initializer_list<const char*> parts);

  TemporaryFolder folder_;
  std::string program_;
  bool no_color_ = false;  // NO_COLOR is set
  FakeAgent agent_;
  ApiServerOptions options_;
  std::unique_ptr<ApiServer> server_;

 private:
  [[noreturn]] void exec(const Words& words);
};

}  // namespace tidepool::daemon::testing
