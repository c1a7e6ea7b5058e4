#include "daemon/control/config_rules.h"

#include <algorithm>
#include <array>
#include <optional>

#include "daemon/control/config_schema.h"
#include "pool/controller/port/endpoint_kind.h"

namespace tidepool::daemon {
namespace {

using Found = std::vector<Contradiction>;

// Sizes and shares compare only with their own kind: what a share comes to is known once there is a VM.
bool exceeds(const Amount& a, const Amount& b) {
  if (a.share && b.share) return *a.share > *b.share;
  return !a.share && !b.share && a.bytes > b.bytes;
}

void guarantee_against_limit(Found& found, const Config& config) {
  const auto check = [&](const std::string& guarantee_key, const Amount& guarantee, const std::string& limit_key,
                         const std::optional<Amount>& limit) {
    if (!limit || !exceeds(guarantee, *limit)) return;
    found.push_back({limit_key, limit_key + " (" + text_of(*limit) + ") is below " + guarantee_key + " (" +
                                    text_of(guarantee) + "): a VM cannot be held to less than it was guaranteed"});
  };
  check("defaults.guarantee", config.defaults.guarantee, "defaults.limit", config.defaults.limit);
  for (std::size_t i = 0; i < config.rules.size(); ++i) {
    const Rule& rule = config.rules[i];
    if (!rule.guarantee && !rule.limit) continue;
    const std::string prefix = "rule[" + std::to_string(i) + "].";
    check(rule.guarantee ? prefix + "guarantee" : "defaults.guarantee",
          rule.guarantee.value_or(config.defaults.guarantee), rule.limit ? prefix + "limit" : "defaults.limit",
          rule.limit ? rule.limit : config.defaults.limit);
  }
}

void host_memory(Found& found, const Config& config) {
  const Amount& reserve = config.safety.host_reserve;
  const Amount& capacity = config.pool.capacity;
  if (reserve.share && *reserve.share >= 1)
    found.push_back(
        {"safety.host_reserve", "safety.host_reserve (" + text_of(reserve) + ") leaves nothing of the host's memory"});
  // A compressed store, or a mapped one without a device, lies in the very DRAM that the reserve speaks of.
  if (config.pool.path.empty() && reserve.share && capacity.share && *reserve.share + *capacity.share > 1)
    found.push_back({"pool.embedded.capacity", "pool.embedded.capacity (" + text_of(capacity) +
                                                   ") and safety.host_reserve (" + text_of(reserve) +
                                                   ") together exceed the host's memory"});
  if (capacity == Amount::of(Bytes{}) || capacity == Amount::part(0))
    found.push_back({"pool.embedded.capacity",
                     "pool.embedded.capacity is 0: nothing could ever be moved; use mode = \"observe\" instead"});
}

void pool_store(Found& found, const Config& config) {
  if (config.pool.store == StoreKind::kCompressed && !config.pool.path.empty())
    found.push_back(
        {"pool.embedded.path", "pool.embedded.path (\"" + config.pool.path +
                                   "\") needs pool.embedded.store = \"mapped\" or \"file\": the compressed store lies "
                                   "in DRAM"});
  if (config.pool.store == StoreKind::kFile && config.pool.path.empty())
    found.push_back(
        {"pool.embedded.path",
         "pool.embedded.store = \"file\" needs pool.embedded.path: a block device that nobody uses, or a file"});
  if (config.pool.store != StoreKind::kCompressed && config.pool.codec != Codec{})
    found.push_back({"pool.embedded.codec", "pool.embedded.codec has no meaning with pool.embedded.store = \"" +
                                                std::string(text_of(config.pool.store)) +
                                                "\", which does not compress"});
}

void memory_servers(Found& found, const Config& config) {
  const auto& servers = config.memory_servers;
  for (std::size_t i = 0; i < servers.size(); ++i) {
    const std::string section = "memory_server[" + std::to_string(i) + "]";
    if (servers[i].name.empty()) found.push_back({section, section + " has no name"});
    if (servers[i].address.empty()) found.push_back({section, section + " has no address"});
    if (servers[i].key_file.empty())
      found.push_back({section, section + " has no key_file: without the server's key it lends nothing"});
    for (std::size_t j = 0; j < i; ++j)
      if (servers[j].name == servers[i].name || servers[j].address == servers[i].address)
        found.push_back({section, section + " and memory_server[" + std::to_string(j) + "] are the same server"});
  }
  const bool spill = !config.servers.spill.empty();
  if (!servers.empty() && servers.size() + spill < config.servers.replicas)
    found.push_back({"pool.servers.replicas", "pool.servers.replicas is " + std::to_string(config.servers.replicas) +
                                                  ", but there " + (servers.size() == 1 ? "is" : "are") + " only " +
                                                  std::to_string(servers.size()) + " [[memory_server]]"});
  if (spill && servers.empty())
    found.push_back({"pool.servers.spill",
                     "pool.servers.spill without a [[memory_server]]: it stands in for one. A pool on a disk alone is "
                     "pool.embedded.store = \"file\"; a controller finds other servers by itself"});
  if (spill && std::ranges::find(servers, kSpillName, &MemoryServer::name) != servers.end())
    found.push_back({"pool.servers.spill", "pool.servers.spill is what is called \"" + std::string(kSpillName) +
                                               "\": give the [[memory_server]] another name"});
  if (spill &&
      (config.servers.spill_capacity == Amount::of(Bytes{}) || config.servers.spill_capacity == Amount::part(0)))
    found.push_back({"pool.servers.spill_capacity", "pool.servers.spill_capacity is 0: leave pool.servers.spill out"});
  const Config::Controller& controller = config.controller;
  const std::string trouble = pool::controller::endpoint_trouble(
      controller.endpoints, {controller.certificate, controller.key, controller.authority}, "pool.controller");
  if (!trouble.empty()) found.push_back({"pool.controller", trouble});
  if (!controller.endpoints.empty() && !servers.empty())
    found.push_back({"pool.controller.endpoints",
                     "pool.controller.endpoints and [[memory_server]] exclude each other: a controller says which "
                     "servers there are"});
  const Bytes slice = config.servers.slice;
  if (slice < Bytes{2ull << 20} || slice > Bytes{1ull << 30} || slice.value % kPageSize != 0)
    found.push_back({"pool.servers.slice", "pool.servers.slice must be 2MiB to 1GiB, in whole pages"});
  if (config.servers.lost_after.count() == 0)
    found.push_back({"pool.servers.lost_after", "pool.servers.lost_after must be more than 0"});
  if (config.servers.lease.count() != 0 && config.servers.lease < std::chrono::seconds(10))
    found.push_back({"pool.servers.lease", "pool.servers.lease must be 0 (until released) or at least 10s"});
  if (config.servers.capacity < slice)
    found.push_back({"pool.servers.capacity", "pool.servers.capacity is below pool.servers.slice: it must hold one"});
}

void adoption(Found& found, const Config& config) {
  if (!config.adopt.allow_ptrace && config.adopt.handoff_socket.empty())
    found.push_back({"adopt.allow_ptrace",
                     "adopt.allow_ptrace = false without adopt.handoff_socket leaves no way to adopt anything"});
  if (config.adopt.automatic && config.rules.empty())
    found.push_back({"adopt.auto", "adopt.auto = true without a [[rule]]: nothing says what to adopt"});
  if (config.adopt.automatic && config.adopt.allow_exe.empty())
    found.push_back({"adopt.auto", "adopt.auto = true with an empty adopt.allow_exe: every process would be refused"});
  for (std::size_t i = 0; i < config.rules.size(); ++i) {
    if (config.rules[i].memory_file && config.adopt.handoff_socket.empty()) {
      const std::string key = "rule[" + std::to_string(i) + "].memory_file";
      found.push_back(
          {key, key + " without adopt.handoff_socket: only a VM that hands itself off is given its memory"});
    }
  }
  if (config.safety.canary_time.count() != 0 && config.safety.max_active_vms == 0)
    found.push_back(
        {"safety.canary_time", "safety.canary_time without safety.max_active_vms: there is no bound to lift"});
  for (std::size_t i = 0; i < config.rules.size(); ++i) {
    if (config.rules[i].match == RuleMatch{})
      found.push_back({"rule[" + std::to_string(i) + "]",
                       "rule[" + std::to_string(i) +
                           "] has no match.domain, match.exe or match.cgroup: it would speak of every process"});
  }
}

void shapes(Found& found, const Config& config) {
  using namespace std::chrono_literals;
  if (config.policy.tick < 100ms || config.policy.tick > 60s)
    found.push_back({"policy.tick", "policy.tick must lie between 100ms and 60s"});
  if (config.pager.grace > 60s) found.push_back({"pager.grace", "pager.grace must be at most 60s"});
  if (config.api.request_timeout < 100ms || config.api.request_timeout > 10min)
    found.push_back({"api.request_timeout", "api.request_timeout must lie between 100ms and 10m"});
  if (config.adopt.scan_interval < 100ms || config.adopt.scan_interval > 1h)
    found.push_back({"adopt.scan_interval", "adopt.scan_interval must lie between 100ms and 1h"});
  const auto below_tick = [&](const std::string& key, std::chrono::milliseconds age) {
    if (age < config.policy.tick)
      found.push_back({key, key + " is shorter than policy.tick: age is only known to the tick"});
  };
  below_tick("defaults.min_cold_age", config.defaults.min_cold_age);
  for (std::size_t i = 0; i < config.rules.size(); ++i)
    if (config.rules[i].min_cold_age)
      below_tick("rule[" + std::to_string(i) + "].min_cold_age", *config.rules[i].min_cold_age);
}

void socket_paths(Found& found, const Config& config) {
  const std::array<std::pair<std::string, const std::string*>, 3> sockets{
      {{"api.socket", &config.api.socket},
       {"keeper.socket", &config.keeper.socket},
       {"adopt.handoff_socket", &config.adopt.handoff_socket}}};
  for (std::size_t i = 0; i < sockets.size(); ++i)
    for (std::size_t j = i + 1; j < sockets.size(); ++j)
      if (*sockets[i].second == *sockets[j].second)
        found.push_back({sockets[j].first, sockets[j].first + " and " + sockets[i].first + " name the same path \"" +
                                               *sockets[i].second + "\""});
}

}  // namespace

std::vector<Contradiction> find_contradictions(const Config& config) {
  Found found;
  guarantee_against_limit(found, config);
  host_memory(found, config);
  pool_store(found, config);
  memory_servers(found, config);
  adoption(found, config);
  shapes(found, config);
  socket_paths(found, config);
  return found;
}

}  // namespace tidepool::daemon
