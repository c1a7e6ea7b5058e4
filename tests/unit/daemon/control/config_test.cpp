#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "daemon/control/config_loader.h"
#include "daemon/control/config_schema.h"

namespace tidepool::daemon {
namespace {

using namespace literals;
using std::chrono::milliseconds;

ConfigCheck with(const std::string& body) {
  return parse_config("schema = 1\n" + body);
}

std::string problems(const ConfigCheck& check) {
  std::string all;
  for (const ConfigProblem& each : check.problems) all += each.text("t.toml") + "\n";
  return all;
}

void expect_refused(const std::string& body, std::initializer_list<const char*> words) {
  const ConfigCheck check = with(body);
  EXPECT_FALSE(check.ok()) << body;
  for (const char* word : words)
    EXPECT_NE(problems(check).find(word), std::string::npos) << word << " in: " << problems(check);
}

TEST(Config, FileWithOnlyTheSchemaGivesTheDefaults) {
  const ConfigCheck check = with("");
  ASSERT_TRUE(check.ok()) << problems(check);
  EXPECT_EQ(check.config, Config{});
  EXPECT_EQ(check.config.mode, Mode::kObserve);
}

TEST(Config, ReadsEveryKindOfValue) {
  const ConfigCheck check = with(R"(
mode = "active"
[safety]
host_reserve = "2GiB"
max_far = "12.5%"
require_evacuable = false
max_active_vms = 3
[adopt]
allow_exe = ["/usr/bin/redis-*", "/opt/x"]
[defaults]
limit = "60%"
min_cold_age = "90s"
[limits]
demote_bandwidth = "1GiB/s"
[pool.embedded]
store = "mapped"
path = "/dev/dax0.0"
[[rule]]
match = { domain = "web-*", exe = "/usr/bin/qemu*" }
mode = "active"
guarantee = "4GiB"
[[rule]]
match.cgroup = "/db/*"
stall_budget = "0.2%"
)");
  ASSERT_TRUE(check.ok()) << problems(check);
  const Config& config = check.config;
  EXPECT_EQ(config.mode, Mode::kActive);
  EXPECT_EQ(config.safety.host_reserve, Amount::of(2_GiB));
  EXPECT_EQ(config.safety.max_far, Amount::part(0.125));
  EXPECT_FALSE(config.safety.require_evacuable);
  EXPECT_EQ(config.safety.max_active_vms, 3u);
  EXPECT_EQ(config.adopt.allow_exe, (std::vector<std::string>{"/usr/bin/redis-*", "/opt/x"}));
  EXPECT_EQ(config.defaults.limit, Amount::part(0.6));
  EXPECT_EQ(config.defaults.min_cold_age, milliseconds{90'000});
  EXPECT_EQ(config.limits.demote_bandwidth, 1_GiB);
  EXPECT_EQ(config.pool.store, StoreKind::kMapped);
  ASSERT_EQ(config.rules.size(), 2u);
  EXPECT_EQ(config.rules[0].match.domain, "web-*");
  EXPECT_EQ(config.rules[0].guarantee, Amount::of(4_GiB));
  EXPECT_FALSE(config.rules[0].stall_budget);
  EXPECT_EQ(config.rules[1].match.cgroup, "/db/*");
  EXPECT_DOUBLE_EQ(*config.rules[1].stall_budget, 0.002);
}

TEST(Config, UnknownKeyIsNamedWithItsPlaceAndTheNearestKey) {
  const ConfigCheck check = with("[api]\nsokcet = \"/x\"\n");
  ASSERT_EQ(check.problems.size(), 1u);
  EXPECT_EQ(check.problems[0].text("t.toml"), "t.toml:3:1: unknown key 'api.sokcet'; did you mean 'api.socket'?");
  expect_refused("[saftey]\nmax_far = \"1%\"\n", {":2:", "saftey", "did you mean 'safety'"});
  expect_refused("max_far = \"1%\"\n", {"did you mean 'safety.max_far'"});
  expect_refused("[[rule]]\nmatch = { domian = \"x\" }\n", {"rule[0].match.domian", "match.domain"});
}

TEST(Config, AllProblemsAreReportedInTheFilesOrder) {
  const ConfigCheck check = with("moed = 1\n[api]\nworkers = 0\n[log]\nlevel = \"loud\"\n");
  ASSERT_EQ(check.problems.size(), 3u) << problems(check);
  EXPECT_EQ(check.problems[0].line, 2u);
  EXPECT_EQ(check.problems[1].line, 4u);
  EXPECT_EQ(check.problems[2].line, 6u);
}

TEST(Config, WrongTypesSayWhatIsExpectedAndWhatWasFound) {
  expect_refused("mode = \"aktive\"\n",
                 {"mode must be \"observe\" or \"dry-run\" or \"active\"", "not \"aktive\"", ":2:8"});
  expect_refused("[safety]\nmax_far = 25\n", {"size such as", "not 25"});
  expect_refused("[safety]\nrequire_evacuable = \"yes\"\n", {"true or false"});
  expect_refused("[adopt]\nallow_exe = \"/usr/bin/x\"\n", {"list"});
  expect_refused("[adopt]\nallow_exe = [1]\n", {"list"});
  expect_refused("[defaults]\nmin_cold_age = 120\n", {"duration such as"});
  expect_refused("[limits]\ndemote_bandwidth = \"256MiB\"\n", {"rate such as"});
  expect_refused("api = 3\n", {"api must be a table"});
  expect_refused("mode = { a = 1 }\n", {"mode must be"});
  expect_refused("mode = 1979-05-27\n", {"not a date"});
  expect_refused("rule = 3\n", {"[[rule]]"});
}

TEST(Config, RelativePathsAreRefused) {
  expect_refused("[api]\nsocket = \"agent.sock\"\n", {"api.socket", "absolute path"});
  expect_refused("[adopt]\nallow_exe = [\"qemu-*\"]\n", {"adopt.allow_exe", "absolute"});
  expect_refused("[pool.embedded]\nstore = \"mapped\"\npath = \"x\"\n", {"pool.embedded.path", "absolute"});
  expect_refused("[api]\nsocket = \"/" + std::string(120, 'x') + "\"\n", {"107 bytes"});
}

TEST(Config, MetricsEndpointMustHaveAPort) {
  for (const char* text : {"9842", "localhost:", ":9842", "a:0", "a:70000", "a:12x"})
    expect_refused(std::string("[api]\nmetrics = \"") + text + "\"\n", {"api.metrics", "port"});
  EXPECT_TRUE(with("[api]\nmetrics = \"\"\n").ok());
  EXPECT_TRUE(with("[api]\nmetrics = \"[::1]:9842\"\n").ok());
}

std::string server(const std::string& name, const std::string& address) {
  return "[[memory_server]]\nname = \"" + name + "\"\naddress = \"" + address + "\"\nkey_file = \"/k\"\n";
}

TEST(Config, MemoryServersAreReadInOrder) {
  const ConfigCheck check = with(server("a", "tcp:10.0.0.1:7411") + "weight = 200\nfailure_domain = \"x\"\n" +
                                 server("b", "unix:/run/b.sock") + "capacity = \"1GiB\"\n");
  ASSERT_TRUE(check.ok());
  ASSERT_EQ(check.config.memory_servers.size(), 2u);
  EXPECT_EQ(check.config.memory_servers[0], (MemoryServer{"a", "tcp:10.0.0.1:7411", "x", 200, Bytes{}, "/k"}));
  EXPECT_EQ(check.config.memory_servers[1], (MemoryServer{"b", "unix:/run/b.sock", "", 100, Bytes{1ull << 30}, "/k"}));
}

TEST(Config, MemoryServersThatMakeNoSenseAreRefused) {
  const std::string one = server("a", "unix:/a");
  expect_refused("[[memory_server]]\naddress = \"/run/b.sock\"\n", {"memory_server[0].address", "unix:/path"});
  expect_refused("[[memory_server]]\nname = \"a\"\n", {"memory_server[0]", "no address"});
  expect_refused("[[memory_server]]\nport = 1\n", {"memory_server[0].port", "unknown"});
  expect_refused("memory_server = 3\n", {"[[memory_server]]"});
  expect_refused(one, {"pool.servers.replicas is 2", "only 1"});
  expect_refused(one + one, {"memory_server[1]", "the same server"});
  expect_refused(one + server("b", "unix:/a"), {"memory_server[1]", "the same server"});
  expect_refused("[pool.servers]\nslice = \"1MiB\"\n", {"pool.servers.slice", "2MiB to 1GiB"});
  expect_refused("[pool.servers]\ncapacity = \"1MiB\"\n", {"pool.servers.capacity", "pool.servers.slice"});
  EXPECT_TRUE(with("[pool.servers]\nreplicas = 1\n" + one).ok());
}

TEST(Config, ContradictionsNameBothKeys) {
  expect_refused("[defaults]\nguarantee = \"60%\"\nlimit = \"50%\"\n",
                 {"defaults.guarantee (60%)", "defaults.limit (50%)", ":4:1"});
  expect_refused("[[rule]]\nmatch.domain = \"a\"\nlimit = \"20%\"\n", {"rule[0].limit", "defaults.guarantee"});
  expect_refused("[safety]\nhost_reserve = \"95%\"\n[pool.embedded]\ncapacity = \"10%\"\n",
                 {"pool.embedded.capacity", "safety.host_reserve"});
  expect_refused("[pool.embedded]\npath = \"/dev/dax0.0\"\n", {"pool.embedded.path", "pool.embedded.store"});
  expect_refused("[pool.embedded]\nstore = \"mapped\"\ncodec = \"zstd\"\n",
                 {"pool.embedded.codec", "pool.embedded.store"});
  expect_refused("[pool.embedded]\nstore = \"file\"\n", {"pool.embedded.path", "block device"});
  expect_refused("[pool.embedded]\nstore = \"file\"\npath = \"/dev/vdz\"\ncodec = \"zstd\"\n",
                 {"pool.embedded.codec", "\"file\""});
  EXPECT_TRUE(with("[pool.embedded]\nstore = \"file\"\npath = \"/dev/vdz\"\n").ok());
  expect_refused("[pool.servers]\nspill = \"/dev/vdz\"\n", {"pool.servers.spill", "[[memory_server]]"});
  expect_refused("[adopt]\nallow_ptrace = false\n", {"adopt.allow_ptrace", "adopt.handoff_socket"});
  expect_refused("[adopt]\nauto = true\n", {"adopt.auto", "[[rule]]"});
  expect_refused("[safety]\ncanary_time = \"1h\"\n", {"safety.canary_time", "safety.max_active_vms"});
  expect_refused("[defaults]\nmin_cold_age = \"500ms\"\n", {"defaults.min_cold_age", "policy.tick"});
  expect_refused("[keeper]\nsocket = \"/run/tidepool/agent.sock\"\n", {"keeper.socket", "api.socket"});
  expect_refused("[[rule]]\nmode = \"active\"\n", {"rule[0]", "match.domain"});
}

TEST(Config, SizesAndSharesAreNotComparedWithEachOther) {
  EXPECT_TRUE(with("[defaults]\nguarantee = \"4GiB\"\nlimit = \"10%\"\n").ok());
}

TEST(Config, BrokenTomlIsNamedWithItsPlace) {
  const ConfigCheck check = with("mode = \n");
  ASSERT_EQ(check.problems.size(), 1u);
  EXPECT_EQ(check.problems[0].line, 2u);
  EXPECT_FALSE(parse_config("mode = \"observe\"\n").ok()) << "schema is required";
  EXPECT_FALSE(parse_config("schema = 2\n").ok());
  expect_refused("mode = \"observe\"\nmode = \"active\"\n", {":3:"});
}

TEST(Config, UnreadableFilesAreProblems) {
  EXPECT_NE(problems(load_config("/nonexistent/t.toml")).find("No such file"), std::string::npos);
  EXPECT_FALSE(load_config("/").ok());
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("tidepool-config-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  EXPECT_NE(problems(load_config(folder / "fifo")).find("regular file"), std::string::npos);
  std::ofstream(folder / "huge") << std::string(2u << 20, '#');
  EXPECT_NE(problems(load_config(folder / "huge")).find("1 MiB"), std::string::npos);
  std::filesystem::remove_all(folder);
}

TEST(Config, DiffTellsLiveChangesFromThoseThatWaitForARestart) {
  const Config before = with("").config;
  const Config after =
      with("mode = \"active\"\n[pool.embedded]\ncodec = \"zstd\"\n[[rule]]\nmatch.domain = \"a\"\n").config;
  const std::vector<ConfigChange> changes = config_diff(before, after);
  ASSERT_EQ(changes.size(), 3u);
  const auto find = [&](const std::string& key) {
    const auto at = std::ranges::find(changes, key, &ConfigChange::key);
    return at == changes.end() ? ConfigChange{} : *at;
  };
  EXPECT_EQ(find("mode").before, "\"observe\"");
  EXPECT_EQ(find("mode").after, "\"active\"");
  EXPECT_FALSE(find("mode").restart);
  EXPECT_TRUE(find("pool.embedded.codec").restart);
  EXPECT_EQ(find("rule[0].match.domain").after, "\"a\"");
  EXPECT_TRUE(config_diff(after, after).empty());
  EXPECT_EQ(config_diff(after, before).size(), 3u);
}

TEST(Config, DamagedFilesNeverCrashTheLoader) {
  const unsigned seed = std::random_device{}();
  std::mt19937 random(seed);
  std::ifstream file(TIDEPOOL_SOURCE_DIR "/systemd/tidepool.toml");
  const std::string good{std::istreambuf_iterator<char>(file), {}};
  ASSERT_FALSE(good.empty());
  for (int round = 0; round < 2000; ++round) {
    std::string text = good;
    for (int edits = 0; edits < 4; ++edits) {
      const std::size_t at = random() % text.size();
      if (random() % 2) {
        text[at] = static_cast<char>(random());
      } else {
        text.erase(at, random() % 20);
      }
      if (text.empty()) break;
    }
    const ConfigCheck check = parse_config(text);
    EXPECT_LE(check.problems.size(), 100u) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tidepool::daemon
