// An agent, memory servers and a pool controller as programs: a VM's far pages through a kill, a resize, a drain and an
// absence of the controller.
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json.hpp>
#include <fstream>
#include <thread>

#include "pool/controller/port/controller_port.h"
#include "tests/integration/agent/whole_rig.h"
#include "tests/integration/memd/memd_process.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;
using namespace pool::controller;
using pool::server::testing::MemdProcess;

class ControllerProcess {
 public:
  ControllerProcess() {
    std::ofstream file(folder_ / "controller.toml");
    file << "schema = 1\nname = \"c1\"\napi.socket = \"" << socket() << "\"\napi.audit_log = \"\"\nstate.file = \""
         << (folder_ / "state.db")
         << "\"\nslices.size = \"4MiB\"\nservers.heartbeat = \"200ms\"\nservers.suspect_after = \"1s\"\n"
            "servers.lost_after = \"3s\"\nhosts.sync = \"200ms\"\nhosts.silent_after = \"10s\"\nleases.time = \"5s\"\n"
            "leases.confirm_time = \"10s\"\nshares.interval = \"100ms\"\nshares.buffer = \"0%\"\n";
  }
  ~ControllerProcess() {
    if (pid_ != 0) kill();
    if (::testing::Test::HasFailure()) std::cerr << read_file(folder_ / "controller.log");
  }
  std::string socket() const { return folder_ / "controller.sock"; }
  bool start() {
    pid_ = start_program({"tidepool-controller", "--config", folder_ / "controller.toml"}, {}, folder_ / "out",
                         folder_ / "controller.log");
    auto port = make_http_port({"unix:" + socket()}, {}, "test");
    if (!port) return false;
    port_ = std::move(*port);
    return await([&] { return port_->call(GetStatus{}).has_value(); });
  }
  void kill() {
    ::kill(pid_, SIGKILL);
    await_exit(pid_);
    pid_ = 0;
  }
  template <class Wanted>
  Wanted ask(const Request& request) {
    auto answer = expect<Wanted>(port_->call(request));
    EXPECT_TRUE(answer) << answer.error().message();
    return answer ? std::move(*answer) : Wanted{};
  }
  StatusAnswer status() { return ask<StatusAnswer>(GetStatus{}); }

 private:
  TestFolder folder_;
  pid_t pid_ = 0;
  std::unique_ptr<ControllerPort> port_;
};

class Controlled : public testing::Test {
 protected:
  static constexpr const char* kLoad = "load";

  pool::server::testing::MemdSettings server_settings(int number) const {
    const std::string name = "\"m" + std::to_string(number) + "\"";
    return {{"name", name},
            {"failure_domain", name},
            {"memory.capacity", "\"128MiB\""},
            {"controller.endpoints", "[\"unix:" + controller.socket() + "\"]"}};
  }

  void begin() {
    ASSERT_TRUE(controller.start());
    for (int i = 0; i < 3; ++i) {
      servers.push_back(std::make_unique<MemdProcess>(server_settings(i)));
      ASSERT_TRUE(servers.back()->start());
    }
    ASSERT_TRUE(await([&] { return controller.status().servers_up == 3; }));
    whole =
        std::make_unique<Whole>(merciless({{"pool.servers.capacity", "\"256MiB\""},
                                           {"pool.servers.slice", "\"4MiB\""},
                                           {"pool.controller.host", "\"host-1\""},
                                           {"pool.controller.endpoints", "[\"unix:" + controller.socket() + "\"]"}}));
    ASSERT_TRUE(whole->start());
  }
  void adopt(Target& target) {
    ASSERT_TRUE(target.ready());
    ASSERT_TRUE(whole->adopt(target.pid(), kLoad, target.memory()));
    whole->limit(kLoad, Bytes{target.memory().size() / 10});
    ASSERT_TRUE(whole->await_moved(kLoad, Bytes{8u << 20}, Bytes{1u << 20}));
  }
  boost::json::object pool() const {
    return boost::json::parse(whole->expect({"pool", "status", "-o", "json"}, 0)).as_object();
  }
  bool is_whole() {
    const boost::json::object now = pool();
    return now.at("degraded_slices").to_number<int>() == 0 && now.at("filling_slices").to_number<int>() == 0 &&
           controller.status().under_replicated == 0;
  }
  void resize(Bytes limit) {
    controller.ask<PlanAnswer>(
        SetVm{.host = "host-1", .vm = kLoad, .bounds = {.reservation = {}, .limit = limit, .weight = {}}});
  }

  ControllerProcess controller;
  std::vector<std::unique_ptr<MemdProcess>> servers;
  std::unique_ptr<Whole> whole;
};

TEST_F(Controlled, AVmLosesNothingWhateverHappensAroundIt) {
  REQUIRE_AGENT();
  begin();
  Target target(load({"--memory", "private"}));
  adopt(target);
  // A server dies: what it had is copied to the others.
  servers[0]->signal(SIGKILL);
  EXPECT_EQ(servers[0]->await_end(), 128 + SIGKILL);
  EXPECT_TRUE(await([&] { return controller.status().servers_lost == 1 && is_whole(); }))
      << boost::json::serialize(pool());
  ASSERT_TRUE(servers[0]->start());
  EXPECT_TRUE(await([&] { return controller.status().servers_up == 3; }));
  // Half as much, and back.
  for (int round = 0; round < 2; ++round) {
    const Bytes before = controller.status().held;
    const Bytes half{before.value / 2};
    resize(half);
    EXPECT_TRUE(await([&] { return controller.status().held <= half; })) << boost::json::serialize(pool());
    resize(Bytes{UINT64_MAX});
    EXPECT_TRUE(await([&] { return controller.status().held > half; })) << boost::json::serialize(pool());
  }
  // One is emptied.
  controller.ask<PlanAnswer>(DrainServer{.server = "m1"});
  EXPECT_TRUE(await([&] { return servers[1]->metric("tidepool_memd_slices") == 0; }));
  EXPECT_TRUE(await([&] { return is_whole(); })) << boost::json::serialize(pool());
  // For longer than any lease nobody is there to ask.
  controller.kill();
  EXPECT_TRUE(await([&] { return pool().at("expired_slices").to_number<int>() != 0; }));
  EXPECT_TRUE(target.running());
  ASSERT_TRUE(controller.start());
  EXPECT_TRUE(await([&] { return pool().at("expired_slices").to_number<int>() == 0; }));
  EXPECT_TRUE(whole->await_moved(kLoad, Bytes{8u << 20}, Bytes{1u << 20}));
  EXPECT_EQ(pool().at("lost_pages_total").to_number<int>(), 0);
  EXPECT_TRUE(whole->release(kLoad));
  target.finish();
  EXPECT_TRUE(await([&] { return controller.status().held == Bytes{}; }));
  EXPECT_EQ(whole->stop(), 0);
}

// Nobody says anything at the controller: the servers and it do.
TEST_F(Controlled, AServerIsEmptiedWhenItIsStoppedAndFoundWhereverItComesBack) {
  REQUIRE_AGENT();
  begin();
  Target target(load({"--memory", "private"}));
  adopt(target);
  ASSERT_TRUE(await([&] { return servers[0]->metric("tidepool_memd_slices") > 0; }));
  servers[0]->signal(SIGTERM);
  EXPECT_TRUE(await([&] { return servers[0]->metric("tidepool_memd_controller_drains") == 1; }));
  EXPECT_EQ(servers[0]->await_end(), 0) << "when everything has moved, and not before";
  EXPECT_TRUE(await([&] { return is_whole(); })) << boost::json::serialize(pool());
  EXPECT_EQ(pool().at("lost_pages_total").to_number<int>(), 0);
  // Elsewhere, under the same name.
  auto settings = server_settings(0);
  settings["listen"] = "[\"" + servers[0]->tcp_address() + "\"]";
  servers[0]->write_settings(settings);
  ASSERT_TRUE(servers[0]->start());
  ASSERT_TRUE(await([&] { return controller.status().servers_up == 3; }));
  // With another one gone it is needed.
  servers[1]->signal(SIGTERM);
  EXPECT_EQ(servers[1]->await_end(), 0);
  EXPECT_GT(servers[0]->metric("tidepool_memd_slices"), 0);
  EXPECT_TRUE(await([&] { return is_whole(); })) << boost::json::serialize(pool());
  EXPECT_TRUE(whole->await_moved(kLoad, Bytes{8u << 20}, Bytes{1u << 20}));
  EXPECT_EQ(pool().at("lost_pages_total").to_number<int>(), 0);
  EXPECT_TRUE(whole->release(kLoad));
  target.finish();
  EXPECT_EQ(whole->stop(), 0);
}

}  // namespace
}  // namespace tidepool::tests
