// Goal: with several controllers on etcd, nothing that one of them acknowledged is lost and nothing is done twice,
// whichever of them, or of etcd's members, is killed; and the clients need not know which one leads.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <set>

#include "tests/integration/controller/etcd_controllers.h"

namespace tidepool::pool::controller {
namespace {

using namespace testing;
using tests::await;
using tests::EtcdCluster;

constexpr auto kLease = std::chrono::seconds(2);

class ControllersOnEtcd : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!EtcdCluster::installed()) GTEST_SKIP() << "etcd is not installed: scripts/setup";
    cluster_ = std::make_unique<EtcdControllers>(kLease);
    ASSERT_EQ(cluster_->trouble(), "");
    http::ClientOptions options;
    options.endpoints = cluster_->endpoints();
    client_ = std::move(*http::Client::make(options));
  }

  Answer ask(const Request& request) {
    const HttpForm form = http_form(request);
    Answer answered;
    EXPECT_TRUE(await([&] {
      const Result<http::Answer> raw = client_->request(form.method, form.target, form.body);
      if (!raw) return false;
      Result<Answer> answer = answer_from(request, raw->status, raw->body);
      if (answer) answered = std::move(*answer);
      return answer.has_value();
    }));
    return answered;
  }

  void make_tenants(int number) {
    for (int i = 0; i < number; ++i) {
      SetTenant request;
      request.tenant = "tenant-" + std::to_string(acknowledged_.size());
      request.bounds.weight = 2;
      EXPECT_TRUE(std::holds_alternative<PlanAnswer>(ask(request)));
      acknowledged_.insert(request.tenant);
    }
  }

  void expect_all_there() {
    const Answer answer = ask(GetStatus{});
    const auto* const status = std::get_if<StatusAnswer>(&answer);
    ASSERT_NE(status, nullptr);
    std::set<std::string> there;
    for (const TenantView& each : status->tenants) EXPECT_TRUE(there.insert(each.name).second) << each.name;
    for (const std::string& each : acknowledged_) EXPECT_TRUE(there.contains(each)) << each;
  }

  std::unique_ptr<EtcdControllers> cluster_;
  std::unique_ptr<http::Client> client_;
  std::set<std::string> acknowledged_;
};

TEST_F(ControllersOnEtcd, LoseNothingWhicheverIsKilled) {
  make_tenants(10);
  for (int round = 0; round < 2; ++round) {
    ControllerProcess* const killed = cluster_->leader();
    ASSERT_NE(killed, nullptr);
    killed->kill_hard();
    const auto since = std::chrono::steady_clock::now();
    make_tenants(1);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - since;
    std::cout << "the first change after the leader's end took " << took.count() << " s; the lease is "
              << kLease.count() << " s\n";
    expect_all_there();
    ASSERT_TRUE(killed->start());
  }
  const unsigned member = cluster_->etcd().leading_member();
  cluster_->etcd().kill(member);
  make_tenants(10);
  expect_all_there();
  cluster_->etcd().restart(member);

  // An orderly end is followed at once.
  ControllerProcess* const ended = cluster_->leader();
  ASSERT_NE(ended, nullptr);
  ended->signal(SIGTERM);
  EXPECT_EQ(ended->await_end(), 0);
  make_tenants(1);
  expect_all_there();
}

TEST_F(ControllersOnEtcd, SayWhatIsWrongWhileEtcdHasNoMajority) {
  make_tenants(3);
  cluster_->etcd().kill(0);
  cluster_->etcd().kill(1);
  for (const auto& each : cluster_->all()) {
    EXPECT_TRUE(await([&] { return each->raw("GET", "/v1/status").status == 503; }));
    EXPECT_EQ(each->metric("tidepool_controller_leader"), 0);
  }
  cluster_->etcd().restart(0);
  make_tenants(3);
  expect_all_there();
}

}  // namespace
}  // namespace tidepool::pool::controller
