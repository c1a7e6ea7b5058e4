// What the admin API asks of the agent: the one seam between "a person wants" and "the agent does".
//
// Threads: the API's worker threads call, several at once; an implementation is thread-safe and never calls back. Calls
// answer within about a second. Work that takes longer (adopt, release, evacuate, record) is started and returned as an
// Operation, which the caller then follows with operation(id). Errors: Error::code chooses the HTTP status
// (service/http/error_body.h), so use it with care: no_such_file_or_directory and no_such_process mean "no such VM,
// operation or process"; invalid_argument "the request makes no sense"; file_exists and device_or_resource_busy "in
// conflict with what is there or under way"; operation_not_permitted, not_supported, no_space_on_device and
// operation_canceled "understood and refused"; resource_unavailable_try_again and timed_out "not now". Error::remedy is
// shown to the person. Names: a `vm` argument is a VM's name or its UUID; the service resolves it. Units: bytes exact,
// ratios 0..1, times on the wall clock (they are shown to people), durations std::chrono.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "daemon/control/config.h"
#include "daemon/control/vm_views.h"
#include "service/http/message.h"

namespace tidepool::daemon {

using WallTime = std::chrono::system_clock::time_point;

// ---- doctor, health -------------------------------------------------------------------------------------------------

enum class Verdict : std::uint8_t {
  kOk,    // works
  kSafe,  // a safety property holds
  kWarn,  // degraded: something else is used, or something is not seen
  kFail,  // a mechanism, or Tidepool as a whole, cannot work here
};

struct DoctorRow {
  Verdict verdict = Verdict::kOk;
  std::string check;   // "userfaultfd", "tracker:damon", "evacuation"
  std::string detail;  // "MISSING MINOR WP"
  std::string hint;    // what to do about it; empty when nothing
};

struct DoctorReport {
  std::string kernel;  // uname -r
  std::vector<DoctorRow> rows;
};

struct HealthCheck {
  std::string name;  // "fault-loop", "keeper", "pool", "policy"
  bool healthy = true;
  std::string detail;
};

struct HealthReport {
  std::vector<HealthCheck> checks;
  bool healthy() const {
    for (const HealthCheck& check : checks)
      if (!check.healthy) return false;
    return true;
  }
};

// ---- findings, operations
// ---------------------------------------------------------------------------------------------

enum class FindingKind : std::uint8_t {
  kRefusal,  // stops the adoption
  kWarning,  // forced or tolerable; said all the same
  kNote,
};

// One thing found out about a process that somebody wants adopted.
struct Finding {
  FindingKind kind = FindingKind::kRefusal;
  std::string code;     // stable word for programs and metrics: "vfio", "hugetlb", "foreign-mapper", "not-allow-listed"
  std::string message;  // "VFIO group 12 pins this memory"
  std::string remedy;   // "detach the device first"; empty when there is none
  bool forceable = false;  // AdoptRequest::force with this code overrides it
};

enum class OperationKind : std::uint8_t { kAdopt, kRelease, kEvacuate, kRecord };
enum class OperationState : std::uint8_t { kRunning, kSucceeded, kFailed, kRefused, kPartial };

// Long work. Kept for at least ten minutes after it ended.
struct Operation {
  std::string id;  // unique within the agent's life; letters, digits and '-'
  OperationKind kind = OperationKind::kAdopt;
  OperationState state = OperationState::kRunning;
  std::string vm;       // its name; empty when the operation concerns the host
  std::string step;     // what is being done, for people: "bringing 1.2 GiB home"
  double progress = 0;  // 0..1
  Bytes done;
  Bytes total;
  WallTime started{};
  std::optional<WallTime> ended;
  std::optional<Error> error;     // set when failed or refused
  std::vector<Finding> findings;  // of an adoption
  bool finished() const { return state != OperationState::kRunning; }
};

// ---- VMs
// --------------------------------------------------------------------------------------------------------------

enum class VmState : std::uint8_t {
  kOk,
  kAdopting,
  kReleasing,
  kHeld,       // demotion held by a person or by a live migration, save or dump
  kFrozen,     // the host is frozen
  kStopped,    // the target is stopped; drops wait
  kDegraded,   // see VmStatus::blocked
  kIntegrity,  // a page failed verification; the VM was stopped
  kGone,       // the process ended
};

// Settings in force. Changed by VmSettings.
struct VmPolicy {
  Mode mode = Mode::kObserve;
  std::string service_class = "standard";
  Bytes guarantee;             // resident memory that policy never takes
  std::optional<Bytes> limit;  // resident memory beyond which policy demotes, guarantee permitting
  double stall_budget = 0.01;
  std::chrono::milliseconds min_cold_age{0};
};

// A change: what is absent stays as it is.
struct VmSettings {
  std::optional<Mode> mode;
  std::optional<std::string> service_class;
  std::optional<Amount> guarantee;
  std::optional<Amount> limit;
  bool no_limit = false;  // takes the limit away; not together with `limit`
  std::optional<double> stall_budget;
  std::optional<std::chrono::milliseconds> min_cold_age;

  bool empty() const {
    return !mode && !service_class && !guarantee && !limit && !no_limit && !stall_budget && !min_cold_age;
  }
};

// Every page of the VM's adopted memory is in exactly one state, so the sum is what was promised.
struct VmMemory {
  Bytes untouched;
  Bytes resident;    // without a valid far copy
  Bytes clean_copy;  // resident, and its far copy is still valid
  Bytes moving_out;  // demoting, dropping
  Bytes far;
  Bytes fetching;
  Bytes released;  // the guest gave it back
  Bytes excluded;  // never moved

  Bytes promised() const {
    return untouched + resident + clean_copy + moving_out + far + fetching + released + excluded;
  }
  Bytes in_dram() const { return resident + clean_copy + moving_out + excluded; }
};

struct VmMappingStatus {
  AddressRange range;       // in the target's address space
  std::string kind;         // "shared", "private"
  std::string description;  // "memory-backend-memfd", "[anon]", a file's path
  std::string dropper;      // "punch", "ring", "pageout"
  Bytes page_size;
};

// A process that a rule would have adopted.
struct RefusedProcess {
  std::string name;  // that it would have had
  std::int32_t pid = 0;
  std::string exe;
  std::string reason;
};

struct VmStatus {
  std::string name;
  std::string uuid;  // empty where the process has none
  std::int32_t pid = 0;
  std::uint64_t start_time = 0;  // clock ticks after boot; with pid the process's identity
  std::string exe;
  std::uint32_t uid = 0;
  std::string origin;     // "asked", "rule", "handed-off"
  std::string mechanism;  // "pager", "kernel"
  VmState state = VmState::kOk;
  bool held = false;
  std::string hold_reason;
  VmPolicy policy;
  VmMemory memory;
  Bytes far_swapped;  // of what is far, what is in the kernel's tier
  Bytes far_stored;   // what the far copies occupy, in the pool and in the kernel's tier
  Bytes metadata;     // page map and bookkeeping
  double stall = 0;   // share of time waited for far pages, last minute
  double faults_per_second = 0;
  std::chrono::nanoseconds fault_p50{0};
  std::chrono::nanoseconds fault_p99{0};
  std::uint64_t faults = 0;  // totals since adoption
  Bytes demoted;
  Bytes promoted;
  std::vector<std::string> blocked;  // why nothing (more) moves: "observe", "guarantee", "pool-full", "held"
  std::vector<VmMappingStatus> mappings;
  WallTime adopted_at{};
};

// Which memory of the process: empty selects what adoption thinks best (a VM's RAM, the largest suitable mappings).
struct MappingSelector {
  std::optional<AddressRange> range;  // exact addresses
  std::string name;                   // glob over the name in /proc/PID/maps ("/memfd:*", "/dev/shm/cache", "[heap]")
  std::optional<Bytes> at_least;      // every suitable mapping of at least this size
};

// Who moves a process's memory.
enum class Mechanism : std::uint8_t {
  kPager,   // Tidepool itself, into its pool: see daemon/pager
  kKernel,  // the kernel on our word, into its swap: see daemon/kernel_tier
};

struct AdoptRequest {
  // Exactly one of the three.
  std::int32_t pid = 0;
  std::string domain;  // a VM's name as QEMU's -name or libvirt knows it
  std::string cgroup;  // path of a control group: every process in it that maps the memory is enrolled

  Mechanism mechanism = Mechanism::kPager;
  std::string name;                // empty: QEMU's -name, else derived from the executable
  MappingSelector mapping;         // of the pager only
  VmSettings settings;             // over the matching rule and the defaults
  std::vector<std::string> force;  // codes of forceable findings to override
};

// What adoption would do, without doing it.
struct AdoptOutcome {
  bool eligible = false;  // no finding refuses
  std::string name;
  std::int32_t pid = 0;
  std::string exe;
  std::vector<VmMappingStatus> mappings;
  std::vector<Finding> findings;
};

// What trackers see of a VM, into a file of the agent's host (docs/trace-format.md).
struct RecordRequest {
  std::string file;  // absolute; must not exist
  std::chrono::milliseconds duration{std::chrono::minutes(1)};
  Bytes max_size{1ull << 30};  // the recording ends when the file would become larger
};
inline constexpr std::chrono::milliseconds kShortestRecording = std::chrono::seconds(1);
inline constexpr std::chrono::milliseconds kLongestRecording = std::chrono::hours(24);
inline constexpr Bytes kSmallestRecording{1ull << 20};
inline constexpr Bytes kLargestRecording{64ull << 30};

struct VmEvent {
  std::uint64_t sequence = 0;  // grows by at least one with each event of the agent
  WallTime at{};
  std::string vm;
  std::string kind;  // "adopted", "settings", "held", "fork", "balloon", "stopped", "blocked", "released", "recording",
                     // "integrity"
  std::string message;
};

struct Decision {
  std::uint64_t sequence = 0;
  WallTime at{};
  std::string vm;            // empty: of the host
  std::string action;        // "demote", "promote", "prefetch", "none"
  std::string reason;        // stable word, also a metric's label
  std::string detail;        // the arithmetic, for people
  Bytes bytes;               // that were ordered; where it is not carried out, that would have been
  bool carried_out = false;  // something of it was ordered
};

// A page of a log that grows: items with sequence > since, oldest first, at most `limit`.
template <class T>
struct LogPage {
  std::vector<T> items;
  std::uint64_t last_sequence =
      0;              // the newest that exists; when nothing is newer than `since`, still what to ask from next
  bool lost = false;  // items between `since` and the first one here are no longer kept
  WallTime began{};   // of the log: with another agent it begins anew, and its numbers with it
};

// Why a VM is as it is, in sentences: "Slow? No: 0.4% stall, budget 1.0%."
struct Explanation {
  std::string vm;
  std::vector<std::string> sentences;
};

// The arithmetic of a change before (plan) or after it was made.
struct ChangeReport {
  bool allowed = true;
  bool applied = false;  // false for a plan and for a refusal
  struct Line {
    std::string what;  // "guarantee"
    std::string before;
    std::string after;
  };
  std::vector<Line> lines;  // what differs; empty when the change changes nothing
  std::string arithmetic;   // "need 0.9 GiB home, spare 0.4 GiB (free 2.4 - reserve 2.0)"
  std::string remedy;       // "Try: --size 2.5GiB"
};

// ---- host and pool
// ------------------------------------------------------------------------------------------------------

// Local DRAM that Tidepool takes for itself. The parts do not overlap.
struct HostOverhead {
  Bytes pool;      // what the pool's stores occupy on this host: content, unless it is not DRAM, and tables
  Bytes metadata;  // page maps
  Bytes kernel;    // what workloads' pages in the kernel's tier occupy, compressed
  Bytes frames;    // buffers kept ready for pages on the move
  Bytes agent;     // all else that the agent has resident, the kernel's page tables for it included
  Bytes keeper;
  Bytes total() const { return pool + kernel + metadata + frames + agent + keeper; }
};

struct HostStatus {
  std::string hostname;
  Bytes dram;       // MemTotal
  Bytes available;  // MemAvailable
  Bytes reserve;    // safety.host_reserve, resolved
  Bytes max_far;    // safety.max_far, resolved
  Bytes promised;   // sums over adopted VMs
  Bytes touched;
  Bytes resident;
  Bytes far;
  HostOverhead overhead;
  // far - overhead, negative while Tidepool costs more than it frees. Untouched memory is excluded.
  std::int64_t net_saved = 0;
  int pressure_level = 0;  // 0 none .. 4 refuse new VMs
  bool frozen = false;
  std::string frozen_by;  // "uid 0, pid 71"; empty when not frozen
};

struct AgentStatus {
  std::string version;
  Mode mode = Mode::kObserve;
  std::int32_t pid = 0;
  WallTime started{};
  std::string fd_holder;  // "keeper", "systemd", "none yet"
  std::size_t vms_active = 0;
  std::size_t vms_observed = 0;
  HostStatus host;
  Bytes evacuation_shortfall;
  bool config_last_reload_ok = true;
};

struct EvacuationVm {
  std::string vm;
  Bytes far;
  std::chrono::milliseconds estimate{0};
  std::string obstacle;  // "stopped", "at its control group's limit"; empty when none
};

struct EvacuationReport {
  bool possible = true;  // what is far fits back
  Bytes far;
  Bytes available;  // for it: MemAvailable - reserve, plus what the pool gives back while it empties
  Bytes shortfall;
  std::chrono::milliseconds estimate{0};
  std::vector<EvacuationVm> vms;
};

// Would one more VM fit beside those that are here?
struct FitReport {
  bool fits = false;
  Bytes capacity;        // DRAM that VMs may use
  Bytes guaranteed;      // of all, the new one included
  Bytes oversubscribed;  // of all in the window of the day in which it is most
  unsigned window = 0;   // that window
  Bytes spare;
  Bytes shortfall;
  std::string arithmetic;  // the sum, for people
};

// Where the kernel puts pages.
struct KernelTierStatus {
  std::string kind;                        // "none", "zram", "zswap", "disk"
  std::string refused;                     // why nothing may go there: a code; empty when it may
  Bytes capacity;                          // pages
  Bytes free;                              // of it
  Bytes stored;                            // pages of everybody on this host
  Bytes dram;                              // what they take of its DRAM
  Bytes far;                               // of stored, what is of adopted VMs and workloads
  std::chrono::nanoseconds fault_cost{0};  // measured by a probe; 0: not yet
  std::chrono::nanoseconds store_cost{0};
  std::string trouble;  // why they could not be measured last time
};

// A memory server, as this host sees it.
struct PoolServerStatus {
  std::string name;
  bool up = false;
  bool draining = false;
  std::string why;  // not up, or not lending: the last reason
  std::uint64_t slices = 0;
  std::chrono::nanoseconds typical_read{0};  // median, 0: none yet
  std::uint64_t reads_in_place = 0;          // out of memory that it handed over
  std::uint64_t wrong_answers = 0;
  std::uint64_t restarts = 0;  // that cost it its pages
};

// How the pool stands with its controller.
struct PoolControllerStatus {
  bool present = false;
  bool answers = false;
  std::string why;  // does not answer: the last reason
  std::chrono::nanoseconds silent{0};
  Bytes held;                        // slices of all VMs, by its word
  Bytes share;                       // that they may have
  Bytes to_give_back;                // of what is held
  std::uint64_t unknown_slices = 0;  // held here, and not known to it
  std::uint64_t strays = 0;          // lives of VMs that are not here, and have slices
  std::string refusal;               // why there are no more slices
};

struct PoolStatus {
  std::string store;    // "compressed", "mapped"
  std::string backing;  // "DRAM (lz4)", "/dev/dax0.0"
  Bytes capacity;
  Bytes used;    // of the capacity, with the store's own waste
  Bytes stored;  // page bytes before compression
  std::uint64_t pages = 0;
  std::uint64_t incompressible = 0;  // pages turned away, total
  std::uint64_t integrity_failures = 0;
  KernelTierStatus kernel;
  // At memory servers:
  std::vector<PoolServerStatus> servers;
  std::uint64_t slices = 0;
  std::uint64_t degraded_slices = 0;  // with fewer replicas than wanted
  std::uint64_t lost_slices = 0;      // with none
  std::uint64_t filling_slices = 0;   // with a replica that is being copied
  std::uint64_t expired_slices = 0;   // that take no page until a lease is renewed
  Bytes rebuild_remaining;            // that replicas lack
  std::uint64_t closing_slices = 0;   // to be emptied and given back
  Bytes closing;                      // of pages in those
  PoolControllerStatus controller;
  std::uint64_t lost_pages = 0;  // since start
};

struct RunningConfig {
  std::string path;  // the file; empty: built-in defaults
  Config config;
  WallTime loaded{};
  bool last_reload_ok = true;
  std::string last_reload_error;
  std::vector<std::string> restart_pending;  // keys whose new values wait for a restart
};

using Caller = http::Caller;

class AgentService {
 public:
  virtual ~AgentService() = default;

  virtual Result<DoctorReport> doctor() = 0;
  virtual Result<HealthReport> health() = 0;
  virtual Result<AgentStatus> status() = 0;
  virtual Result<RunningConfig> config_show() = 0;

  virtual Result<HostStatus> host_show() = 0;
  // Stops all movement at once, demand faults excepted, even with a wedged policy. Freezing what is frozen succeeds.
  virtual Result<> host_freeze(const Caller& caller) = 0;
  virtual Result<> host_thaw(const Caller& caller) = 0;
  virtual Result<EvacuationReport> host_evacuation_plan() = 0;
  virtual Result<FitReport> host_fits(Bytes guaranteed, Bytes oversubscribed) = 0;
  // Brings everything home and leaves every VM in observe mode, so that it stays there.
  virtual Result<Operation> host_evacuate() = 0;

  // In name order, without mappings.
  virtual Result<std::vector<VmStatus>> vm_list() = 0;
  virtual Result<VmStatus> vm_show(std::string_view vm) = 0;
  // By name. Those that run and were refused at the last attempt.
  virtual std::vector<RefusedProcess> refused() = 0;
  virtual Result<AdoptOutcome> vm_adopt_check(const AdoptRequest& request) = 0;
  virtual Result<Operation> vm_adopt(const AdoptRequest& request) = 0;
  // Brings its pages home and leaves the process as it was found.
  virtual Result<Operation> vm_release(std::string_view vm) = 0;
  virtual Result<ChangeReport> vm_set(std::string_view vm, const VmSettings& settings, bool plan) = 0;
  // Demotion stops for this VM; faults and prefetch go on. Holding what is held replaces the reason.
  virtual Result<> vm_hold(std::string_view vm, std::string_view reason) = 0;
  virtual Result<> vm_unhold(std::string_view vm) = 0;
  virtual Result<Operation> vm_record(std::string_view vm, const RecordRequest& request) = 0;
  // Has its recording end now, and succeed. Not found when there is none.
  virtual Result<> vm_record_end(std::string_view vm) = 0;
  virtual Result<Heatmap> vm_heatmap(std::string_view vm, std::chrono::milliseconds last) = 0;
  virtual Result<WorkingSet> vm_working_set(std::string_view vm, std::chrono::milliseconds last) = 0;
  virtual Result<LogPage<VmEvent>> vm_events(std::string_view vm, std::uint64_t since, std::size_t limit) = 0;
  // `vm` empty: of all VMs and the host.
  virtual Result<LogPage<Decision>> decisions(std::string_view vm, std::uint64_t since, std::size_t limit) = 0;
  virtual Result<Explanation> explain(std::string_view vm) = 0;

  virtual Result<PoolStatus> pool_status() = 0;
  virtual Result<ChangeReport> pool_resize(const Amount& capacity, bool plan) = 0;

  // The API's audit log cannot be written, and why; empty: it can again. For health to tell of.
  virtual void audit_trouble(std::string_view) {}
  virtual Result<Operation> operation(std::string_view id) = 0;
};

}  // namespace tidepool::daemon
