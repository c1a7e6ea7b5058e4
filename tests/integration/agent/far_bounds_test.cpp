// What bounds the far memory of all VMs together: a ceiling, and that it must fit back. What is far of a VM that was
// set back counts like any other's.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>

#include <boost/json.hpp>
#include <fstream>
#include <map>

#include "tests/integration/agent/whole_rig.h"

namespace tidepool::tests {
namespace {

constexpr Bytes kMemory{64ull << 20};
constexpr Bytes kMiB{1ull << 20};

class FarBounds : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { REQUIRE_AGENT(); }
  // Most of `first` goes far, and it is set back.
  void begin(const Settings& settings, const std::function<bool()>& prepare = {}) {
    whole_ = std::make_unique<Whole>(merciless(settings));
    ASSERT_TRUE(whole_->start(prepare));
    for (const char* name : {"first", "second"}) {
      const auto& target = targets_[name] =
          std::make_unique<Target>(load({"--threads", "2", "--rate", "500"}, kMemory));
      ASSERT_TRUE(target->ready());
      ASSERT_TRUE(whole_->adopt(target->pid(), name, target->memory()));
    }
    whole_->limit("first", Bytes{kMiB.value * 8});
    ASSERT_TRUE(whole_->await_far("first", Bytes{kMiB.value * 16 / slowness()}));
    whole_->expect({"vm", "set", "first", "--mode", GetParam()}, 0);
    await([&] { return whole_->figure("first", "moving_out_bytes") == 0; });
    whole_->limit("second", kMiB);
  }
  Bytes far() const {
    return Bytes{whole_->figure("first", "far_bytes") + whole_->figure("first", "fetching_bytes") +
                 whole_->figure("second", "far_bytes") + whole_->figure("second", "fetching_bytes")};
  }
  // Nothing more of `second` goes, and it says why.
  void expect_held_back(const std::string& reason, const std::string& text) const {
    EXPECT_TRUE(await([&] {
      return whole_->tidectl({"explain", "second"}).out.find(reason) != std::string::npos;
    })) << whole_->tidectl({"explain", "second"}).all();
    const std::string decisions = whole_->expect({"decisions", "--vm", "second", "-o", "json"}, 0);
    EXPECT_NE(decisions.find('"' + reason + '"'), std::string::npos) << decisions;
    EXPECT_NE(decisions.find(text), std::string::npos) << decisions;
  }
  void expect_goes_on_with(const Settings& settings) {
    whole_->write_settings(settings);
    whole_->reload();
    EXPECT_TRUE(whole_->await_far("second", Bytes{kMiB.value * 24 / slowness()}));
  }
  void end() {
    for (const auto& [name, target] : targets_) {
      EXPECT_TRUE(whole_->release(name));
      target->finish();
    }
    EXPECT_EQ(whole_->stop(), 0);
  }

  std::unique_ptr<Whole> whole_;
  std::map<std::string, std::unique_ptr<Target>> targets_;
};

TEST_P(FarBounds, ACeilingOfAllVmsHoldsDemotionBack) {
  const Bytes ceiling{kMiB.value * 32 / slowness()};
  begin({{"safety.max_far", "\"" + std::to_string(ceiling.value) + "B\""}});
  expect_held_back("far-ceiling", "safety.max_far");
  EXPECT_LE(far(), ceiling);
  expect_goes_on_with({{"safety.max_far", "\"50%\""}});
  end();
}

TEST_P(FarBounds, WhatWouldNotFitBackDoesNotGo) {
  // The agent sees a host with hardly more than its reserve left.
  const TestFolder folder;
  std::ofstream(folder / "meminfo") << "MemTotal: 16777216 kB\nMemFree: 1050000 kB\nMemAvailable: 1052672 kB\n";
  const auto with_that = [&] {
    return ::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
           ::mount((folder / "meminfo").c_str(), "/proc/meminfo", nullptr, MS_BIND, nullptr) == 0;
  };
  begin({{"safety.host_reserve", "\"1GiB\""}}, with_that);
  expect_held_back("not-evacuable", "what is far would not fit back");
  EXPECT_EQ(whole_->figure("second", "demoted_bytes_total"), 0u);
  const std::string plan = whole_->tidectl({"host", "evacuate", "--plan", "-o", "json"}).out;
  EXPECT_FALSE(boost::json::parse(plan).at("possible").as_bool()) << plan;
  expect_goes_on_with({{"safety.require_evacuable", "false"}});
  end();
}

INSTANTIATE_TEST_SUITE_P(SetBackTo, FarBounds, testing::Values("observe", "dry-run"),
                         [](const auto& mode) { return mode.param == std::string("observe") ? "Observe" : "DryRun"; });

}  // namespace
}  // namespace tidepool::tests
