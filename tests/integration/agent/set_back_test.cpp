// A VM that is set back to observe or dry-run: from then on nothing more of it goes, be it ordered or begun.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <thread>

#include "tests/integration/agent/whole_rig.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;

class SetBack : public testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(SetBack, LetsGoOfWhatIsOnItsWayOut) {
  REQUIRE_AGENT();
  const auto [mode, memory] = GetParam();
  // What has begun takes so long that it can be stopped.
  constexpr auto kGrace = 3s;
  Whole whole(merciless({{"pager.grace", "\"3s\""}}));
  ASSERT_TRUE(whole.start());
  Target target(load({"--memory", memory, "--threads", "2", "--read-ratio", "1", "--rate", "500"}));
  ASSERT_TRUE(target.ready());
  ASSERT_TRUE(whole.adopt(target.pid(), "load", target.memory()));
  whole.limit("load", Bytes{1ull << 20});
  ASSERT_TRUE(await([&] { return whole.figure("load", "moving_out_bytes") > 0; }));
  whole.expect({"vm", "set", "load", "--mode", mode}, 0);
  EXPECT_EQ(whole.figure("load", "demoted_bytes_total"), 0u) << "it was to be stopped before anything had gone";
  EXPECT_TRUE(await([&] { return whole.figure("load", "moving_out_bytes") == 0; }));
  std::this_thread::sleep_for(kGrace + 500ms);
  EXPECT_EQ(whole.figure("load", "demoted_bytes_total"), 0u);
  EXPECT_EQ(whole.figure("load", "moving_out_bytes"), 0u);
  // An operator who means it again is obeyed as before; unless it is held.
  whole.expect({"vm", "hold", "load"}, 0);
  whole.expect({"vm", "set", "load", "--mode", "active", "--yes"}, 0);
  std::this_thread::sleep_for(500ms);
  EXPECT_EQ(whole.figure("load", "moving_out_bytes"), 0u);
  whole.expect({"vm", "unhold", "load"}, 0);
  EXPECT_TRUE(whole.await_far("load", Bytes{target.memory().size() / 2}));
  EXPECT_TRUE(whole.release("load"));
  target.finish();
  EXPECT_EQ(whole.stop(), 0);
}

INSTANTIATE_TEST_SUITE_P(Modes, SetBack,
                         testing::Values(std::tuple{"observe", "private"}, std::tuple{"dry-run", "memfd"}),
                         [](const auto& way) {
                           return std::get<0>(way.param) == std::string("observe") ? "ObservePrivate" : "DryRunShared";
                         });

}  // namespace
}  // namespace tidepool::tests
