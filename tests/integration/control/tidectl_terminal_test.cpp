// tidectl and the person at the terminal.
#include <gtest/gtest.h>

#include "tests/integration/control/tidectl_case.h"

namespace tidepool::daemon::testing {
namespace {

TEST_F(Tidectl, DangerousActionsNeedAYes) {
  expect({"host", "evacuate"}, 2, {"--yes"});
  expect({"pool", "resize", "--size", "8GiB"}, 2, {"--yes"});
  expect({"vm", "adopt", "--pid", "7", "--force", "o-direct"}, 2, {"--yes"});
  expect({"vm", "adopt", "--pid", "7", "--force", "o-direct", "--yes"}, 0, {});
  EXPECT_EQ(agent_.last_adoption().force, Words{"o-direct"});

  const Outcome no = run_on_terminal({"host", "evacuate"}, "n\n");
  EXPECT_EQ(no.code, 3) << no.out;
  EXPECT_NE(no.out.find("nothing was done"), std::string::npos);
  const Outcome yes = run_on_terminal({"host", "evacuate"}, "y\n");
  EXPECT_EQ(yes.code, 0) << yes.out;
}

TEST_F(Tidectl, ProgressIsForTerminalsOnly) {
  EXPECT_NE(run_on_terminal({"vm", "release", "web-3"}, "").out.find("[###"), std::string::npos);
  EXPECT_EQ(run_on_terminal({"vm", "release", "web-3", "-q"}, "").out.find("[###"), std::string::npos);
  const Outcome piped = run({"vm", "release", "web-3"});
  EXPECT_EQ((piped.out + piped.err).find('\r'), std::string::npos);
}

TEST_F(Tidectl, ColourIsForTerminalsOnlyAndCanBeTurnedOff) {
  EXPECT_NE(run_on_terminal({"health"}, "").out.find("\x1b["), std::string::npos);
  EXPECT_EQ(run_on_terminal({"health", "--no-color"}, "").out.find("\x1b["), std::string::npos);
  EXPECT_EQ(run({"health"}).out.find('\x1b'), std::string::npos);
}

TEST_F(Tidectl, NamesCannotSendEscapesToTheTerminal) {
  agent_.add_vm(example_vm("evil\x1b[2J\n"));
  EXPECT_EQ(run({"vm", "list"}).out.find('\x1b'), std::string::npos);
  EXPECT_EQ(run({"vm", "list", "-q"}).out.find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace tidepool::daemon::testing
