// A VM of which far too much was taken: its threads wait longer than its stall budget, and the agent mends that by
// itself.
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "tests/integration/agent/whole_rig.h"

namespace tidepool::tests {
namespace {

constexpr double kBudget = 0.01;

class Recovery : public testing::TestWithParam<const char*> {
 protected:
  static double stall(const Whole& whole) {
    const boost::json::object vm = whole.show("load");
    const boost::json::value* share = vm.if_contains("stall");
    return share == nullptr ? 0 : share->to_number<double>();
  }
  // Bytes that policy sent for because the VM waited too much.
  static std::uint64_t promoted_back(const Whole& whole) {
    boost::system::error_code error;
    const auto page = boost::json::parse(whole.tidectl({"decisions", "--vm", "load", "-o", "json"}).out, error);
    if (error) return 0;
    std::uint64_t bytes = 0;
    for (const auto& each : page.at("items").as_array())
      if (each.at("reason") == "promote-back" && each.at("carried_out").as_bool())
        bytes += each.at("bytes").to_number<std::uint64_t>();
    return bytes;
  }
};

// The bad decision is deliberate: seven eighths of memory that is used all over, all the time, go far, with no budget
// to hold it up. From then on the VM has its budget, and nobody touches anything.
TEST_P(Recovery, ComesBackBelowItsStallBudgetWithoutAnOperator) {
  REQUIRE_AGENT();
  Whole whole(merciless({{"defaults.min_cold_age", "\"2m\""}}));
  ASSERT_TRUE(whole.start());
  Target target(load({"--memory", GetParam(), "--threads", "2", "--rate", "10000", "--read-ratio", "0.7"}));
  ASSERT_TRUE(target.ready());
  ASSERT_TRUE(whole.adopt(target.pid(), "load", target.memory()));
  const Bytes size{target.memory().size()};
  whole.limit("load", Bytes{size.value / 8});
  ASSERT_TRUE(whole.await_far("load", Bytes{size.value / 2}));
  ASSERT_TRUE(await([&] { return stall(whole) > 2 * kBudget; })) << stall(whole);

  whole.expect({"vm", "set", "load", "--limit", "none", "--stall-budget", "1%"}, 0);
  EXPECT_TRUE(await([&] { return promoted_back(whole) > 0; })) << whole.tidectl({"decisions", "--vm", "load"}).all();
  EXPECT_TRUE(await([&] { return stall(whole) < kBudget; })) << boost::json::serialize(whole.show("load"));
  // What it uses is home again, and stays there.
  EXPECT_TRUE(await([&] { return whole.figure("load", "far_bytes") < size.value / 20; }))
      << boost::json::serialize(whole.show("load"));
  target.finish();
  EXPECT_EQ(whole.stop(), 0);
}

INSTANTIATE_TEST_SUITE_P(Memory, Recovery, testing::Values("private", "shared"),
                         [](const auto& memory) { return std::string(memory.param); });

}  // namespace
}  // namespace tidepool::tests
