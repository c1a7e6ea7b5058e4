// Heatmap, working set and dry run of a real process under the real agent, and what is kept over a restart of it.
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/integration/operator/adoption_case.h"
#include "tests/support/child_process.h"
#include "tests/support/planned_memory.h"

namespace tidepool::tests {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;

template <class Condition>
bool eventually(Condition&& condition) {
  const auto deadline = std::chrono::steady_clock::now() + 60s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(50ms);
  }
  return true;
}

// Of its memory the first half is in use, the second was written once.
class MemoryView : public AdoptionCase {
 protected:
  void SetUp() override {
    AdoptionCase::SetUp();
    if (IsSkipped()) return;
    start();
    child_ = std::make_unique<ChildProcess>([this] {
      // Shared: there, fault sampling sees reads as well, so its silence says something.
      char* memory = memory_.make(MAP_SHARED | MAP_ANONYMOUS);
      if (memory == nullptr) return std::string("mmap");
      for (std::size_t at = 0; at < 16 * kMiB; at += kPageSize) memory[at] = 'x';
      std::thread([memory] {
        for (std::size_t at = 0;; at = (at + kPageSize) % (8 * kMiB)) {
          static_cast<volatile char*>(memory)[at] = 'y';
          if (at == 0) std::this_thread::sleep_for(20ms);
        }
      }).detach();
      return std::string();
    });
    ASSERT_READY(*child_);
    name_ = adopt_whole(child_->pid(), memory_.range(), {"--mode", "dry-run", "--guarantee", "0"});
  }

  PlannedMemory memory_{16 * kMiB};
  std::unique_ptr<ChildProcess> child_;
  std::string name_;
};

TEST_F(MemoryView, ShowsWhatIsHot) {
  const auto heat = [&] { return ask({"vm", "heatmap", name_}); };
  // Until the engine knows hot from cold.
  ASSERT_TRUE(eventually([&] {
    const json::value map = heat();
    if (map.at("columns").as_array().empty()) return false;
    const json::array& uses = map.at("columns").as_array().back().at("uses").as_array();
    return uses.size() == 8 && uses[1].is_double() && uses[6].is_double() &&
           uses[1].get_double() > 4 * uses[6].get_double();
  })) << json::serialize(heat());
  const json::value map = heat();
  EXPECT_EQ(map.at("vm").as_string(), name_);
  std::uint64_t next = 0;
  for (const json::value& stretch : map.at("stretches").as_array()) {
    EXPECT_EQ(stretch.at("offset_bytes").to_number<std::uint64_t>(), next);
    EXPECT_EQ(stretch.at("address").to_number<std::uint64_t>(), memory_.range().start + next);
    next += stretch.at("size_bytes").to_number<std::uint64_t>();
  }
  EXPECT_EQ(next, 16 * kMiB);
  const std::string file = (agent().folder() / "map.png");
  agent().expect({"vm", "heatmap", name_, "--file", file}, 0);
  EXPECT_GT(std::filesystem::file_size(file), 1000u);

  const json::value set = ask({"vm", "wss", name_});
  EXPECT_EQ(set.at("resident_bytes").to_number<std::uint64_t>(), 16 * kMiB);
  EXPECT_EQ(set.at("curve").as_array().size(), 33u);
  std::uint64_t before = 0;
  for (const json::value& offer : set.at("offers").as_array()) {
    const auto gives = offer.at("gives_bytes").to_number<std::uint64_t>();
    EXPECT_GE(gives, before);
    EXPECT_LE(gives, 16 * kMiB);
    before = gives;
  }
  EXPECT_FALSE(set.at("samples").as_array().empty());
}

TEST_F(MemoryView, DryRunDecidesAndMovesNothing) {
  EXPECT_TRUE(eventually([&] {
    const json::value decisions = ask({"decisions", "--vm", name_});
    for (const json::value& each : decisions.at("items").as_array())
      if (each.at("action").as_string() == "demote") return true;
    return false;
  }));
  const json::value decisions = ask({"decisions", "--vm", name_});
  for (const json::value& each : decisions.at("items").as_array()) EXPECT_FALSE(each.at("carried_out").as_bool());
  const json::value vm = ask({"vm", "show", name_});
  EXPECT_EQ(vm.at("settings").at("mode").as_string(), "dry-run");
  EXPECT_EQ(vm.at("memory").at("far_bytes").to_number<std::uint64_t>(), 0u);
  EXPECT_EQ(vm.at("demoted_bytes_total").to_number<std::uint64_t>(), 0u);
  const std::string why = agent().expect({"explain", name_}, 0);
  EXPECT_NE(why.find("dry-run"), std::string::npos) << why;
}

TEST_F(MemoryView, NeedIsKeptOverARestart) {
  const std::string file = agent().folder() / "need";
  EXPECT_EQ(agent().stop(), 0);
  std::ifstream in(file);
  std::string first;
  std::string second;
  ASSERT_TRUE(std::getline(in, first) && std::getline(in, second)) << agent().log();
  EXPECT_EQ(first, "tidepool-need 1");
  EXPECT_TRUE(second.ends_with("\t" + name_)) << second;
  ASSERT_TRUE(agent().start());
  agent().expect({"health"}, 0);
  EXPECT_EQ(agent().stop(), 0);
  std::ifstream again(file);
  std::string kept;
  ASSERT_TRUE(std::getline(again, first) && std::getline(again, kept));
  EXPECT_EQ(kept, second) << "of a VM that is not there now it is kept as well";
}

// What counts of it is what another VM is told.
TEST_F(MemoryView, APercentileOutlivesTheAgentAndTheVmItIsOf) {
  const auto fit = [&] { return ask({"host", "fits", "--guaranteed", "1MiB", "--oversubscribed", "0"}); };
  const auto figure = [&](const char* key) { return fit().at(key).to_number<std::uint64_t>(); };
  const auto adopt_again = [&] {
    adopt_whole(child_->pid(), memory_.range(), {"--name", name_, "--mode", "dry-run", "--guarantee", "0"});
  };
  // Nothing is known of it by then: it may want all that it was promised.
  EXPECT_TRUE(eventually([&] { return figure("oversubscribed_bytes") == 16 * kMiB; })) << json::serialize(fit());
  EXPECT_EQ(figure("guaranteed_bytes"), kMiB);
  EXPECT_EQ(release(name_).code, 0);
  EXPECT_EQ(agent().stop(), 0);
  // A fortnight in which it needed a quarter, at every time of the day.
  std::string need = "v1 6 64;";
  for (int window = 0; window < 6; ++window) need += "15=1000;";
  std::ofstream(agent().folder() / "need", std::ios::trunc)
      << "tidepool-need 1\n1700000000\t" << need << "\t" << name_ << "\n";
  for (int life = 0; life < 2; ++life) {
    ASSERT_TRUE(agent().start());
    adopt_again();
    EXPECT_TRUE(eventually([&] { return figure("guaranteed_bytes") == 5 * kMiB; })) << life << json::serialize(fit());
    EXPECT_LE(figure("oversubscribed_bytes"), 12 * kMiB);
    EXPECT_EQ(release(name_).code, 0);
    EXPECT_EQ(agent().stop(), 0);
  }
  // Nothing of it is lost.
  std::ifstream in(agent().folder() / "need");
  std::string line;
  ASSERT_TRUE(std::getline(in, line) && std::getline(in, line));
  std::uint64_t records = 0;
  for (std::size_t at = line.find('='); at != std::string::npos; at = line.find('=', at + 1))
    records += std::stoull(line.substr(at + 1));
  EXPECT_GE(records, 6000u) << line;
}

TEST_F(MemoryView, AnArchiveOfNonsenseStopsNobody) {
  EXPECT_EQ(agent().stop(), 0);
  const std::string file = agent().folder() / "need";
  std::filesystem::remove(file);
  std::filesystem::create_directory(file);
  ASSERT_TRUE(agent().start());
  EXPECT_NE(agent().log().find("is not kept"), std::string::npos);
}

}  // namespace
}  // namespace tidepool::tests
