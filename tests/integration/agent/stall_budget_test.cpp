// A VM that was given too little local memory waits longer than its stall budget allows, and is well again without
// anybody's help.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <thread>

#include "tests/integration/agent/whole_rig.h"
#include "tests/support/http_get.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;

constexpr unsigned kThreads = 2;
constexpr double kBudget = 0.001;
constexpr char kBudgetText[] = "0.1%";

class StallBudget : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    REQUIRE_AGENT();
    whole_ = std::make_unique<Whole>(merciless({{"api.metrics", "\"127.0.0.1:" + std::to_string(port_) + "\""}}));
    ASSERT_TRUE(whole_->start());
    // All of its pages are in use, over and over: whichever go far, they are missed.
    target_ = std::make_unique<Target>(load({"--memory", GetParam(), "--pattern", "uniform", "--threads",
                                             std::to_string(kThreads), "--rate", "3000", "--verify", "header"},
                                            kMemory));
    ASSERT_TRUE(target_->ready());
    ASSERT_TRUE(whole_->adopt(target_->pid(), "load", target_->memory()));
  }
  double metric(const std::string& series) const { return metric_value(http_get(port_, "/metrics"), series); }
  double waited() const { return metric("tidepool_vm_fault_stall_seconds_total{vm=\"load\"}"); }
  double threads() const { return metric("tidepool_vm_fault_threads{vm=\"load\"}"); }
  double restored() const { return metric("tidepool_vm_promoted_bytes_total{vm=\"load\",cause=\"restore\"}"); }
  // The share of its threads' time that went into waiting, over a second from now.
  double stall() const {
    const auto start = std::chrono::steady_clock::now();
    const double before = waited();
    std::this_thread::sleep_for(1s);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return (waited() - before) / seconds / threads();
  }
  std::uint64_t decided(const std::string& reason) const {
    std::uint64_t count = 0;
    const Outcome outcome = whole_->tidectl({"decisions", "--vm", "load", "-o", "json"});
    for (std::size_t at = outcome.out.find('"' + reason + '"'); at != std::string::npos;
         at = outcome.out.find('"' + reason + '"', at + 1))
      ++count;
    return count;
  }
  void end() {
    EXPECT_TRUE(whole_->release("load"));
    target_->finish();
    EXPECT_EQ(whole_->stop(), 0);
  }

  static constexpr Bytes kMemory{64ull << 20};
  const int port_ = free_port();
  std::unique_ptr<Whole> whole_;
  std::unique_ptr<Target> target_;
};

// Nearly all of it was sent away, and nothing holds it there any longer: it comes home, most missed first, ahead of its
// next use.
TEST_P(StallBudget, BringsHomeWhatShouldNotHaveGone) {
  whole_->limit("load", Bytes{kMemory.value / 16});
  ASSERT_TRUE(whole_->await_far("load", Bytes{kMemory.value / 2}));
  EXPECT_TRUE(await([&] { return stall() > kBudget; }));
  EXPECT_EQ(restored(), 0) << "nothing comes home unasked while no budget is exceeded";
  whole_->expect({"vm", "set", "load", "--limit", "none", "--stall-budget", kBudgetText}, 0);
  EXPECT_TRUE(await([&] { return restored() > 0; }));
  EXPECT_TRUE(await([&] { return stall() < kBudget; }));
  EXPECT_GT(decided("promote-back"), 0u);
  EXPECT_LT(whole_->figure("load", "far_bytes"), kMemory.value / 2);
  end();
}

// The limit that hurts stays: it waits until the VM has recovered.
TEST_P(StallBudget, OutranksALimitThatHurts) {
  whole_->limit("load", Bytes{kMemory.value / 4});
  ASSERT_TRUE(whole_->await_far("load", Bytes{kMemory.value / 2}));
  EXPECT_TRUE(await([&] { return stall() > kBudget; }));
  whole_->expect({"vm", "set", "load", "--stall-budget", kBudgetText}, 0);
  EXPECT_TRUE(await([&] { return stall() < kBudget; }));
  EXPECT_GT(whole_->figure("load", "in_dram_bytes"), kMemory.value / 4) << "what is used came home past the limit";
  EXPECT_GT(decided("stall-budget"), 0u);
  end();
}

INSTANTIATE_TEST_SUITE_P(Memory, StallBudget, testing::Values("private", "memfd"),
                         [](const auto& memory) { return std::string(memory.param); });

}  // namespace
}  // namespace tidepool::tests
