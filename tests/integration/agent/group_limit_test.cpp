// A VM whose own memory control group holds less than it touches: what does not fit goes far first, nothing is killed,
// and no byte is wrong.
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json.hpp>
#include <thread>
#include <utility>

#include "kmod-interfaces/kernel_features.h"
#include "tests/integration/agent/whole_rig.h"
#include "tests/support/http_get.h"
#include "tests/support/limited_group.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;

class GroupLimit : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    REQUIRE_AGENT();
    if (!group_.missing().empty()) GTEST_SKIP() << group_.missing();
    if (!kernel::read_swap({}).empty()) GTEST_SKIP() << "swap is on: the kernel would make room by itself";
    whole_ = std::make_unique<Whole>(merciless({{"api.metrics", "\"127.0.0.1:" + std::to_string(port_) + "\""}}));
    ASSERT_TRUE(whole_->start());
    Words words = load({"--memory", GetParam(), "--threads", "4", "--rate", "3000"});
    words[0] = bin_folder() + "/tidepool-load";
    target_ = std::make_unique<Target>(group_.inside(words));
    ASSERT_TRUE(target_->ready());
    ASSERT_GE(group_.usage(), Bytes{target_->memory().size()});
    ASSERT_TRUE(whole_->adopt(target_->pid(), "load", target_->memory()));
    // Much of it goes, and the group has room for only some of that.
    whole_->limit("load", Bytes{target_->memory().size() / 4});
    ASSERT_TRUE(whole_->await_far("load", Bytes{target_->memory().size() / 3}));
    const Bytes limit = group_.usage() + Bytes{6ull << 20};
    ASSERT_LT(limit, Bytes{target_->memory().size()});
    group_.set_limit(limit);
    // The agent has seen it.
    const double ticks = metric("tidepool_policy_tick_seconds_count");
    ASSERT_TRUE(await([&] { return metric("tidepool_policy_tick_seconds_count") > ticks + 2; }));
  }
  double metric(const std::string& series) const { return metric_value(http_get(port_, "/metrics"), series); }
  double waits() const { return metric("tidepool_vm_pager_events_total{vm=\"load\",kind=\"out_of_memory\"}"); }
  // The newest decisions of that reason; empty when there are none.
  boost::json::array decided(const std::string& reason) const {
    const auto page = boost::json::parse(whole_->expect({"decisions", "--vm", "load", "-o", "json"}, 0));
    boost::json::array found;
    for (const boost::json::value& each : page.at("items").as_array()) {
      if (each.at("reason").as_string() == reason) found.push_back(each);
    }
    return found;
  }
  void expect_alive() const {
    EXPECT_EQ(group_.killed(), 0u);
    EXPECT_TRUE(target_->running()) << target_->output();
  }
  // Without a limit everything fits again.
  void end() {
    group_.set_limit(std::nullopt);
    EXPECT_TRUE(whole_->release("load"));
    target_->finish();
    EXPECT_EQ(whole_->stop(), 0);
  }

  const int port_ = free_port();
  const LimitedGroup group_;
  std::unique_ptr<Whole> whole_;
  std::unique_ptr<Target> target_;
};

TEST_P(GroupLimit, MakesRoomForWhatIsTouched) {
  // Policy would let all of it come home.
  whole_->expect({"vm", "set", "load", "--limit", "none"}, 0);
  EXPECT_TRUE(await([&] { return waits() > 0; }));
  // It goes on like that: as much as it has, several times over.
  const Bytes all{target_->memory().size()};
  EXPECT_TRUE(whole_->await_moved("load", all, all));
  expect_alive();
  EXPECT_GT(whole_->figure("load", "far_bytes"), 0u);
  const boost::json::array reliefs = decided("group-limit");
  ASSERT_FALSE(reliefs.empty());
  for (const boost::json::value& each : reliefs) {
    EXPECT_TRUE(each.at("carried_out").as_bool()) << boost::json::serialize(each);
    EXPECT_GT(each.at("bytes").to_number<std::uint64_t>(), 0u) << boost::json::serialize(each);
  }
  end();
}

// The kernel would kill it: of what it was promised it has what fits.
TEST_P(GroupLimit, OutranksAGuarantee) {
  whole_->expect({"vm", "set", "load", "--limit", "none", "--guarantee", "100%"}, 0);
  EXPECT_TRUE(await([&] { return waits() > 0; }));
  const Bytes all{target_->memory().size()};
  EXPECT_TRUE(whole_->await_moved("load", all, all));
  expect_alive();
  const std::string reliefs = boost::json::serialize(decided("group-limit"));
  EXPECT_NE(reliefs.find("which gives way"), std::string::npos) << reliefs;
  end();
}

// Others would pay for it.
TEST_P(GroupLimit, DoesNotOutrankTheCeilingOnFarBytes) {
  whole_->write_settings({{"safety.max_far", "\"1MiB\""}});
  whole_->reload();
  whole_->expect({"vm", "set", "load", "--limit", "none"}, 0);
  EXPECT_TRUE(await([&] { return !decided("far-ceiling").empty() && waits() > 0; }));
  // What was ordered before ends.
  std::uint64_t out = 0;
  EXPECT_TRUE(await([&] {
    const std::uint64_t before = std::exchange(out, whole_->figure("load", "demoted_bytes_total"));
    std::this_thread::sleep_for(1s);
    return whole_->figure("load", "moving_out_bytes") == 0 && before == out;
  }));
  const std::size_t reliefs = decided("group-limit").size();
  const double waited = waits();
  std::this_thread::sleep_for(3s);
  EXPECT_GT(waits(), waited);
  EXPECT_EQ(decided("group-limit").size(), reliefs);
  EXPECT_EQ(whole_->figure("load", "demoted_bytes_total"), out);
  // Before it is left to the kernel.
  whole_->write_settings({{"safety.max_far", "\"50%\""}});
  whole_->reload();
  const Bytes all{target_->memory().size()};
  EXPECT_TRUE(whole_->await_moved("load", all, all));
  expect_alive();
  end();
}

// What cannot come home without a kill stays far, and the VM served.
TEST_P(GroupLimit, RefusesAReleaseThatDoesNotFit) {
  const Outcome refused = whole_->tidectl({"vm", "release", "load"});
  EXPECT_EQ(refused.code, 1) << refused.all();
  EXPECT_TRUE(whole_->has("load"));
  expect_alive();
  EXPECT_GT(whole_->figure("load", "far_bytes"), 0u);
  end();
}

INSTANTIATE_TEST_SUITE_P(Memory, GroupLimit, testing::Values("private", "memfd"),
                         [](const auto& memory) { return std::string(memory.param); });

}  // namespace
}  // namespace tidepool::tests
