// tidepool-cache-load against real servers.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bench/load/cache_connection.h"
#include "tests/integration/load/load_process.h"

namespace tidepool::load {
namespace {

struct ServerKind {
  CacheProtocol protocol;
  const char* program;
  const char* option;  // of tidepool-cache-load
};

class CacheLoad : public testing::TestWithParam<ServerKind> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(GetParam().program)) {
      GTEST_SKIP() << GetParam().program << " is not installed (scripts/setup --demo installs it)";
    }
    std::vector<std::string> arguments{"--port", "0", "--unixsocket", socket_, "--save", "", "--loglevel", "warning"};
    if (GetParam().protocol == CacheProtocol::kMemcached)
      arguments = {"-u", "root", "-p", "0", "-s", socket_, "-m", "64"};
    server_ = std::make_unique<LoadProcess>(arguments, GetParam().program);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!connect_to_cache(GetParam().protocol, socket_)) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline) << GetParam().program << " does not answer";
      std::this_thread::yield();
    }
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove(socket_);
  }

  std::vector<std::string> client(std::vector<std::string> more) const {
    more.insert(more.end(), {GetParam().option, socket_, "--keys", "1000", "--threads", "2"});
    return more;
  }
  static std::string rest_of(LoadProcess& process) {
    std::string text;
    while (const auto line = process.read_line()) text += *line + "\n";
    return text;
  }

  const std::string socket_ = "/tmp/tidepool-cache-load-test." + std::to_string(::getpid());
  std::unique_ptr<LoadProcess> server_;
};

TEST_P(CacheLoad, FindsNothingWrongWithAnHonestServer) {
  LoadProcess process(client({"--duration", "0.5"}), "tidepool-cache-load");
  const std::string report = rest_of(process);
  EXPECT_EQ(process.wait_for_exit(), 0) << report;
  EXPECT_NE(report.find("mismatches 0"), std::string::npos) << report;
}

TEST_P(CacheLoad, ChecksEveryKeyWhenAskedAndGoesOn) {
  LoadProcess process(client({"--duration", "0", "--rate", "1"}), "tidepool-cache-load");
  const auto ready = process.read_line();
  ASSERT_TRUE(ready && ready->starts_with("ready")) << ready.value_or("nothing");
  process.signal(SIGUSR2);
  EXPECT_EQ(process.read_line().value_or("nothing"), "checked all keys, mismatches 0");
  auto other = connect_to_cache(GetParam().protocol, socket_);
  ASSERT_TRUE(other);
  ASSERT_TRUE((*other)->set("tidepool:1:321", "something else"));
  process.signal(SIGUSR2);
  EXPECT_EQ(process.read_line().value_or("nothing"), "checked all keys, mismatches 1");
  process.signal(SIGTERM);
  const std::string report = rest_of(process);
  EXPECT_EQ(process.wait_for_exit(), 1) << report;
}

TEST_P(CacheLoad, FindsAValueThatAnotherHandChanged) {
  LoadProcess process(client({"--duration", "0", "--rate", "1"}), "tidepool-cache-load");
  const auto ready = process.read_line();
  ASSERT_TRUE(ready && ready->starts_with("ready")) << ready.value_or("nothing");
  auto other = connect_to_cache(GetParam().protocol, socket_);
  ASSERT_TRUE(other);
  ASSERT_TRUE((*other)->set("tidepool:1:321", "something else"));
  process.signal(SIGTERM);
  const std::string report = rest_of(process);
  EXPECT_EQ(process.wait_for_exit(), 1);
  EXPECT_NE(report.find("tidepool:1:321: version 1 expected, 14 of 4096 bytes came and are not it"), std::string::npos)
      << report;
}

TEST_P(CacheLoad, FailsWhenTheServerGoesAway) {
  LoadProcess process(client({"--duration", "0"}), "tidepool-cache-load");
  ASSERT_TRUE(process.read_line());
  server_->signal(SIGKILL);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (connect_to_cache(GetParam().protocol, socket_)) ASSERT_LT(std::chrono::steady_clock::now(), deadline);
  process.signal(SIGTERM);
  const std::string report = rest_of(process);
  EXPECT_EQ(process.wait_for_exit(), 1) << report;
}

INSTANTIATE_TEST_SUITE_P(Servers, CacheLoad,
                         testing::Values(ServerKind{CacheProtocol::kMemcached, "/usr/bin/memcached", "--memcached"},
                                         ServerKind{CacheProtocol::kRedis, "/usr/bin/redis-server", "--redis"}),
                         [](const auto& server) {
                           return server.param.protocol == CacheProtocol::kRedis ? "Redis" : "Memcached";
                         });

}  // namespace
}  // namespace tidepool::load
