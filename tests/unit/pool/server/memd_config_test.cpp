// Goal: a memory server's configuration means what its page says, and what is wrong in it is named with its place.
#include "pool/server/memd_config.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "pool/protocol/key_file.h"
#include "pool/server/memd_metrics.h"

namespace tidepool::pool::server {
namespace {

std::string problems_of(const std::string& text) {
  std::string all;
  for (const auto& each : parse_memd_config(text).problems) all += each.text("m.toml") + "\n";
  return all;
}

TEST(MemdConfig, ReadsAWholeFile) {
  const MemdConfigCheck check = parse_memd_config(
      "schema = 1\nname = \"m1\"\nfailure_domain = \"rack-7\"\n"
      "listen = [\"unix:/run/a.sock\", \"tcp:127.0.0.1:7411\", \"tcp:[::1]:7411\"]\n"
      "[memory]\nkind = \"dax\"\npath = \"/dev/dax0.0\"\n[limits]\ncredit_pages = 256\nstall_time = \"1m\"\n");
  ASSERT_TRUE(check.ok()) << check.problems.front().message;
  EXPECT_EQ(check.config.failure_domain, "rack-7");
  EXPECT_EQ(check.config.memory.kind, MediumKind::kDax);
  EXPECT_EQ(check.config.limits.credit_pages, 256u);
  EXPECT_EQ(check.config.limits.stall_time, std::chrono::minutes(1));
  ASSERT_EQ(check.config.listen.size(), 3u);
  EXPECT_FALSE(parse_listen(check.config.listen[0]).tcp);
  EXPECT_EQ(parse_listen(check.config.listen[0]).where, "/run/a.sock");
  EXPECT_EQ(parse_listen(check.config.listen[2]).where, "[::1]:7411");
}

TEST(MemdConfig, NamesWhatIsWrongWithItsLine) {
  const std::string good = "schema = 1\nname = \"m\"\n";
  EXPECT_EQ(problems_of(good), "");
  const std::array<std::pair<std::string, std::string>, 19> kWrong{{
      {"schema = 1\n", "name is missing"},
      {"name = \"m\"\n", "schema is missing"},
      {good + "lissten = []\n", "m.toml:3:1: unknown key 'lissten'; did you mean 'listen'?"},
      {good + "listen = []\n", "m.toml:3:10: listen must be a list"},
      {good + "listen = [\"udp:1\"]\n", "listen must be a list"},
      {good + "listen = [\"tcp:example.org:7411\"]\n", "listen must be a list"},
      {good + "listen = [\"tcp:127.0.0.1:0\"]\n", "listen must be a list"},
      {good + "listen = [\"unix:relative\"]\n", "listen must be a list"},
      {good + "listen = [\"unix:/a\", \"unix:/a\"]\n", "unix:/a twice"},
      {good + "[memory]\npath = \"/x\"\n", "memory.path has no meaning"},
      {good + "[memory]\nkind = \"file\"\n", "m.toml:4:1: memory.path is missing"},
      {good + "[memory]\ncapacity = \"100KiB\"\n", "at least 512KiB"},
      {good + "[limits]\npending = 300\n", "limits.pending is more"},
      {good + "[limits]\ncredit_pages = 63\n", "an integer from 64 to 4096"},
      {good + "[controller]\nendpoints = [\"ftp://x:1\"]\n", "endpoints must be a list"},
      {good + "[controller]\naddress = \"tcp:a:7411\"\n", "controller.endpoints is missing"},
      {good + "[controller]\nendpoints = [\"https://c:9843\"]\nkey = \"/k\"\n", "needs controller.certificate"},
      {good + "[controller]\nendpoints = [\"unix:/c\"]\nkey = \"/k\"\n", "are for https endpoints"},
      {good + "listen = [\"tcp:0.0.0.0:7411\"]\n[controller]\nendpoints = [\"unix:/c\"]\n",
       "controller.address is missing"},
  }};
  for (const auto& [text, expected] : kWrong)
    EXPECT_NE(problems_of(text).find(expected), std::string::npos) << text << "said: " << problems_of(text);
  EXPECT_FALSE(load_memd_config("/nonexistent").ok());
}

TEST(MemdConfig, KnowsWhatWaitsForARestart) {
  MemdConfig before;
  MemdConfig after;
  after.memory.capacity = Bytes{1 << 20};
  after.slices.most = 7;
  EXPECT_EQ(keys_that_wait(before, after), std::vector<std::string>{"memory.capacity"});
}

class KeyFile : public ::testing::Test {
 protected:
  KeyFile() {
    std::string name = "/tmp/tidepool-key-XXXXXX";
    folder_ = ::mkdtemp(name.data());
  }
  ~KeyFile() override { std::filesystem::remove_all(folder_); }
  std::string file(const std::string& content, unsigned mode = 0600) const {
    std::ofstream(folder_ + "/key", std::ios::binary) << content;
    ::chmod((folder_ + "/key").c_str(), mode);
    return folder_ + "/key";
  }
  std::string why(const std::string& path) const {
    const auto key = protocol::read_key_file(path);
    return key ? "" : key.error().message();
  }
  std::string folder_;
};

TEST_F(KeyFile, IsReadAsBytesOrDigits) {
  protocol::ServerKey expected{};
  expected.fill(0xab);
  EXPECT_EQ(protocol::read_key_file(file(std::string(32, '\xab'))).value(), expected);
  std::string digits;
  for (int i = 0; i < 32; ++i) digits += "aB";
  EXPECT_EQ(protocol::read_key_file(file(digits)).value(), expected);
  EXPECT_EQ(protocol::read_key_file(file(digits + "\n")).value(), expected);
}

TEST_F(KeyFile, IsRefusedWhenItIsNoSecretOrNoKey) {
  for (const unsigned mode : {0640u, 0604u, 0660u, 0620u, 0602u, 0644u})
    EXPECT_NE(why(file(std::string(32, 'k'), mode)).find("chmod 600"), std::string::npos) << mode;
  for (const std::size_t bytes : {0u, 31u, 33u, 63u, 65u, 66u, 4096u})
    EXPECT_NE(why(file(std::string(bytes, 'k'))).find("32 bytes are wanted"), std::string::npos) << bytes;
  EXPECT_NE(why(file(std::string(64, 'g'))).find("hexadecimal"), std::string::npos);
  EXPECT_NE(why(folder_).find("regular file"), std::string::npos);
  EXPECT_NE(why(folder_ + "/none").find("/dev/urandom"), std::string::npos) << "how to make one";
}

struct Row {
  std::array<std::string, 5> cell;
};

std::string trim(std::string text) {
  const std::size_t first = text.find_first_not_of(" `");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" `") - first + 1);
}

std::map<std::string, Row> documented() {
  std::ifstream file(TIDEPOOL_SOURCE_DIR "/docs/memory-servers.md");
  std::map<std::string, Row> rows;
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("| `")) continue;
    std::istringstream cells(line.substr(1));
    Row row;
    for (std::string& each : row.cell) {
      std::getline(cells, each, '|');
      each = trim(each);
    }
    EXPECT_TRUE(rows.emplace(row.cell[0], row).second) << row.cell[0] << " is described twice";
  }
  return rows;
}

TEST(MemdDocument, DescribesEveryKeyAndEveryMetricAndNoOther) {
  std::map<std::string, Row> rows = documented();
  for (const MemdField& each : memd_config_fields()) {
    const auto row = rows.find(each.key);
    ASSERT_NE(row, rows.end()) << each.key << " is not described";
    EXPECT_EQ(row->second.cell[1], each.type) << each.key;
    EXPECT_EQ(row->second.cell[2], each.text(MemdConfig{})) << each.key;
    EXPECT_EQ(row->second.cell[3], each.restart ? "restart" : "live") << each.key;
    rows.erase(row);
  }
  for (const MemdMetric& each : memd_metric_catalogue()) {
    const auto row = rows.find(std::string(each.name));
    ASSERT_NE(row, rows.end()) << each.name << " is exported and not described";
    EXPECT_EQ(row->second.cell[1], each.counter ? "counter" : "gauge") << each.name;
    EXPECT_EQ(row->second.cell[2], each.labels) << each.name;
    EXPECT_EQ(row->second.cell[3], each.help) << each.name;
    rows.erase(row);
  }
  for (const auto& [name, row] : rows) ADD_FAILURE() << name << " is described and does not exist";
}

TEST(MemdDocument, ExampleFileDescribesTheDefaults) {
  MemdConfigCheck check = load_memd_config(TIDEPOOL_SOURCE_DIR "/systemd/memd.toml");
  for (const auto& each : check.problems) ADD_FAILURE() << each.text("memd.toml");
  check.config.name = {};
  for (const MemdField& each : memd_config_fields())
    EXPECT_EQ(each.text(check.config), each.text(MemdConfig{})) << each.key;
}

}  // namespace
}  // namespace tidepool::pool::server
