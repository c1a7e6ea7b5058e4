// What the whole agent costs a VM in its care, and the host while that VM does nothing: tidepoold and its keeper as
// they are installed, with policy, sampling, maintenance and admin API, and processes adopted by tidectl.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "base/units.h"
#include "bench/support/timing.h"
#include "tests/support/agent_process.h"

namespace tidepool::bench {
namespace {

constexpr std::uint64_t kIdleMemory = 16ull << 30;
constexpr std::uint64_t kAdoptedMemory = 256ull << 20;
constexpr std::int64_t kAdoptions = 30;
constexpr std::int64_t kSpells = 5;
constexpr auto kSpell = std::chrono::seconds(10);
constexpr auto kSettle = std::chrono::seconds(30);  // the first samples of 8,192 regions are taken

// Has shared memory, the first pages of every 2 MiB of it in use, and does nothing.
class IdleProcess {
 public:
  IdleProcess(std::uint64_t memory, std::uint64_t pages_per_region) {
    int pipe[2];
    if (::pipe2(pipe, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    const UniqueFd from_child{pipe[0]};
    UniqueFd to_parent{pipe[1]};
    pid_ = ::fork();
    if (pid_ == 0) run(to_parent.get(), memory, pages_per_region);
    to_parent.reset();
    char ready = 0;
    if (::read(from_child.get(), &ready, 1) != 1) throw std::runtime_error("no memory for the idle process");
  }
  ~IdleProcess() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  IdleProcess(const IdleProcess&) = delete;
  IdleProcess& operator=(const IdleProcess&) = delete;
  pid_t pid() const { return pid_; }

 private:
  [[noreturn]] static void run(int ready, std::uint64_t size, std::uint64_t pages_per_region) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int file = ::memfd_create("idle", MFD_CLOEXEC);
    if (::ftruncate(file, static_cast<off_t>(size)) != 0) ::_exit(1);
    void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) ::_exit(1);
    for (std::uint64_t at = 0; at < size; at += kHugePageSize)
      std::memset(static_cast<char*>(memory) + at, 7, pages_per_region * kPageSize);
    if (::write(ready, "r", 1) != 1) ::_exit(1);
    ::close(ready);
    for (;;) ::pause();
  }

  pid_t pid_ = -1;
};

double cpu_seconds_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  const std::size_t behind_name = text.rfind(')');
  if (behind_name == std::string::npos) throw std::runtime_error("the agent is gone");
  unsigned long long user = 0, system = 0;  // fields 14 and 15 of proc_pid_stat(5)
  if (std::sscanf(text.c_str() + behind_name + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
                  &system) != 2)
    throw std::runtime_error("no CPU times");
  return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

// Argument: pages touched in each 2 MiB; there is something to look at everywhere, without 16 GiB of memory.
void agent_idle(benchmark::State& state) {
  try {
    if (const std::string why = tests::why_no_agent(); !why.empty()) throw std::runtime_error(why);
    const tests::Settings as_installed{{"policy.tick", "\"1s\""},
                                       {"pager.grace", "\"1s\""},
                                       {"defaults.min_cold_age", "\"2m\""},
                                       {"mode", "\"active\""},
                                       {"pool.embedded.capacity", "\"10%\""}};
    const IdleProcess process(kIdleMemory, static_cast<std::uint64_t>(state.range(0)));
    tests::AgentProcess agent(as_installed);
    if (!agent.start()) throw std::runtime_error("the agent does not start");
    const tests::Outcome adopted =
        agent.tidectl({"vm", "adopt", "--pid", std::to_string(process.pid()), "--name", "idle"});
    if (adopted.code != 0) throw std::runtime_error(adopted.all());
    const auto began = std::chrono::steady_clock::now();
    const double at_first = cpu_seconds_of(agent.pid());
    std::this_thread::sleep_for(kSettle);
    const double settled = cpu_seconds_of(agent.pid());
    state.counters["first_30s_percent"] =
        100 * (settled - at_first) / Seconds(std::chrono::steady_clock::now() - began).count();
    std::vector<double> shares;
    for ([[maybe_unused]] auto _ : state) {
      const double before = cpu_seconds_of(agent.pid()) + cpu_seconds_of(agent.keeper());
      const auto start = std::chrono::steady_clock::now();
      std::this_thread::sleep_for(kSpell);
      const double elapsed = Seconds(std::chrono::steady_clock::now() - start).count();
      shares.push_back(100 * (cpu_seconds_of(agent.pid()) + cpu_seconds_of(agent.keeper()) - before) / elapsed);
      state.SetIterationTime(elapsed);
    }
    const auto host = boost::json::parse(agent.tidectl({"host", "show", "-o", "json"}).out);
    const auto mib = [&](const char* pointer) {
      return static_cast<double>(host.at_pointer(pointer).to_number<std::int64_t>()) / (1 << 20);
    };
    state.counters["cpu_percent"] = median(shares);
    state.counters["worst_spell_percent"] = *std::max_element(shares.begin(), shares.end());
    state.counters["agent_MiB"] = mib("/overhead/agent_bytes");
    state.counters["frames_MiB"] = mib("/overhead/frames_bytes");
    state.counters["metadata_MiB"] = mib("/overhead/metadata_bytes");
    state.counters["pool_MiB"] = mib("/overhead/pool_bytes");
    state.counters["keeper_MiB"] = mib("/overhead/keeper_bytes");
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}
BENCHMARK(agent_idle)
    ->ArgName("pages_per_region")
    ->Arg(8)
    ->Iterations(kSpells)
    ->UseManualTime()
    ->Unit(benchmark::kSecond);

// Every value of "KEY=number" in the text.
std::vector<double> numbers_of(const std::string& text, const std::string& key) {
  std::vector<double> numbers;
  for (std::size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + 1))
    numbers.push_back(std::stod(text.substr(at + key.size())));
  return numbers;
}

// How long a thread of the process stood still while it was taken hold of, as the agent measured it; and how long all
// of it took, from tidectl's start to its end.
void adoption(benchmark::State& state) {
  try {
    if (const std::string why = tests::why_no_agent(); !why.empty()) throw std::runtime_error(why);
    const IdleProcess process(kAdoptedMemory, kPagesPerHugePage);
    tests::AgentProcess agent;
    if (!agent.start()) throw std::runtime_error("the agent does not start");
    std::vector<double> whole;
    for ([[maybe_unused]] auto _ : state) {
      const Spent spent = spent_on([&] {
        const tests::Outcome adopted =
            agent.tidectl({"vm", "adopt", "--pid", std::to_string(process.pid()), "--name", "one"});
        if (adopted.code != 0) throw std::runtime_error(adopted.all());
      });
      whole.push_back(spent.seconds * 1e3);
      state.SetIterationTime(spent.seconds);
      if (agent.tidectl({"vm", "release", "one"}).code != 0) throw std::runtime_error("not released");
    }
    const std::vector<double> stops = numbers_of(agent.log(), "stopped_us=");
    if (stops.empty()) throw std::runtime_error("the agent's log has no stop times");
    state.counters["stop_p50_us"] = median(stops);
    state.counters["stop_max_us"] = *std::max_element(stops.begin(), stops.end());
    state.counters["whole_p50_ms"] = median(whole);
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}
BENCHMARK(adoption)->Iterations(kAdoptions)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tidepool::bench

BENCHMARK_MAIN();
