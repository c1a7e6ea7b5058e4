// A process whose control group allows it less memory than it was promised: its own faults make room, and it goes on.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/integration/agent/whole_rig.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;

// A memory group of the test's own below the mounted hierarchy; removed with it.
class MemoryGroup {
 public:
  MemoryGroup() {
    const std::string v1 = "/sys/fs/cgroup/memory";
    const std::string v2 = "/sys/fs/cgroup";
    const bool is_v1 = std::filesystem::exists(v1 + "/memory.limit_in_bytes");
    if (!is_v1 && read_file(v2 + "/cgroup.subtree_control").find("memory") == std::string::npos) {
      why_ = "no memory controller is mounted";
      return;
    }
    path_ = (is_v1 ? v1 : v2) + "/tidepool-test-" + std::to_string(::getpid());
    limit_ = is_v1 ? "/memory.limit_in_bytes" : "/memory.max";
    std::error_code error;
    if (!std::filesystem::create_directory(path_, error)) why_ = "a control group cannot be made: " + error.message();
  }
  ~MemoryGroup() {
    if (why_.empty()) await([&] { return ::rmdir(path_.c_str()) == 0; });
  }
  const std::string& why_not() const { return why_; }
  bool enter(pid_t pid) const { return write("/cgroup.procs", std::to_string(pid)); }
  bool limit(Bytes bytes) const { return write(limit_, std::to_string(bytes.value)); }

 private:
  bool write(const std::string& file, const std::string& text) const {
    std::ofstream out(path_ + file);
    out << text << std::flush;
    return out.good();
  }
  std::string path_;
  std::string limit_;
  std::string why_;
};

TEST(MemoryLimit, IsMetByTheProcessItself) {
  REQUIRE_AGENT();
  MemoryGroup group;
  if (!group.why_not().empty()) GTEST_SKIP() << group.why_not();
  // No limit of ours: only the group's. Nothing is cold enough to go by itself.
  Whole whole(merciless({{"defaults.min_cold_age", "\"10m\""}}));
  ASSERT_TRUE(whole.start());
  for (const std::string memory : {"private", "shared"}) {
    SCOPED_TRACE(memory);
    // It enters the group when it is full, because what it has keeps its charge where it was: what comes later counts.
    Target target(load({"--memory", memory, "--threads", "4", "--rate", "20000"}, Bytes{48ull << 20}));
    ASSERT_TRUE(target.ready());
    ASSERT_TRUE(whole.adopt(target.pid(), "limited", target.memory()));
    // Much of it goes, and comes back where there is not room for all of it.
    whole.limit("limited", Bytes{0});
    ASSERT_TRUE(whole.await_far("limited", Bytes{(24ull << 20) / slowness()}));
    ASSERT_TRUE(group.limit(Bytes{12ull << 20}));
    ASSERT_TRUE(group.enter(target.pid()));
    whole.expect({"vm", "set", "limited", "--limit", "none"}, 0);
    std::this_thread::sleep_for(churn_time(2s));
    // It still makes progress: pages come home, and others go for them.
    whole.await_moved("limited", Bytes{1u << 20}, Bytes{1u << 20});
    // Out of the group it fits again.
    ASSERT_TRUE(group.limit(Bytes{1ull << 30}));
    EXPECT_TRUE(whole.release("limited"));
    target.finish();
  }
  EXPECT_EQ(whole.stop(), 0);
}

}  // namespace
}  // namespace tidepool::tests
