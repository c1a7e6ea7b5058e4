// A host in simulated time: VMs that use memory by a pattern, a pager with the real one's bounds, a tracker that
// samples a bounded number of pages, and the real policy engine in charge. Deterministic.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "bench/load/random.h"
#include "policy/engine.h"

namespace tidepool::simulator {

// Which page is used next, `seconds` into the run.
using NextPage = std::function<std::uint64_t(double seconds, load::Random& random)>;

struct VmSpec {
  std::uint64_t pages = 0;
  NextPage next{};
  unsigned threads = 2;
  double operation = 10e-6;  // seconds of a thread per access, all local
  double write_share = 0.3;
  policy::Mode mode = policy::Mode::kActive;
  policy::ServiceClass service_class = policy::ServiceClass::kStandard;
  Bytes guarantee{};
  std::optional<Bytes> limit{};
  std::optional<double> stall_budget{};
  std::optional<Nanoseconds> min_cold_age{};
  bool partial = true;       // the pager can demote parts of a region
  bool spares = true;        // and leaves pages that came home lately
  bool writes_only = false;  // the tracker sees only writes of its resident memory
  policy::TierMask tiers = policy::kAllTiers;
};

struct HostSpec {
  Bytes total{64ull << 30};
  Bytes others{4ull << 30};
  Bytes reserve{2ull << 30};
  Bytes max_far{32ull << 30};
  std::vector<policy::TierView> tiers{policy::TierView{.name = "pool", .capacity = Bytes{32ull << 30}, .ratio = 0.4}};
  double fault_cost = 20e-6;  // of all tiers but the shallow one
  // Which of `tiers` pages can go on from: the kernel's, whose moves take effect at once and spare nothing.
  std::optional<unsigned> shallow{};
  unsigned moves_at_once = 1024;  // regions frozen or in flight, all VMs together
  unsigned moves_per_vm = 512;
  unsigned grace = 1;  // ticks between freeze and drop
  // The tracker: pages per second that it may arm, per region at a time; a page that was not used by then is let go of
  // after so many ticks (0: it stays armed).
  unsigned samples_per_second = 500;
  unsigned samples_per_region = 2;
  unsigned watch_ticks = 0;
  bool fine_samples = false;  // says which page it watched, rather than which region
  std::uint64_t seed = 1;
};

struct VmTick {
  std::uint64_t accesses = 0;
  std::uint64_t faults = 0;
  std::uint64_t demoted = 0;   // pages
  std::uint64_t restored = 0;  // pages, unasked
  std::uint64_t resident = 0;  // pages, at the end
  std::uint64_t shallow = 0;   // pages, at the end
  std::uint64_t deeper = 0;    // pages
  double stall = 0;            // share of its threads' time
};

class SimulatedHost {
 public:
  explicit SimulatedHost(HostSpec spec, policy::PolicyConfig config = {});
  ~SimulatedHost();

  VmId add(VmSpec spec);
  void remove(VmId vm);
  // One second.
  void tick();
  double seconds() const { return seconds_; }

  const VmTick& last(VmId vm) const;
  // Sums from tick `from` on.
  VmTick sum(VmId vm, std::size_t from) const;
  const std::vector<VmTick>& history(VmId vm) const;
  const policy::Plan& plan() const { return plan_; }
  policy::Engine& engine() { return engine_; }
  VmSpec& spec(VmId vm);
  HostSpec& host() { return spec_; }
  Bytes available() const;
  // Makes pages far, as a bad decision would have.
  void banish(VmId vm, std::uint64_t first, std::uint64_t count);

 private:
  struct Vm;
  Vm& vm_of(VmId id) const;
  void run_accesses(Vm& vm);
  void finish_moves();
  void begin_moves();
  void move_shallow(Vm& vm, const policy::Move& move);
  static void move_deeper(Vm& vm, const policy::Move& move);
  double shallow_ratio() const { return spec_.shallow ? spec_.tiers[*spec_.shallow].ratio : 0; }
  void sample(Vm& vm, std::vector<policy::AccessSample>& samples);
  void observe(Vm& vm);

  HostSpec spec_;
  policy::PolicyConfig config_;
  policy::Engine engine_;
  policy::Plan plan_;
  load::Random random_;
  double seconds_ = 0;
  std::uint32_t next_id_ = 1;
  std::vector<std::unique_ptr<Vm>> vms_;
};

}  // namespace tidepool::simulator
