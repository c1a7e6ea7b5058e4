// Goal: a VM whose pages come from memory servers notices nothing when the leading controller, or a member of etcd, is
// killed: its pages go on moving, every byte is right, and afterwards each lease is there once.
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json.hpp>
#include <chrono>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "pool/controller/port/controller_port.h"
#include "tests/integration/agent/whole_rig.h"
#include "tests/integration/controller/etcd_controllers.h"
#include "tests/integration/memd/memd_process.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;
using namespace pool::controller;
using pool::controller::testing::ControllerProcess;
using pool::controller::testing::EtcdControllers;
using pool::controller::testing::quoted_list;
using pool::server::testing::MemdProcess;
using pool::server::testing::MemdSettings;
using Clock = std::chrono::steady_clock;

constexpr int kServers = 3;
constexpr auto kLease = 3s;
// Shorter than any way to another leader: a page that waited for one would be seen.
constexpr auto kMostWithoutFaults = 2s;
constexpr const char* kLoad = "load";

class KillsUnderLoad : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!EtcdCluster::installed()) GTEST_SKIP() << "etcd is not installed: scripts/setup";
    REQUIRE_AGENT();
    cluster_ = std::make_unique<EtcdControllers>(
        kLease, pool::controller::testing::ControllerSettings{{"slices.size", "\"4MiB\""},
                                                              {"servers.heartbeat", "\"200ms\""},
                                                              {"servers.suspect_after", "\"2s\""},
                                                              {"servers.lost_after", "\"20s\""},
                                                              {"hosts.sync", "\"200ms\""},
                                                              {"leases.time", "\"12s\""},
                                                              {"shares.interval", "\"100ms\""},
                                                              {"shares.buffer", "\"0%\""}});
    ASSERT_EQ(cluster_->trouble(), "");
    const std::string endpoints = quoted_list(cluster_->endpoints());
    port_ = std::move(*make_http_port(cluster_->endpoints(), {}, "test"));
    for (int i = 0; i < kServers; ++i) {
      const std::string name = "\"m" + std::to_string(i) + "\"";
      servers_.push_back(std::make_unique<MemdProcess>(MemdSettings{{"name", name},
                                                                    {"failure_domain", name},
                                                                    {"memory.capacity", "\"128MiB\""},
                                                                    {"controller.endpoints", endpoints}}));
      ASSERT_TRUE(servers_.back()->start());
    }
    ASSERT_TRUE(await([&] { return ask<StatusAnswer>(GetStatus{}).servers_up == kServers; }));
    whole_ = std::make_unique<Whole>(merciless({{"pool.servers.capacity", "\"256MiB\""},
                                                {"pool.servers.slice", "\"4MiB\""},
                                                {"pool.controller.host", "\"host-1\""},
                                                {"pool.controller.endpoints", endpoints}}));
    ASSERT_TRUE(whole_->start());
    target_ = std::make_unique<Target>(load({"--memory", "private"}));
    ASSERT_TRUE(target_->ready());
    ASSERT_TRUE(whole_->adopt(target_->pid(), kLoad, target_->memory()));
    whole_->limit(kLoad, Bytes{target_->memory().size() / 4});
    ASSERT_TRUE(whole_->await_moved(kLoad, Bytes{8u << 20}, Bytes{1u << 20}));
  }

  // By whoever leads; until there is an answer.
  template <class Wanted>
  Wanted ask(const Request& request) {
    Wanted wanted{};
    EXPECT_TRUE(await([&] {
      auto answer = expect<Wanted>(port_->call(request));
      if (answer) wanted = std::move(*answer);
      return answer.has_value();
    }));
    return wanted;
  }

  // From now on, for two leases: when a controller answers, and the longest time in which no page came home.
  struct Outage {
    Clock::duration unanswered{0};
    Clock::duration no_faults{0};
  };
  Outage watch() {
    Outage outage;
    const auto since = Clock::now();
    std::thread asks([&] {
      EXPECT_TRUE(await([&] { return expect<StatusAnswer>(port_->call(GetStatus{})).has_value(); }));
      outage.unanswered = Clock::now() - since;
    });
    std::uint64_t home = whole_->figure(kLoad, "promoted_bytes_total");
    for (auto at = since; Clock::now() - since < 2 * kLease;) {
      const std::uint64_t now = whole_->figure(kLoad, "promoted_bytes_total");
      outage.no_faults = std::max(outage.no_faults, Clock::now() - at);
      if (now == home) continue;
      home = now;
      at = Clock::now();
    }
    asks.join();
    return outage;
  }
  void expect_unnoticed(const Outage& outage, const std::string& what) {
    const auto seconds = [](Clock::duration time) { return std::chrono::duration<double>(time).count(); };
    std::cout << what << ": answers after " << seconds(outage.unanswered) << " s (the lease is " << kLease.count()
              << " s), longest time without a page that came home " << seconds(outage.no_faults) << " s\n";
    EXPECT_LE(outage.unanswered, 2 * kLease * slowness()) << what;
    EXPECT_LT(outage.no_faults, kMostWithoutFaults * slowness()) << what;
    EXPECT_TRUE(target_->running()) << target_->output();
    expect_leases_right(what);
  }

  // Both lists tell of the same slices, each once; and what a server has, somebody holds there.
  void expect_leases_right(const std::string& what) {
    std::string why;
    const bool right = await([&] {
      why = what_is_wrong();
      return why.empty();
    });
    EXPECT_TRUE(right) << what << ": " << why;
  }
  std::string what_is_wrong() {
    const boost::json::object pool =
        boost::json::parse(whole_->expect({"pool", "status", "-o", "json"}, 0)).as_object();
    for (const char* each : {"lost_pages_total", "lost_slices", "degraded_slices", "expired_slices"})
      if (pool.at(each).to_number<int>() != 0) return std::string(each) + " is not 0";
    if (pool.at("controller").at("unknown_slices").to_number<int>() != 0) return "the controller lost slices";
    std::map<std::string, std::uint64_t> replicas;
    std::set<protocol::SliceId> seen;
    ListLeases request;
    do {
      const auto leases = ask<LeasesAnswer>(request);
      for (const LeaseView& lease : leases.leases) {
        if (!seen.insert(lease.slice).second) return "a slice is leased twice";
        std::set<std::string> at;
        for (const auto& replica : lease.replicas)
          if (!at.insert(replica.server).second) return "two replicas at one server";
        if (at.size() != 2) return "a slice has " + std::to_string(at.size()) + " replicas";
        for (const std::string& server : at) ++replicas[server];
      }
      request.page.after = leases.next;
    } while (!request.page.after.empty());
    if (seen.size() != pool.at("slices").to_number<std::size_t>())
      return "the controller has " + std::to_string(seen.size()) + " slices, the agent " +
             std::to_string(pool.at("slices").to_number<std::size_t>());
    for (int i = 0; i < kServers; ++i) {
      const double there = servers_[static_cast<std::size_t>(i)]->metric("tidepool_memd_slices");
      if (there != static_cast<double>(replicas["m" + std::to_string(i)])) return "a server has other slices";
    }
    return "";
  }

  void finish() {
    EXPECT_TRUE(whole_->release(kLoad));
    target_->finish();
    EXPECT_TRUE(await([&] { return ask<StatusAnswer>(GetStatus{}).held == Bytes{}; }));
    EXPECT_EQ(whole_->stop(), 0);
  }

  std::unique_ptr<EtcdControllers> cluster_;
  std::unique_ptr<ControllerPort> port_;
  std::vector<std::unique_ptr<MemdProcess>> servers_;
  std::unique_ptr<Whole> whole_;
  std::unique_ptr<Target> target_;
};

TEST_F(KillsUnderLoad, OfTheLeaderAndOfAnEtcdMemberAreNotNoticedByAVm) {
  expect_leases_right("before");
  for (int round = 0; round < 2; ++round) {
    ControllerProcess* const killed = cluster_->leader();
    ASSERT_NE(killed, nullptr);
    killed->kill_hard();
    expect_unnoticed(watch(), "the leader is killed");
    EXPECT_NE(cluster_->leader(), killed);
    ASSERT_TRUE(killed->start());
  }
  const unsigned member = cluster_->etcd().leading_member();
  cluster_->etcd().kill(member);
  expect_unnoticed(watch(), "an etcd member is killed");
  cluster_->etcd().restart(member);
  expect_unnoticed(watch(), "it comes back");
  finish();
}

}  // namespace
}  // namespace tidepool::tests
