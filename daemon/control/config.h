// The agent's configuration as a value. docs/configuration.md describes every key; config_loader.h reads it from TOML.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "service/log.h"

namespace tidepool::daemon {

enum class Mode : std::uint8_t {
  kObserve,  // decides and counts, moves nothing
  kDryRun,   // likewise, and plays on paper what would come of it
  kActive,
};

enum class IntegrityAction : std::uint8_t { kStop, kKill };
enum class StoreKind : std::uint8_t { kMapped, kCompressed, kFile };
enum class Codec : std::uint8_t { kLz4, kZstd };
// Before a page is sealed for a memory server.
enum class PageCodec : std::uint8_t { kNone, kLz4, kZstd };
// Which of the host's swap the kernel tier may use.
enum class SwapUse : std::uint8_t {
  kAuto,  // compressed: zram, or zswap before a device
  kAny,   // a disk without zswap too
  kOff,
};
enum class FdHolderKind : std::uint8_t {
  kAuto,  // systemd's fd store when started by systemd, otherwise the keeper
  kKeeper,
  kSystemd,
};

// "4GiB" or "25%": a share is taken of whatever the key says (host DRAM, a VM's memory).
struct Amount {
  Bytes bytes;
  std::optional<double> share;  // 0..1; when set, `bytes` is not used

  static constexpr Amount of(Bytes value) { return {value, std::nullopt}; }
  static constexpr Amount part(double share_of_whole) { return {Bytes{}, share_of_whole}; }
  constexpr Bytes resolve(Bytes whole) const {
    return share ? Bytes{static_cast<std::uint64_t>(*share * static_cast<double>(whole.value))} : bytes;
  }
  constexpr bool operator==(const Amount&) const = default;
};

// What an adopted process is held to. Ratios are 0..1.
struct VmDefaults {
  std::string service_class = "standard";
  Amount guarantee = Amount::part(0.5);  // of the VM's memory: never made far
  std::optional<Amount> limit;           // of the VM's memory: resident at most this much; none: no limit
  double stall_budget = 0.01;            // share of time that its threads may wait for far pages
  std::chrono::milliseconds min_cold_age{std::chrono::minutes(2)};

  bool operator==(const VmDefaults&) const = default;
};

// Which processes a [[rule]] speaks of. Every pattern that is given must match; at least one is given.
struct RuleMatch {
  std::string domain;  // glob over the VM's name
  std::string exe;     // glob over the executable's path
  std::string cgroup;  // glob over the control group's path

  bool operator==(const RuleMatch&) const = default;
};

// The first rule that matches decides; what it leaves open comes from [defaults] and `mode`.
struct Rule {
  RuleMatch match;
  std::optional<Mode> mode;
  std::optional<std::string> service_class;
  std::optional<Amount> guarantee;
  std::optional<Amount> limit;
  std::optional<double> stall_budget;
  std::optional<std::chrono::milliseconds> min_cold_age;
  // Of a VM that hands itself off while it restores a snapshot: the snapshot's memory file, with "%n" for the VM's
  // name.
  // "": its memory is fresh and reads zero. Absent: nobody said.
  std::optional<std::string> memory_file;

  bool operator==(const Rule&) const = default;
};

// A [[memory_server]]: docs/memory-servers.md.
struct MemoryServer {
  std::string name;
  std::string address;         // "unix:/path", "tcp:host:port"
  std::string failure_domain;  // empty: it fails alone
  unsigned weight = 100;       // how much of the pages, beside the others
  Bytes capacity{};            // most that one VM leases of it; 0: as much as it gives
  std::string key_file;

  bool operator==(const MemoryServer&) const = default;
};

// What figures call the place of pool.servers.spill.
inline constexpr std::string_view kSpillName = "spill";

struct Config {
  int schema = 1;
  Mode mode = Mode::kObserve;

  struct Api {
    std::string socket = "/run/tidepool/agent.sock";
    std::string metrics = "127.0.0.1:9842";                   // host:port; empty: no metrics endpoint
    std::string audit_log = "/var/log/tidepool/audit.jsonl";  // empty: audit records go to the log
    std::string group = "tidepool";                           // owns the socket where the group exists, else root's
    unsigned workers = 2;
    unsigned max_connections = 64;
    std::chrono::milliseconds request_timeout{std::chrono::seconds(10)};
    bool operator==(const Api&) const = default;
  } api;

  struct Safety {
    Amount host_reserve = Amount::part(0.05);  // of host DRAM: kept free
    Amount max_far = Amount::part(0.25);       // of host DRAM: a ceiling on far bytes, all VMs together
    bool require_evacuable = true;             // what is far must always fit back
    IntegrityAction on_integrity_failure = IntegrityAction::kStop;
    unsigned max_active_vms = 0;               // 0: no bound; otherwise the canary bound
    std::chrono::milliseconds canary_time{0};  // how long the canaries run before the bound is lifted; 0: never lifted
    bool operator==(const Safety&) const = default;
  } safety;

  struct Adopt {
    bool automatic = false;  // key "auto": adopt what a [[rule]] matches without being told
    std::chrono::milliseconds scan_interval{std::chrono::seconds(10)};  // between two searches for such processes
    std::vector<std::string> allow_exe = {"/usr/bin/qemu-system-*"};
    bool allow_ptrace = true;           // false: co-operative hand-off only
    std::string helper;                 // program; empty: tidepool-adopt beside the agent's own
    std::string handoff_socket;         // empty: no co-operative hand-off is offered
    std::string handoff_group = "kvm";  // owns that socket where the group exists, else root's
    bool operator==(const Adopt&) const = default;
  } adopt;

  VmDefaults defaults;

  struct Limits {
    double tracker_cpu = 0.01;             // share of one core for every 100 GiB of memory that is watched
    double spin_cpu = 0.10;                // share of one core
    Bytes demote_bandwidth{256ull << 20};  // per second, all VMs together
    // Per second, all VMs together: what comes home without a fault or an order (to a broken guarantee, out of leased
    // room that the pool wants back).
    Bytes promote_bandwidth{256ull << 20};
    bool operator==(const Limits&) const = default;
  } limits;

  struct Trackers {
    bool soft_dirty = false;  // the kernel's soft-dirty bits may be cleared: nobody else goes by them
    bool operator==(const Trackers&) const = default;
  } trackers;

  struct EmbeddedPool {
    StoreKind store = StoreKind::kCompressed;
    Amount capacity = Amount::part(0.10);  // of host DRAM, or of the device when `path` names one
    Codec codec = Codec::kLz4;
    std::string path;  // mapped: DAX device or file; empty: a memfd
    bool operator==(const EmbeddedPool&) const = default;
  } pool;

  // In force when there is a [[memory_server]].
  struct ServerPool {
    Bytes capacity{64ull << 30};  // that pages may take, each replica counted once
    unsigned replicas = 2;
    Bytes slice{64ull << 20};
    PageCodec codec = PageCodec::kLz4;
    Bytes copy_bandwidth{128ull << 20};                              // per second, for replicas made anew; all VMs
    std::chrono::milliseconds lost_after{std::chrono::seconds(60)};  // a server that is away is replaced
    std::chrono::milliseconds lease{0};                              // 0: until released
    std::string spill;                                               // block device or file; empty: none
    Amount spill_capacity = Amount::part(0.1);                       // of what there is
    bool operator==(const ServerPool&) const = default;
  } servers;

  // In force when it has endpoints: slices come from a pool controller.
  struct Controller {
    std::vector<std::string> endpoints;
    std::string host;         // the name that the controller knows this host by; empty: its host name
    std::string certificate;  // PEM, for https endpoints; all three
    std::string key;
    std::string authority;
    bool operator==(const Controller&) const = default;
  } controller;

  struct KernelTierUse {
    SwapUse swap = SwapUse::kAuto;
    bool beside_pool = true;  // private memory that the pager manages may go there too
    bool operator==(const KernelTierUse&) const = default;
  } kernel_tier;

  struct Keeper {
    FdHolderKind holder = FdHolderKind::kAuto;
    std::string socket = "/run/tidepool/keeper.sock";
    std::string program;  // started when nothing listens on `socket`; empty: tidepool-keeper beside the agent's own
    bool operator==(const Keeper&) const = default;
  } keeper;

  struct Pager {
    unsigned fault_threads = 2;
    std::chrono::milliseconds grace{1000};  // between write protection and copy, for devices that still hold the page
    bool operator==(const Pager&) const = default;
  } pager;

  struct Policy {
    std::chrono::milliseconds tick{1000};
    // What VMs need at which time of the day, kept over restarts; empty: forgotten.
    std::string need_archive = "/var/lib/tidepool/need";
    std::size_t decision_history = 10000;  // decisions kept for `tidectl decisions`
    bool operator==(const Policy&) const = default;
  } policy;

  struct Log {
    LogLevel level = LogLevel::kInfo;
    bool operator==(const Log&) const = default;
  } log;

  std::vector<Rule> rules;                   // [[rule]], in the file's order
  std::vector<MemoryServer> memory_servers;  // [[memory_server]]

  bool operator==(const Config&) const = default;
};

}  // namespace tidepool::daemon
