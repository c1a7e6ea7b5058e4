// An agent that is pressed: by clients that stall and flood, by a pool that is full. Its VMs notice nothing.
#include <signal.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <thread>

#include "tests/integration/control/raw_client.h"
#include "tests/integration/load/load_process.h"
#include "tests/integration/operator/adoption_case.h"

namespace tidepool::tests {
namespace {

using daemon::testing::RawClient;

class Pressure : public AdoptionCase {
 protected:
  // A workload that checks every byte it reads, adopted and squeezed.
  void squeeze(load::LoadProcess& load, const std::string& limit) {
    const AddressRange range = load.wait_until_ready();
    ASSERT_FALSE(range.empty());
    ASSERT_EQ(adopt_whole(load.pid(), range,
                          {"--name", "load", "--mode", "active", "--guarantee", "0", "--limit", limit, "--stall-budget",
                           "100%"}),
              "load");
  }
  std::uint64_t far() { return ask({"vm", "show", "load"}).at("memory").at("far_bytes").to_number<std::uint64_t>(); }
  void expect_right_to_the_last_byte(load::LoadProcess& load) {
    EXPECT_EQ(release("load").code, 0);
    load.signal(SIGINT);
    EXPECT_EQ(load.wait_for_exit(), 0) << "a byte was wrong";
    expect_as_remembered();
  }
};

TEST_F(Pressure, OfStallingAndFloodingClientsDelaysNoVmAndIsOver) {
  start({{"api.request_timeout", "\"1s\""}, {"api.max_connections", "16"}});
  load::LoadProcess load(
      {"--size", "32MiB", "--pattern", "uniform", "--threads", "2", "--duration", "0", "--rate", "2000"});
  squeeze(load, "50%");
  EXPECT_TRUE(await([&] { return far() > 4u << 20; }));
  {
    // Half a request each, and silence.
    std::vector<RawClient> stalling;
    for (int i = 0; i < 40; ++i) {
      stalling.emplace_back(agent().socket());
      stalling.back().send("POST /v1/vms HTTP/1.1\r\nHost: agent\r\nContent-Length: 100\r\n\r\n{");
    }
    // As many as may come are there: the next one is told so at once, not left to wait.
    const Outcome turned_away = agent().tidectl({"status"});
    EXPECT_TRUE(turned_away.code == 0 || turned_away.code == 4) << turned_away.all();
    if (turned_away.code == 4) {
      EXPECT_NE(turned_away.err.find("too many connections"), std::string::npos) << turned_away.err;
    }
    // They are cut off when their time is over, and everybody else is served again.
    EXPECT_TRUE(await([&] { return agent().tidectl({"status"}).code == 0; }));
  }
  const std::string request = "GET /v1/vms HTTP/1.1\r\nHost: agent\r\n\r\n";
  std::vector<std::thread> flood;
  for (int i = 0; i < 4; ++i) {
    flood.emplace_back([&] {
      RawClient client(agent().socket());
      // Never reads an answer.
      for (int j = 0; j < 20000 && client.connected(); ++j)
        if (!client.send(request)) break;
    });
  }
  EXPECT_TRUE(await([&] { return agent().tidectl({"host", "freeze"}).code == 0; }));
  for (std::thread& each : flood) each.join();
  EXPECT_TRUE(await([&] { return agent().tidectl({"host", "thaw"}).code == 0; }));
  agent().expect({"health"}, 0);
  expect_right_to_the_last_byte(load);
}

TEST_F(Pressure, OfAFullPoolLeavesWhatDoesNotFitResident) {
  start({{"pool.embedded.capacity", "\"4MiB\""}});
  load::LoadProcess load(
      {"--size", "64MiB", "--pattern", "uniform", "--threads", "2", "--duration", "0", "--rate", "2000"});
  squeeze(load, "10%");
  const auto pool = [&] { return ask({"pool", "status"}); };
  const auto nearly_full = [&] {
    const auto status = pool();
    return status.at("used_bytes").to_number<double>() > 0.8 * status.at("capacity_bytes").to_number<double>();
  };
  EXPECT_TRUE(await(nearly_full));
  EXPECT_LE(pool().at("used_bytes").to_number<std::uint64_t>(), pool().at("capacity_bytes").to_number<std::uint64_t>());
  // It says why no more goes.
  EXPECT_TRUE(await([&] {
    return agent().tidectl({"explain", "load"}).out.find("pool") != std::string::npos;
  })) << agent().tidectl({"explain", "load"}).out;
  EXPECT_GT(ask({"vm", "show", "load"}).at("memory").at("resident_bytes").to_number<std::uint64_t>(), 32u << 20);
  agent().expect({"health"}, 0);
  expect_right_to_the_last_byte(load);
}

}  // namespace
}  // namespace tidepool::tests
