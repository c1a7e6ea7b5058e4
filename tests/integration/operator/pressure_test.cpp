// An agent that is pressed: by clients that stall and flood, by a pool that is full, by pages that no pool takes. Its
// VMs notice nothing.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>
#include <vector>

#include "tests/integration/control/raw_client.h"
#include "tests/integration/load/load_process.h"
#include "tests/integration/operator/adoption_case.h"
#include "tests/support/child_process.h"
#include "tests/support/planned_memory.h"

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

// Half noise, half what shrinks to a fraction: no two pages are alike, and none is of one byte only.
std::vector<char> half_noise(std::size_t size) {
  std::vector<char> bytes(size, 'x');
  std::mt19937_64 random(7);
  for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
    if (at >= size / 2 && at % kPageSize != 0) continue;
    const std::uint64_t word = random();
    std::memcpy(bytes.data() + at, &word, sizeof word);
  }
  return bytes;
}

TEST_F(Pressure, OfPagesThatDoNotShrinkLeavesThemResidentAndNamesThem) {
  start();
  const std::vector<char> expected = half_noise(16 * kMiB);
  const PlannedMemory memory(expected.size());
  ChildProcess child([&] {
    // Shared: private memory could become one mapping with what lies beside it.
    char* bytes = memory.make(MAP_SHARED | MAP_ANONYMOUS);
    if (bytes == nullptr) return std::string("mmap");
    std::ranges::copy(expected, bytes);
    return std::string();
  });
  ASSERT_READY(child);
  const AddressRange range = memory.range();
  adopt_whole(child.pid(), range,
              {"--name", "load", "--mode", "active", "--guarantee", "0", "--limit", "64KiB", "--stall-budget", "100%"});
  EXPECT_TRUE(await([&] { return far() == 8 * kMiB; })) << far();
  EXPECT_TRUE(await([&] {
    return agent().tidectl({"explain", "load"}).out.find("8.0M would not compress and stay resident") !=
           std::string::npos;
  })) << agent().tidectl({"explain", "load"}).out;
  EXPECT_EQ(far(), 8 * kMiB) << "however often they are tried again";
  EXPECT_GE(ask({"pool", "status"}).at("incompressible_total").to_number<std::uint64_t>(), 8 * kMiB / kPageSize);
  EXPECT_EQ(release("load").code, 0);
  std::vector<char> found(expected.size());
  std::ifstream file("/proc/" + std::to_string(child.pid()) + "/mem", std::ios::binary);
  file.seekg(static_cast<std::streamoff>(range.start));
  file.read(found.data(), static_cast<std::streamsize>(found.size()));
  EXPECT_TRUE(file.good() && found == expected);
  expect_as_remembered();
}

}  // namespace
}  // namespace tidepool::tests
