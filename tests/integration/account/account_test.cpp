// What the agent says it saves is what the host gets back: the figures of the kernel fall by what the account claims,
// with everything that Tidepool takes for itself counted, and counted once.
//
// TIDEPOOL_ACCOUNT_MIB sets how much memory is filled; the more, the less the noise counts.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "kmod-interfaces/meminfo.h"
#include "tests/integration/account/host_witness.h"
#include "tests/support/agent_process.h"

namespace tidepool::tests {
namespace {

using namespace literals;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

constexpr double kTolerance = 0.02;         // of what was moved
constexpr double kZerosOfItsOwn = 1 << 20;  // bytes that a program only ever read

Bytes memory_size() {
  const char* mib = std::getenv("TIDEPOOL_ACCOUNT_MIB");
  return Bytes{(mib != nullptr ? std::strtoull(mib, nullptr, 10) : 2048) << 20};
}

struct Case {
  const char* name;
  const char* store;
  const char* memory;
  const char* huge;
  unsigned resident_percent;  // what the VM is squeezed to; three in ten pages do not compress
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

// A program with content of every kind, which then does nothing.
class FilledProcess {
 public:
  FilledProcess(const TestFolder& folder, const Case& what) {
    out_ = folder / "load.out";
    pid_ = start_program(
        {"tidepool-load", "--memory", what.memory, "--huge", what.huge, "--size", std::to_string(memory_size().value),
         "--threads", "2", "--duration", "1", "--hold-after-fill", "100000"},
        {}, out_, folder / "load.err");
  }
  ~FilledProcess() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  bool ready() const {
    return await([&] { return read_file(out_).find("ready ") != std::string::npos; });
  }
  pid_t pid() const { return pid_; }

 private:
  std::string out_;
  pid_t pid_ = 0;
};

struct Seen {
  Bytes group;      // the control group of all of them
  Bytes processes;  // process by process
  kernel::MemInfo host;
  Bytes at_processors;  // free, and not in host.available
  Bytes zeros;          // what the target has of the kernel's page of zeros
};

double mib(double bytes) {
  return bytes / (1 << 20);
}
double difference(Bytes before, Bytes after) {
  return static_cast<double>(before.value) - static_cast<double>(after.value);
}

class Account : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_agent(); !why.empty()) GTEST_SKIP() << why;
    if (kSanitized) GTEST_SKIP() << "a sanitizer's own memory would be most of what is measured";
    const auto memory = kernel::read_meminfo({});
    ASSERT_TRUE(memory);
    if (memory->available.value < memory_size().value * 3)
      GTEST_SKIP() << "needs three times " << (memory_size().value >> 20) << " MiB of available memory";
    group_.emplace();
    if (!group_->missing().empty()) std::printf("without control group: %s\n", group_->missing().c_str());
  }

  Seen look(std::span<const pid_t> pids) const {
    const auto host = kernel::read_meminfo({});
    return {group_->missing().empty() ? group_->usage() : Bytes{}, memory_of_processes(pids),
            host ? *host : kernel::MemInfo{}, free_in_lists_of_processors(), in_page_of_zeros(pids.front())};
  }

  // The agent's claim against what is seen; `moved` is what two percent are taken of. Pages of zeros that the kernel
  // split off huge pages are saved as well, and not claimed: some are mapped, some (`given_up`) were put out since.
  void hold(const char* when, const Seen& before, const Seen& now, const boost::json::object& host, Bytes moved,
            Bytes given_up) {
    const auto number = [&](const char* pointer) {
      return static_cast<double>(boost::json::value(host).at_pointer(pointer).as_int64());
    };
    const double claimed = number("/net_saved_bytes");
    const double zeros = difference(now.zeros + given_up, before.zeros);
    const double by_processes = difference(before.processes, now.processes);
    const double by_group = difference(before.group, now.group);
    std::printf(
        "%s: far %.1f, pool %.1f, metadata %.1f, frames %.1f, agent %.1f, keeper %.1f; net saved %.1f MiB\n"
        "  seen: processes %.1f, control group %.1f; host: MemAvailable %+.1f, free at the processors %+.1f, "
        "Shmem %+.1f MiB (others run as well); zeros split off %.1f\n",
        when, mib(number("/far_bytes")), mib(number("/overhead/pool_bytes")), mib(number("/overhead/metadata_bytes")),
        mib(number("/overhead/frames_bytes")), mib(number("/overhead/agent_bytes")),
        mib(number("/overhead/keeper_bytes")), mib(claimed), mib(by_processes), mib(by_group),
        mib(difference(now.host.available, before.host.available)),
        mib(difference(now.at_processors, before.at_processors)), mib(difference(now.host.shmem, before.host.shmem)),
        mib(zeros));
    const double allowed = kTolerance * static_cast<double>(moved.value);
    // So little that it hides nothing, and nothing where no huge page can be split.
    EXPECT_LE(std::abs(zeros), std::string_view(GetParam().huge) == "on" ? allowed : kZerosOfItsOwn) << when;
    EXPECT_NEAR(by_processes, claimed + zeros, allowed) << when;
    if (group_->missing().empty()) {
      EXPECT_NEAR(by_group, claimed + zeros, allowed) << when;
    }
  }

  std::optional<MemoryGroup> group_;
};

boost::json::object parsed(const std::string& text) {
  return boost::json::parse(text).as_object();
}

TEST_P(Account, ClaimsWhatTheHostGetsBack) {
  const Case what = GetParam();
  const Bytes size = memory_size();
  AgentProcess agent({{"pool.embedded.store", "\"" + std::string(what.store) + "\""},
                      {"pool.embedded.capacity", "\"" + std::to_string(size.value >> 20) + "MiB\""},
                      {"safety.max_far", "\"90%\""},
                      {"defaults.guarantee", "\"0%\""},
                      {"defaults.stall_budget", "\"100%\""},
                      {"limits.demote_bandwidth", "\"8GiB/s\""}});
  FilledProcess target(agent.folder(), what);
  ASSERT_TRUE(target.ready());
  const std::vector<pid_t> alone{target.pid()};
  const Seen before = look(alone);

  ASSERT_TRUE(agent.start());
  agent.expect({"vm", "adopt", "--pid", std::to_string(target.pid()), "--name", "target", "--mode", "active"}, 0);
  const auto vm = [&] { return parsed(agent.expect({"vm", "show", "target", "-o", "json"}, 0)); };
  const auto memory = [&](const char* state) {
    return Bytes{static_cast<std::uint64_t>(vm().at("memory").at(state).as_int64())};
  };
  const std::vector<pid_t> all{target.pid(), agent.pid(), agent.keeper()};
  const Bytes limit{size.value / 100 * what.resident_percent / kPageSize * kPageSize};
  agent.expect({"vm", "set", "target", "--limit", std::to_string(limit.value)}, 0);
  EXPECT_TRUE(await([&] { return memory("in_dram_bytes") <= limit + 16_MiB; }))
      << agent.expect({"explain", "target"}, 0);
  agent.expect({"vm", "hold", "target", "--reason", "being measured"}, 0);
  EXPECT_TRUE(await([&] { return memory("moving_out_bytes") == Bytes{}; }));
  const auto squeezed = parsed(agent.expect({"host", "show", "-o", "json"}, 0));
  const Bytes far{static_cast<std::uint64_t>(squeezed.at("far_bytes").as_int64())};
  EXPECT_GT(far.value, size.value / 100 * (95 - what.resident_percent));
  const Bytes given_up = memory("released_bytes");
  hold("squeezed", before, look(all), squeezed, far, given_up);

  agent.expect({"vm", "release", "target"}, 0);
  // What the pool keeps for the next page goes back to the host within moments, if none comes.
  const auto host = [&] { return parsed(agent.expect({"host", "show", "-o", "json"}, 0)); };
  EXPECT_TRUE(await(
      [&] { return host().at("overhead").at("pool_bytes").as_int64() < static_cast<std::int64_t>((16_MiB).value); }));
  hold("released", before, look(all), host(), far, given_up);
}

INSTANTIATE_TEST_SUITE_P(Memory, Account,
                         testing::Values(Case{"CompressedPrivate", "compressed", "private", "off", 45},
                                         Case{"CompressedPrivateHuge", "compressed", "private", "on", 45},
                                         Case{"CompressedShared", "compressed", "shared", "off", 45},
                                         Case{"MappedPrivateHuge", "mapped", "private", "on", 20},
                                         Case{"MappedShared", "mapped", "shared", "off", 20}),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace tidepool::tests
