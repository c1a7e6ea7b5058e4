#include "tests/integration/agent/whole_rig.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <thread>

#include "pool/keeper/keeper_holder.h"

namespace tidepool::tests {
namespace {

namespace json = boost::json;

long stress_seconds() {
  const char* text = std::getenv("TIDEPOOL_STRESS_SECONDS");
  return text == nullptr ? 0 : std::atol(text);
}

std::string hexadecimal(AddressRange range) {
  char text[64];
  std::snprintf(text, sizeof text, "0x%llx-0x%llx", static_cast<unsigned long long>(range.start),
                static_cast<unsigned long long>(range.end));
  return text;
}

}  // namespace

std::chrono::milliseconds churn_time(std::chrono::milliseconds usual) {
  return is_stress_run() ? std::chrono::seconds(stress_seconds()) : usual;
}

bool is_stress_run() {
  return stress_seconds() > 0;
}

unsigned slowness() {
#if defined(__SANITIZE_ADDRESS__)
  return 4;
#elif defined(__SANITIZE_THREAD__)
  return 8;
#else
  return 1;
#endif
}

Settings merciless(const Settings& more) {
  Settings settings{{"policy.tick", "\"100ms\""},
                    {"defaults.guarantee", "\"0%\""},
                    {"defaults.stall_budget", "\"100%\""},
                    {"defaults.min_cold_age", "\"100ms\""},
                    {"safety.host_reserve", "\"64MiB\""},
                    {"safety.max_far", "\"50%\""},
                    {"limits.demote_bandwidth", "\"8GiB/s\""},
                    {"pager.grace", "\"0ms\""},
                    {"pool.embedded.capacity", "\"512MiB\""}};
  for (const auto& [key, value] : more) settings[key] = value;
  return settings;
}

bool Whole::adopt(pid_t pid, const std::string& name, AddressRange range, const Words& more, const std::string& mode) {
  Words words{"vm", "adopt", "--pid", std::to_string(pid), "--name", name, "--mode", mode, "--yes"};
  if (!range.empty()) words.insert(words.end(), {"--mapping", hexadecimal(range)});
  words.insert(words.end(), more.begin(), more.end());
  Outcome outcome = tidectl(words);
  // Memory that moves all the time may have moved between looking and taking hold: then it says so.
  for (int again = 0; again < 20 && outcome.all().find("try again") != std::string::npos; ++again)
    outcome = tidectl(words);
  EXPECT_EQ(outcome.code, 0) << outcome.all();
  return outcome.code == 0;
}

bool Whole::adopt_once_measured(pid_t pid, const std::string& name, AddressRange range) {
  if (!adopt(pid, name, range, {}, "observe")) return false;
  const bool measured = await([&] { return kernel_tier().at("fault_cost_ns").to_number<std::uint64_t>() > 0; });
  EXPECT_TRUE(measured) << json::serialize(kernel_tier());
  return measured && tidectl({"vm", "set", name, "--mode", "active", "--yes"}).code == 0;
}

void Whole::limit(const std::string& name, Bytes resident) {
  expect({"vm", "set", name, "--limit", std::to_string(resident.value)}, 0);
}

bool Whole::release(const std::string& name) {
  const Outcome outcome = tidectl({"vm", "release", name, "--timeout", "300s"});
  EXPECT_EQ(outcome.code, 0) << outcome.all();
  return outcome.code == 0;
}

json::object Whole::show(const std::string& name) const {
  const Outcome outcome = tidectl({"vm", "show", name, "-o", "json"});
  if (outcome.code != 0) return {};
  boost::system::error_code error;
  const json::value value = json::parse(outcome.out, error);
  return error || !value.is_object() ? json::object{} : value.as_object();
}

json::object Whole::kernel_tier() const {
  return json::parse(expect({"pool", "status", "-o", "json"}, 0)).as_object().at("kernel").as_object();
}

bool Whole::has(const std::string& name) const {
  return !show(name).empty();
}

std::uint64_t Whole::figure(const std::string& name, const std::string& key) const {
  const json::object vm = show(name);
  const json::value* found = vm.if_contains(key);
  if (found == nullptr) {
    const json::value* memory = vm.if_contains("memory");
    found = memory == nullptr ? nullptr : memory->as_object().if_contains(key);
  }
  return found == nullptr ? 0 : found->to_number<std::uint64_t>();
}

bool Whole::await_moved(const std::string& name, Bytes out, Bytes home) const {
  return await_moved_in_all(name, Bytes{figure(name, "demoted_bytes_total")} + out,
                            Bytes{figure(name, "promoted_bytes_total")} + home);
}

bool Whole::await_moved_in_all(const std::string& name, Bytes out, Bytes home) const {
  const bool moved = await([&] {
    return figure(name, "demoted_bytes_total") >= out.value && figure(name, "promoted_bytes_total") >= home.value;
  });
  EXPECT_TRUE(moved) << json::serialize(show(name));
  return moved;
}

bool Whole::await_far(const std::string& name, Bytes far) const {
  const bool is_far = await([&] { return figure(name, "far_bytes") >= far.value; });
  EXPECT_TRUE(is_far) << json::serialize(show(name));
  return is_far;
}

std::vector<std::string> Whole::held() const {
  auto holder = pool::KeeperHolder::connect({.socket = keeper_socket()});
  if (!holder) return {};
  auto names = (*holder)->list();
  return names ? *names : std::vector<std::string>{};
}

Target::Target(const Words& words) {
  pid_ = start_program(words, {}, folder_ / "out", folder_ / "err");
  const bool came = await([&] { return output().find("ready pid=") != std::string::npos || !running(); });
  const std::string text = output();
  unsigned long long start = 0;
  unsigned long long end = 0;
  const std::size_t line = text.find("ready pid=");
  if (came && line != std::string::npos &&
      std::sscanf(text.c_str() + line, "ready pid=%*d address=%llx-%llx", &start, &end) == 2)
    memory_ = {start, end};
  EXPECT_TRUE(ready()) << text << read_file(folder_ / "err");
}

Target::~Target() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

bool Target::running() const {
  siginfo_t info{};
  return pid_ > 0 && ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0;
}

void Target::signal(int number) const {
  EXPECT_EQ(::kill(pid_, number), 0);
}

std::string Target::output() const {
  return read_file(folder_ / "out");
}

int Target::wait() {
  const int code = await_exit(pid_);
  pid_ = 0;
  return code;
}

void Target::finish() {
  signal(SIGTERM);
  EXPECT_EQ(wait(), 0) << output();
  EXPECT_NE(output().find("mismatches 0\n"), std::string::npos) << output();
}

void churn(const Target& target, bool stops, const std::function<void()>& look) {
  using std::chrono::milliseconds;
  const unsigned seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  const auto end = std::chrono::steady_clock::now() + churn_time(milliseconds(3000));
  while (std::chrono::steady_clock::now() < end) {
    if (stops) {
      target.signal(SIGSTOP);
      std::this_thread::sleep_for(milliseconds(random() % 300));
      target.signal(SIGCONT);
    }
    std::this_thread::sleep_for(milliseconds(random() % 300));
    if (look) look();
  }
}

Words load(const Words& more, Bytes size) {
  std::map<std::string, std::string> options{{"--size", std::to_string(size.value / slowness())},
                                             {"--threads", "8"},
                                             {"--pattern", "uniform"},
                                             {"--duration", "0"},
                                             {"--read-ratio", "0.5"}};
  Words words{"tidepool-load"};
  for (const std::string& word : more) options.erase(word);
  for (const auto& [option, value] : options) words.insert(words.end(), {option, value});
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

ProcessState settled_state(pid_t pid) {
  ProcessState state;
  int seen_alike = 0;
  await([&] {
    const ProcessState former = state;
    state = state_of_process(pid);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    // Every signal is blocked while a thread is being made.
    const bool makes_a_thread = state.signals.starts_with("ffff");
    seen_alike = state == former && !makes_a_thread ? seen_alike + 1 : 0;
    return seen_alike == 4;
  });
  return state;
}

void expect_as_found(pid_t pid, const ProcessState& before) {
  await([&] { return state_of_process(pid) == before; });
  EXPECT_EQ(state_of_process(pid), before);
}

}  // namespace tidepool::tests
