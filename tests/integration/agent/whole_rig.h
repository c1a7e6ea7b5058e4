// The whole of Tidepool against real processes: agent, keeper, adoption helper and tidectl, and targets that know what
// every byte of their memory should be.
//
// Sizes and times fit a loaded machine with two cores. TIDEPOOL_STRESS_SECONDS=60 lets every test that churns do so for
// that long, and adopt and release fifty times.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/units.h"
#include "tests/support/agent_process.h"
#include "tests/support/process_state.h"

namespace boost::json {
class object;
}

namespace tidepool::tests {

// How long a target is disturbed: short, unless the variable says more.
std::chrono::milliseconds churn_time(std::chrono::milliseconds usual = std::chrono::seconds(3));
bool is_stress_run();
// 1 in a plain build; sanitizers run everything several times slower, so what is measured in work is divided by this.
unsigned slowness();

// Demotes as fast as it can, and spares nothing: no grace, no guarantee, no stall budget.
Settings merciless(const Settings& more = {});

// The agent, with what tests of the whole ask it.
class Whole : public AgentProcess {
 public:
  explicit Whole(const Settings& settings = merciless()) : AgentProcess(settings) {}

  // Adopts as `name`, active; only `range` of its memory unless that is empty. Fails the test when it is refused.
  bool adopt(pid_t pid, const std::string& name, AddressRange range = {}, const Words& more = {},
             const std::string& mode = "active");
  // The same, but nothing moves before it is known what the kernel's tier costs.
  bool adopt_once_measured(pid_t pid, const std::string& name, AddressRange range);
  // Adoption leaves the process working, and resident only as far as this.
  void limit(const std::string& name, Bytes resident);
  bool release(const std::string& name);
  boost::json::object show(const std::string& name) const;
  // One figure of the VM: "far_bytes" of its memory, "demoted_bytes_total" of itself.
  std::uint64_t figure(const std::string& name, const std::string& key) const;
  // What `pool status` says of the kernel's tier.
  boost::json::object kernel_tier() const;
  bool has(const std::string& name) const;
  // Waits until so much has gone out, and come home, since now.
  bool await_moved(const std::string& name, Bytes out, Bytes home) const;
  // The same, since it was adopted.
  bool await_moved_in_all(const std::string& name, Bytes out, Bytes home) const;
  bool await_far(const std::string& name, Bytes far) const;
  // What the keeper holds, by name.
  std::vector<std::string> held() const;
  std::string keeper_socket() const { return folder() / "keeper.sock"; }
};

// tidepool-load, or another program that prints `ready pid=N address=A-B` when its memory is filled.
class Target {
 public:
  explicit Target(const Words& words);
  ~Target();
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  pid_t pid() const { return pid_; }
  AddressRange memory() const { return memory_; }
  bool ready() const { return !memory_.empty(); }
  bool running() const;
  void signal(int number) const;
  std::string output() const;
  // SIGTERM: it checks everything, reports and ends. The exit status is expected to be 0, the mismatches none.
  void finish();
  int wait();

 private:
  TestFolder folder_;
  mutable pid_t pid_ = 0;
  AddressRange memory_;
};

// Leaves it at its work for churn_time(3s); stopped and continued at random if `stops`. `look` runs every now and then.
// Prints the seed.
void churn(const Target& target, bool stops, const std::function<void()>& look = {});

// The usual workload: eight threads that write and check, until told to end.
Words load(const Words& more, Bytes size = Bytes{64ull << 20});

// What the process looks like once it has stopped changing by itself: a program that has just become ready still sets
// up its signals and threads.
ProcessState settled_state(pid_t pid);
// The kernel takes a ring's threads down some time after the last descriptor of it went.
void expect_as_found(pid_t pid, const ProcessState& before);

// Skips the test when adoption is impossible here.
#define REQUIRE_AGENT()                                                                               \
  do {                                                                                                \
    if (const std::string why = ::tidepool::tests::why_no_agent(); !why.empty()) GTEST_SKIP() << why; \
  } while (false)

}  // namespace tidepool::tests
