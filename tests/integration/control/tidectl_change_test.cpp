// What tidectl has the agent do, and how it tells what came of it.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <filesystem>

#include "tests/integration/control/tidectl_case.h"

namespace tidepool::daemon::testing {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;

TEST_F(Tidectl, ChangingCommandsDoWhatTheySay) {
  expect({"vm", "set", "web-3", "--guarantee", "1GiB", "--mode", "observe"}, 0,
         {"guarantee", "2GiB", "1GiB", "observe"});
  expect({"vm", "set", "web-3", "--guarantee", "1GiB"}, 0, {"nothing to change"});
  expect({"vm", "set", "web-3", "--guarantee", "3GiB", "--plan"}, 0, {"1GiB", "3GiB"});
  EXPECT_EQ((*agent_.vm_show("web-3")).policy.guarantee, Bytes{1ull << 30});
  expect({"vm", "set", "web-3", "--limit", "none", "--stall-budget", "2%", "--min-cold-age", "90s"}, 0, {});
  EXPECT_TRUE(agent_.last_settings().no_limit);
  expect({"vm", "hold", "web-3", "--reason", "live migration"}, 0, {"held"});
  EXPECT_EQ((*agent_.vm_show("web-3")).hold_reason, "live migration");
  expect({"vm", "unhold", "web-3"}, 0, {"no longer held"});
  expect({"host", "freeze"}, 0, {"frozen"});
  EXPECT_TRUE(agent_.frozen());
  expect({"host", "thaw", "-q"}, 0, {});
  EXPECT_FALSE(agent_.frozen());
  expect({"pool", "resize", "--size", "8GiB", "--yes"}, 0, {"8GiB"});
  expect({"host", "evacuate", "--yes"}, 0, {"evacuate", "succeeded"});
  expect({"vm", "release", "web-3"}, 0, {"release", "web-3", "succeeded"});
  expect({"vm", "release", "web-3", "--no-wait"}, 0, {"running", "op-"});
  const std::string id(json::parse(run({"vm", "release", "db 1", "--no-wait", "-o", "json"}).out).at("id").as_string());
  expect({"operation", id}, 0, {"release", "db 1", id.c_str()});
  expect({"operation", id, "--wait"}, 0, {"release", "succeeded"});
  expect({"operation", "op-999"}, 1, {"op-999"});
}

TEST_F(Tidectl, RecordingPassesEverythingOn) {
  expect({"vm", "record", "web-3", "--stop"}, 1, {"not recorded"});
  expect({"vm", "record", "web-3", "--file", "/tmp/a b.trace"}, 0, {"record", "web-3", "succeeded"});
  EXPECT_EQ(agent_.last_recording().file, "/tmp/a b.trace");
  EXPECT_EQ(agent_.last_recording().duration, 60s);
  EXPECT_EQ(agent_.last_recording().max_size, Bytes{1ull << 30});
  expect({"vm", "record", "web-3", "--file", "here.trace", "--duration", "2h", "--max-size", "5MiB", "--no-wait"}, 0,
         {"running", "op-"});
  EXPECT_EQ(agent_.last_recording().file, std::filesystem::current_path().string() + "/here.trace");
  EXPECT_EQ(agent_.last_recording().duration, 2h);
  EXPECT_EQ(agent_.last_recording().max_size, Bytes{5ull << 20});
  expect({"vm", "record", "web-3", "--stop"}, 0, {"ends now"});
  expect({"vm", "record", "web-3", "--file", "/exists"}, 1, {"File exists", "name another one"});
  expect({"vm", "record", "nobody", "--file", "/x"}, 1, {"nobody"});
  expect({"vm", "record", "web-3", "--file", "/x", "--duration", "25h"}, 2, {"duration"});
  expect({"vm", "record", "web-3", "--file", "/x", "--max-size", "1KiB"}, 2, {"max_size", "1MiB"});
  for (const Words& wrong : std::vector<Words>{{},
                                               {"--file"},
                                               {"--file", ""},
                                               {"--file", "/x", "--stop"},
                                               {"--file", "/x", "--duration", "soon"},
                                               {"--file", "/x", "--duration", "60"},
                                               {"--file", "/x", "--duration", "-1s"},
                                               {"--file", "/x", "--max-size", "much"},
                                               {"--file", "/x", "more"}}) {
    Words words{"vm", "record", "web-3"};
    words.insert(words.end(), wrong.begin(), wrong.end());
    expect(words, 2, {"--help"});
  }
}

TEST_F(Tidectl, AdoptionPassesEverythingOn) {
  expect({"vm", "adopt", "--pid", "7", "--name", "cache", "--mapping", "7f0000000000-7f0000100000", "--mode", "active",
          "--guarantee", "25%"},
         0, {"adopt", "cache", "succeeded"});
  const AdoptRequest request = agent_.last_adoption();
  EXPECT_EQ(request.pid, 7);
  EXPECT_EQ(request.name, "cache");
  EXPECT_EQ(request.mapping.range, (AddressRange{0x7f0000000000, 0x7f0000100000}));
  EXPECT_EQ(request.settings.guarantee, Amount::part(0.25));
  EXPECT_EQ(request.mechanism, Mechanism::kPager);
  expect({"workload", "adopt", "--pid", "7", "--name", "cache"}, 0, {"adopt", "cache"});
  EXPECT_EQ(agent_.last_adoption().mechanism, Mechanism::kKernel);
  expect({"workload", "adopt", "--pid", "7", "--mechanism", "pager"}, 0, {});
  EXPECT_EQ(agent_.last_adoption().mechanism, Mechanism::kPager);
  expect({"vm", "adopt", "--cgroup", "/a/b", "--mechanism", "kernel"}, 0, {});
  EXPECT_EQ(agent_.last_adoption().mechanism, Mechanism::kKernel);
  EXPECT_EQ(agent_.last_adoption().cgroup, "/a/b");
  expect({"vm", "adopt", "--domain", "a-b", "--mapping", ">=64MiB"}, 0, {});
  EXPECT_EQ(agent_.last_adoption().mapping.at_least, Bytes{64u << 20});
  expect({"vm", "adopt", "--domain", "a-b", "--mapping", "/dev/shm/x-*"}, 0, {});
  EXPECT_EQ(agent_.last_adoption().mapping.name, "/dev/shm/x-*");
  expect({"vm", "adopt", "--pid", "7", "--mapping", "1000-1001"}, 2, {"page aligned"});
}

TEST_F(Tidectl, RefusalsExitWith3AndSayWhy) {
  expect({"vm", "adopt", "--pid", "13"}, 3, {"refused: VFIO group 12 pins this memory", "detach the device", "vfio"});
  expect({"vm", "adopt", "--pid", "13", "--check"}, 3, {"REFUSED", "vfio"});
  expect({"vm", "adopt", "--pid", "13", "--plan"}, 3, {"REFUSED"});
  expect({"host", "fits", "--guaranteed", "400GiB"}, 3, {"no: there is no room"});
  expect({"vm", "set", "web-3", "--guarantee", "9GiB"}, 3, {"refused", "Try: --guarantee 8GiB"});
  expect({"vm", "set", "web-3", "--guarantee", "9GiB", "--plan"}, 3,
         {"REFUSED guarantee 9GiB of 8GiB. Try: --guarantee 8GiB"});
  expect({"pool", "resize", "--size", "1MiB", "--yes"}, 3,
         {"REFUSED need 0.9 GiB home, spare 0.4 GiB. Try: --size 1GiB"});
}

TEST_F(Tidectl, ErrorsAreJsonTooWhenAskedFor) {
  const Outcome outcome = run({"vm", "adopt", "--pid", "13", "-o", "json"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_EQ(json::parse(outcome.out).at("error").at("findings").at(0).at("code").as_string(), "vfio");
}

TEST_F(Tidectl, FailuresExitWith1) {
  expect({"vm", "show", "nobody"}, 1, {"nobody", "vm list"});
  expect({"vm", "adopt", "--pid", "404"}, 1, {"No such process"});
  expect({"vm", "adopt", "--pid", "7", "--name", "web-3"}, 1, {"choose another --name"});
  agent_.set_healthy(false);
  expect({"health"}, 1, {"SICK", "keeper", "does not answer"});
  agent_.end_operations_as(OperationState::kFailed);
  expect({"vm", "release", "web-3"}, 1, {"failed", "free memory"});
}

TEST_F(Tidectl, PartialEndExitsWith5) {
  agent_.end_operations_as(OperationState::kPartial);
  expect({"host", "evacuate", "--yes"}, 5, {"partial"});
}

}  // namespace
}  // namespace tidepool::daemon::testing
