// Far pages at real memory servers, which are killed, stopped and replaced meanwhile.
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json.hpp>
#include <thread>

#include "tests/integration/agent/whole_rig.h"
#include "tests/integration/memd/memd_process.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;
using pool::server::testing::MemdProcess;

struct Way {
  const char* name;
  const char* memory;
  bool tcp;
  const char* codec;
};

void PrintTo(const Way& way, std::ostream* out) {
  *out << way.name;
}

class MemoryServers : public testing::TestWithParam<Way> {
 protected:
  static std::string section(const MemdProcess& server, const std::string& name, bool tcp) {
    return "{name = \"" + name + "\", address = \"" + (tcp ? server.tcp_address() : server.unix_address()) +
           "\", failure_domain = \"" + name + "\", key_file = \"" + server.key_file() + "\"}";
  }
  void begin(const Settings& more = {}) {
    ASSERT_TRUE(first.start() && second.start());
    Settings settings{{"pool.servers.capacity", "\"256MiB\""},
                      {"pool.servers.slice", "\"4MiB\""},
                      {"pool.servers.codec", "\"" + std::string(GetParam().codec) + "\""},
                      {"memory_server", "[" + section(first, "first", GetParam().tcp) + ", " +
                                            section(second, "second", GetParam().tcp) + "]"}};
    settings.insert(more.begin(), more.end());
    whole = std::make_unique<Whole>(merciless(settings));
    ASSERT_TRUE(whole->start());
  }
  void adopt(Target& target) {
    ASSERT_TRUE(target.ready());
    ASSERT_TRUE(whole->adopt(target.pid(), "load", target.memory()));
    whole->limit("load", Bytes{target.memory().size() / 10});
    ASSERT_TRUE(whole->await_moved("load", Bytes{8u << 20}, Bytes{1u << 20}));
  }
  void make_them_forget() {
    for (MemdProcess* server : {&first, &second}) {
      server->signal(SIGKILL);
      EXPECT_EQ(server->await_end(), 128 + SIGKILL);
    }
    ASSERT_TRUE(first.start() && second.start());
  }
  boost::json::object pool() const {
    return boost::json::parse(whole->expect({"pool", "status", "-o", "json"}, 0)).as_object();
  }
  std::int64_t read_in_place() const {
    std::int64_t reads = 0;
    const boost::json::object now = pool();
    for (const auto& server : now.at("servers").as_array())
      reads += server.at("reads_in_place_total").to_number<std::int64_t>();
    return reads;
  }
  std::string state() const {
    const boost::json::object vm = whole->show("load");
    const boost::json::value* found = vm.if_contains("state");
    return found == nullptr ? "" : std::string(found->as_string());
  }

  MemdProcess first{{{"name", "\"first\""}, {"memory.capacity", "\"256MiB\""}}};
  MemdProcess second{{{"name", "\"second\""}, {"memory.capacity", "\"256MiB\""}}};
  std::unique_ptr<Whole> whole;
};

INSTANTIATE_TEST_SUITE_P(Ways, MemoryServers,
                         testing::Values(Way{"PrivateUnix", "private", false, "lz4"},
                                         Way{"PrivateTcp", "private", true, "none"},
                                         Way{"SharedUnix", "shared", false, "zstd"},
                                         Way{"SharedTcp", "shared", true, "lz4"}),
                         [](const auto& way) { return way.param.name; });

TEST_P(MemoryServers, LoseNothingWhenOneOfTwoIsKilled) {
  REQUIRE_AGENT();
  begin();
  Target target(load({"--memory", GetParam().memory, "--discard"}));
  adopt(target);
  std::this_thread::sleep_for(churn_time(1s));
  EXPECT_EQ(read_in_place() != 0, !GetParam().tcp);
  first.signal(SIGKILL);
  EXPECT_TRUE(whole->await_moved("load", Bytes{8u << 20}, Bytes{8u << 20})) << "it goes on with the other one";
  const boost::json::object after = pool();
  EXPECT_GT(after.at("degraded_slices").to_number<int>(), 0) << boost::json::serialize(after);
  EXPECT_EQ(after.at("lost_pages_total").to_number<int>(), 0) << boost::json::serialize(after);
  EXPECT_TRUE(whole->release("load"));
  target.finish();
  EXPECT_EQ(whole->stop(), 0);
  EXPECT_TRUE(whole->held().empty()) << testing::PrintToString(whole->held());
}

// With a disk to stand in for the one that is gone, the other may go as well.
TEST_P(MemoryServers, AreStoodInForByADisk) {
  REQUIRE_AGENT();
  TestFolder disk;
  begin({{"pool.servers.spill", "\"" + (disk / "spill") + "\""},
         {"pool.servers.spill_capacity", "\"256MiB\""},
         {"pool.servers.lost_after", "\"1s\""}});
  Target target(load({"--memory", GetParam().memory, "--discard"}));
  adopt(target);
  const auto spilled = [&] {
    const boost::json::object now = pool();
    for (const boost::json::value& server : now.at("servers").as_array())
      if (server.at("name") == "spill") return server.at("slices").to_number<int>();
    return -1;
  };
  EXPECT_EQ(spilled(), 0) << "there are servers enough";
  first.signal(SIGKILL);
  EXPECT_EQ(first.await_end(), 128 + SIGKILL);
  const auto whole_again = [&] { return spilled() > 0 && pool().at("degraded_slices").to_number<int>() == 0; };
  EXPECT_TRUE(await(whole_again)) << boost::json::serialize(pool());
  EXPECT_TRUE(whole->await_moved("load", Bytes{8u << 20}, Bytes{8u << 20}));
  EXPECT_TRUE(await(whole_again)) << boost::json::serialize(pool());
  // Nothing goes out any more; what is out is read.
  second.signal(SIGKILL);
  EXPECT_EQ(second.await_end(), 128 + SIGKILL);
  EXPECT_TRUE(whole->await_moved("load", Bytes{}, Bytes{4u << 20}));
  EXPECT_EQ(pool().at("lost_pages_total").to_number<int>(), 0) << boost::json::serialize(pool());
  // Servers have all of it back.
  ASSERT_TRUE(first.start() && second.start());
  EXPECT_TRUE(await([&] { return spilled() == 0; })) << boost::json::serialize(pool());
  EXPECT_TRUE(whole->await_moved("load", Bytes{8u << 20}, Bytes{8u << 20}));
  EXPECT_EQ(pool().at("lost_pages_total").to_number<int>(), 0) << boost::json::serialize(pool());
  EXPECT_TRUE(whole->release("load"));
  target.finish();
  EXPECT_EQ(whole->stop(), 0);
  EXPECT_TRUE(whole->held().empty()) << testing::PrintToString(whole->held());
}

TEST_P(MemoryServers, AreWaitedForWhenNobodyAnswers) {
  REQUIRE_AGENT();
  // Out of memory that was handed over pages come from servers that stand still, too.
  for (auto& [server, name] : {std::pair{&first, "\"first\""}, {&second, "\"second\""}})
    server->write_settings({{"name", name}, {"memory.capacity", "\"256MiB\""}, {"memory.share", "false"}});
  begin();
  Target target(load({"--memory", GetParam().memory}));
  adopt(target);
  first.signal(SIGSTOP);
  second.signal(SIGSTOP);
  EXPECT_TRUE(await([&] { return state() == "degraded"; })) << state();
  EXPECT_NE(whole->expect({"explain", "load"}, 0).find("no memory server gives"), std::string::npos);
  EXPECT_TRUE(target.running());
  first.signal(SIGCONT);
  second.signal(SIGCONT);
  EXPECT_TRUE(whole->await_moved("load", Bytes{8u << 20}, Bytes{8u << 20}));
  EXPECT_TRUE(await([&] { return state() == "ok"; })) << state();
  EXPECT_TRUE(whole->release("load"));
  target.finish();
  EXPECT_EQ(whole->stop(), 0);
}

TEST_P(MemoryServers, AreNotBelievedAfterTheyForgot) {
  REQUIRE_AGENT();
  begin();
  Target target(load({"--memory", GetParam().memory}));
  adopt(target);
  make_them_forget();
  EXPECT_TRUE(await([&] { return state() == "integrity"; })) << state();
  EXPECT_EQ(state_of_process(target.pid()).state, 'T') << "it must not go on without its memory";
  EXPECT_EQ(target.output().find("mismatch"), std::string::npos) << target.output();
}

// An operator who would rather have the VM end says so at any time.
TEST_P(MemoryServers, EndAVmWhenTheyForgotIfThatIsWanted) {
  REQUIRE_AGENT();
  begin();
  Target target(load({"--memory", GetParam().memory}));
  adopt(target);
  whole->write_settings({{"safety.on_integrity_failure", "\"kill\""}});
  whole->reload();
  make_them_forget();
  EXPECT_EQ(target.wait(), 128 + SIGKILL);
  EXPECT_EQ(target.output().find("mismatch"), std::string::npos) << target.output();
  EXPECT_TRUE(await([&] { return !whole->has("load"); }));
  const std::string events = whole->expect({"vm", "events", "load"}, 0);
  EXPECT_NE(events.find("signal 9"), std::string::npos) << events;
}

// What was leased of a server goes back when its VM is released, or has ended.
TEST_P(MemoryServers, HaveAllOfTheirMemoryBackInTheEnd) {
  REQUIRE_AGENT();
  begin();
  for (const bool ends : {false, true}) {
    Target target(load({"--memory", GetParam().memory}));
    adopt(target);
    EXPECT_GT(first.metric("tidepool_memd_slices"), 0);
    EXPECT_GT(second.metric("tidepool_memd_slices"), 0);
    if (ends) {
      target.signal(SIGKILL);
      target.wait();
      EXPECT_TRUE(await([&] { return !whole->has("load"); }));
    } else {
      EXPECT_TRUE(whole->release("load"));
    }
    EXPECT_TRUE(await([&] { return first.metric("tidepool_memd_slices") == 0; }));
    EXPECT_TRUE(await([&] { return second.metric("tidepool_memd_slices") == 0; }));
    if (!ends) target.finish();
  }
}

TEST_P(MemoryServers, HaveTheirMemoryBackWhenTheAgentEnds) {
  REQUIRE_AGENT();
  begin();
  Target target(load({"--memory", GetParam().memory}));
  adopt(target);
  EXPECT_EQ(whole->stop(), 0);
  EXPECT_TRUE(await([&] { return first.metric("tidepool_memd_slices") == 0; }));
  EXPECT_TRUE(await([&] { return second.metric("tidepool_memd_slices") == 0; }));
  target.finish();
  // Nobody keeps them from ending.
  for (MemdProcess* server : {&first, &second}) {
    server->signal(SIGTERM);
    EXPECT_EQ(server->await_end(), 0);
  }
}

}  // namespace
}  // namespace tidepool::tests
