// The keeper ends while pages are far, and comes back: nothing more goes far that nobody holds, and the new keeper gets
// all that the old one had.
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json.hpp>

#include "tests/integration/agent/whole_rig.h"
#include "tests/support/http_get.h"

namespace tidepool::tests {
namespace {

class EndingKeeper : public testing::Test {
 protected:
  void SetUp() override {
    REQUIRE_AGENT();
    whole_ = std::make_unique<Whole>(merciless({{"api.metrics", "\"127.0.0.1:" + std::to_string(port_) + "\""}}));
    ASSERT_TRUE(whole_->start());
  }
  double metric(const std::string& series) const { return metric_value(http_get(port_, "/metrics"), series); }
  bool usable() const { return metric("tidepool_holder_usable{holder=\"keeper\"}") == 1; }
  Outcome health() const { return whole_->tidectl({"health"}); }

  const int port_ = free_port();
  std::unique_ptr<Whole> whole_;
};

TEST_F(EndingKeeper, IsNoticedAndItsSuccessorIsGivenEverything) {
  Target first(load({"--memory", "private", "--threads", "2", "--rate", "2000"}, Bytes{32ull << 20}));
  Target second(load({"--memory", "memfd", "--threads", "2", "--rate", "2000"}, Bytes{32ull << 20}));
  Target third(load({"--memory", "private", "--threads", "1"}, Bytes{16ull << 20}));
  ASSERT_TRUE(first.ready() && second.ready() && third.ready());
  ASSERT_TRUE(whole_->adopt(first.pid(), "first", first.memory()));
  ASSERT_TRUE(whole_->adopt(second.pid(), "second", second.memory()));
  whole_->limit("first", Bytes{4ull << 20});
  ASSERT_TRUE(whole_->await_far("first", Bytes{first.memory().size() / 4}));
  const std::vector<std::string> names = whole_->held();
  EXPECT_EQ(names.size(), 2u + 3u + 4u) << testing::PrintToString(names);
  EXPECT_TRUE(usable());

  const std::uint64_t far = whole_->figure("first", "far_bytes");
  whole_->kill_keeper();
  EXPECT_TRUE(await([&] { return !usable(); }));
  EXPECT_EQ(metric("tidepool_holder_losses_total{holder=\"keeper\"}"), 1);
  EXPECT_EQ(health().code, 1);
  EXPECT_NE(health().all().find("keeper.sock has ended"), std::string::npos) << health().all();
  // Nobody is taken in.
  const ProcessState before = settled_state(third.pid());
  const Outcome refused = whole_->tidectl({"vm", "adopt", "--pid", std::to_string(third.pid()), "--name", "third"});
  EXPECT_EQ(refused.code, 1) << refused.all();
  EXPECT_NE(refused.all().find("nothing more is adopted"), std::string::npos) << refused.all();
  expect_as_found(third.pid(), before);
  // Nothing goes out, whatever is wanted; what is touched comes home.
  whole_->limit("second", Bytes{4ull << 20});
  EXPECT_TRUE(await([&] { return whole_->figure("first", "far_bytes") < far / 2; }));
  const double ticks = metric("tidepool_policy_tick_seconds_count");
  EXPECT_TRUE(await([&] { return metric("tidepool_policy_tick_seconds_count") > ticks + 10; }));
  EXPECT_EQ(whole_->figure("second", "far_bytes"), 0u);
  const Outcome decisions = whole_->tidectl({"decisions", "--vm", "second"});
  EXPECT_NE(decisions.all().find("keeper-away"), std::string::npos) << decisions.all();
  // Neither does an operator's thaw let it.
  whole_->expect({"host", "freeze"}, 0);
  whole_->expect({"host", "thaw"}, 0);
  const std::uint64_t out = whole_->figure("second", "demoted_bytes_total");
  EXPECT_TRUE(await([&] { return metric("tidepool_policy_tick_seconds_count") > ticks + 20; }));
  EXPECT_EQ(whole_->figure("second", "demoted_bytes_total"), out);

  whole_->start_keeper();
  EXPECT_TRUE(await([&] { return usable(); })) << whole_->log();
  EXPECT_EQ(whole_->held(), names);
  EXPECT_EQ(health().code, 0) << health().all();
  EXPECT_TRUE(await([&] { return whole_->figure("second", "demoted_bytes_total") > out; }));
  ASSERT_TRUE(whole_->adopt(third.pid(), "third", third.memory()));
  EXPECT_TRUE(whole_->release("third"));
  EXPECT_EQ(whole_->held(), names);
  EXPECT_EQ(metric("tidepool_holder_losses_total{holder=\"keeper\"}"), 1);

  // What it has is what a crash leaves.
  whole_->kill_agent();
  EXPECT_EQ(whole_->held(), names);
  EXPECT_TRUE(first.running() && second.running());
}

// What is released while nobody holds it is not handed over; nor does a second loss find anything left behind.
TEST_F(EndingKeeper, SuccessorIsGivenOnlyWhatStillMatters) {
  Target first(load({"--memory", "private", "--threads", "1"}, Bytes{16ull << 20}));
  Target second(load({"--memory", "private", "--threads", "1"}, Bytes{16ull << 20}));
  ASSERT_TRUE(first.ready() && second.ready());
  const std::size_t descriptors = open_descriptors(whole_->pid());
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(whole_->adopt(first.pid(), "first", first.memory()));
    ASSERT_TRUE(whole_->adopt(second.pid(), "second", second.memory()));
    whole_->kill_keeper();
    EXPECT_TRUE(await([&] { return !usable(); }));
    EXPECT_TRUE(whole_->release("first"));
    whole_->start_keeper();
    EXPECT_TRUE(await([&] { return usable(); })) << whole_->log();
    EXPECT_EQ(whole_->held().size(), 2u + 3u) << testing::PrintToString(whole_->held());
    EXPECT_TRUE(whole_->release("second"));
    EXPECT_EQ(whole_->held().size(), 2u) << testing::PrintToString(whole_->held());
  }
  EXPECT_TRUE(await([&] { return open_descriptors(whole_->pid()) <= descriptors; }))
      << open_descriptors(whole_->pid()) << " descriptors open, " << descriptors << " before";
  first.finish();
  second.finish();
  EXPECT_EQ(whole_->stop(), 0);
  EXPECT_TRUE(whole_->held().empty()) << testing::PrintToString(whole_->held());
}

}  // namespace
}  // namespace tidepool::tests
