#include "policy/plan.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "base/quantity_text.h"

namespace tidepool::policy {
namespace {

constexpr Bytes kRegion{2ull << 20};

struct Candidate {
  std::uint32_t age = 0;  // seconds since it was touched
  float heat = 0;
  RegionId id;
  std::uint16_t pages = 0;
  std::uint8_t backoff = 0;
};

bool colder(const Candidate& a, const Candidate& b) {
  // Age counts in doublings of its back-off: a region that came back too soon looks younger each time.
  const std::uint32_t age_a = a.age >> a.backoff;
  const std::uint32_t age_b = b.age >> b.backoff;
  if (age_a != age_b) return age_a > age_b;
  if (a.heat != b.heat) return a.heat < b.heat;
  return a.id < b.id;
}

std::uint32_t seconds(Nanoseconds time) {
  return static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(time).count());
}

Bytes at_most(double bytes) {
  return Bytes{bytes <= 0 ? 0 : static_cast<std::uint64_t>(bytes)};
}

// What is left of the host's bounds while VMs are planned one after the other.
struct HostRoom {
  Bytes far_ceiling;  // more that may become far
  Bytes pool;         // more page bytes that the pool should take
  Bytes tokens;
  bool evacuable = true;
};

class Planner {
 public:
  Planner(const Snapshot& snapshot, PolicyState& state, const PolicyConfig& config)
      : snapshot_(snapshot), state_(state), config_(config) {}

  Plan run() {
    refill();
    const HostView& host = snapshot_.host;
    Bytes far;
    for (const VmView& vm : snapshot_.vms) far += vm.far;
    room_.far_ceiling = saturating_sub(host.max_far, far);
    const double ratio = std::clamp(host.pool_ratio, 0.01, 1.0);
    room_.pool = at_most(static_cast<double>(saturating_sub(host.pool_capacity, host.pool_used).value) / ratio);
    room_.tokens = at_most(state_.demote_tokens);
    room_.evacuable = !host.require_evacuable || evacuation(host, far, Bytes{1}).shortfall == Bytes{};
    shortage_ = saturating_sub(host.reserve, host.available);
    for (const VmView& vm : snapshot_.vms) surplus_ += saturating_sub(vm.resident, vm.guarantee);
    for (const VmView& vm : snapshot_.vms) plan_vm(vm, history_of(vm.id));
    forget_departed();
    return std::move(plan_);
  }

 private:
  struct Want {
    Bytes amount;
    Reason reason;
    bool only_cold;
  };

  void refill() {
    const double passed =
        state_.last_tick == MonoTime{} ? 1.0 : std::chrono::duration<double>(snapshot_.now - state_.last_tick).count();
    state_.last_tick = snapshot_.now;
    const auto rate = static_cast<double>(config_.demote_per_second.value);
    // A burst of two seconds at most, but always enough for one region.
    state_.demote_tokens = std::min(std::max(2 * rate, static_cast<double>(kRegion.value)),
                                    state_.demote_tokens + rate * std::clamp(passed, 0.0, 2.0));
  }

  VmHistory& history_of(VmId id) {
    auto found = std::lower_bound(state_.vms.begin(), state_.vms.end(), id,
                                  [](const VmHistory& h, VmId wanted) { return h.id < wanted; });
    if (found == state_.vms.end() || found->id != id) {
      found = state_.vms.insert(found, VmHistory{});
      found->id = id;
    }
    return *found;
  }

  void forget_departed() {
    std::erase_if(state_.vms, [&](const VmHistory& history) {
      return std::none_of(snapshot_.vms.begin(), snapshot_.vms.end(),
                          [&](const VmView& vm) { return vm.id == history.id; });
    });
  }

  void plan_vm(const VmView& vm, VmHistory& history) {
    const std::uint32_t now = seconds(snapshot_.now.since_boot);
    observe(vm, now, config_, history);
    if (snapshot_.host.frozen) return record(history, nothing(vm, Reason::kFrozen, "the host is frozen"));
    if (vm.held) return record(history, nothing(vm, Reason::kHeld, "held"));
    if (restore_guarantee(vm, history)) return;
    // A budget of all its time is none: the sum over its threads may be more.
    if (vm.stall_budget < 1 && vm.stall > vm.stall_budget)
      pause(history, now, config_.stall_pause, Reason::kStallBudget);
    check_pingpong(history, now);
    const Want wanted = want(vm);
    // An order of the operator, or the host's need, outranks our own doubts about what is cold; it does not outrank the
    // stall budget.
    const bool doubts_count = wanted.only_cold || history.pause_reason == Reason::kStallBudget;
    if (now < history.paused_until && doubts_count)
      return record(history, nothing(vm, history.pause_reason, pause_detail(vm, history)));
    demote(vm, history, wanted, now);
  }

  static std::string pause_detail(const VmView& vm, const VmHistory& history) {
    if (history.pause_reason == Reason::kStallBudget) {
      return "stall " + short_share_text(vm.stall) + " of the last seconds, budget " + share_text(vm.stall_budget);
    }
    return std::to_string(history.pause_regretted) + " of " + std::to_string(history.pause_moved) +
           " demoted regions came back";
  }

  static void pause(VmHistory& history, std::uint32_t now, Nanoseconds time, Reason reason) {
    history.paused_until = std::max(history.paused_until, now + std::max<std::uint32_t>(1, seconds(time)));
    history.pause_reason = reason;
  }

  void check_pingpong(VmHistory& history, std::uint32_t now) {
    RegretCount& r = history.regrets;
    const std::uint32_t moved = r.moved[0] + r.moved[1];
    const std::uint32_t regretted = r.regretted[0] + r.regretted[1];
    if (moved < config_.pingpong_min_regions || regretted <= config_.pingpong_share * moved) return;
    pause(history, now, config_.pingpong_pause, Reason::kPingpong);
    history.pause_moved = moved;
    history.pause_regretted = regretted;
    r = RegretCount{{0, 0}, {0, 0}, now};
  }

  bool restore_guarantee(const VmView& vm, VmHistory& history) {
    if (vm.resident >= vm.guarantee || vm.far == Bytes{}) return false;
    const Bytes missing = std::min(vm.guarantee - vm.resident, vm.far);
    std::vector<Candidate> hot;
    for_each_region(vm, history, [&](const RegionObservation& seen, const Candidate& candidate) {
      if (seen.far == 0) return;
      hot.push_back(candidate);
      hot.back().pages = seen.far;
    });
    std::sort(hot.begin(), hot.end(), [](const Candidate& a, const Candidate& b) { return colder(b, a); });
    Decision decision{vm.id,
                      Action::kRestore,
                      Reason::kBelowGuarantee,
                      0,
                      Bytes{},
                      vm.mode == Mode::kObserve,
                      "resident " + short_text(vm.resident) + ", guarantee " + short_text(vm.guarantee)};
    for (const Candidate& candidate : hot) {
      if (decision.bytes >= missing || decision.regions >= config_.max_regions_per_tick) break;
      decision.bytes += to_bytes(PageCount{candidate.pages});
      ++decision.regions;
      if (!decision.would) plan_.restores.push_back({vm.id, candidate.id, Reason::kBelowGuarantee});
    }
    record(history, decision);
    return true;
  }

  template <class Callback>
  void for_each_region(const VmView& vm, const VmHistory& history, Callback&& callback) const {
    const std::uint32_t now = seconds(snapshot_.now.since_boot);
    for (std::size_t i = 0; i < vm.objects.size(); ++i) {
      const ObjectView& object = vm.objects[i];
      for (std::size_t r = 0; r < object.regions.size(); ++r) {
        const RegionHistory& memory = history.objects[i][r];
        callback(
            object.regions[r],
            Candidate{
                now - memory.last_touch, memory.heat, {object.object, r}, object.regions[r].resident, memory.backoff});
      }
    }
  }

  Want want(const VmView& vm) const {
    const Bytes over_limit = vm.limit ? saturating_sub(vm.resident, *vm.limit) : Bytes{};
    const Bytes surplus = saturating_sub(vm.resident, vm.guarantee);
    // Everyone above its guarantee gives in proportion to what it has above it.
    const Bytes share = surplus_ == Bytes{}
                            ? Bytes{}
                            : at_most(static_cast<double>(shortage_.value) * static_cast<double>(surplus.value) /
                                      static_cast<double>(surplus_.value));
    if (over_limit != Bytes{} && over_limit >= share) return {over_limit, Reason::kOverLimit, false};
    if (share != Bytes{}) return {share, Reason::kHostPressure, false};
    return {vm.resident, Reason::kCold, true};
  }

  void demote(const VmView& vm, VmHistory& history, const Want& wanted, std::uint32_t now) {
    const Bytes surplus = saturating_sub(vm.resident, vm.guarantee);
    // The smallest bound decides, and names itself.
    struct Bound {
      Bytes room;
      Reason reason;
    };
    const Bound bounds[] = {{surplus, Reason::kGuarantee},
                            {room_.evacuable ? Bytes{~0ull} : Bytes{}, Reason::kNotEvacuable},
                            {room_.far_ceiling, Reason::kFarCeiling},
                            {room_.pool, Reason::kPoolFull},
                            {room_.tokens, Reason::kRateLimit}};
    const Bound tightest = *std::min_element(std::begin(bounds), std::end(bounds),
                                             [](const Bound& a, const Bound& b) { return a.room < b.room; });
    const Bytes budget = std::min(wanted.amount, tightest.room);

    const std::uint32_t min_age = std::max<std::uint32_t>(1, seconds(vm.min_cold_age));
    std::vector<Candidate> candidates;
    for_each_region(vm, history, [&](const RegionObservation& seen, const Candidate& candidate) {
      const std::uint16_t movable =
          static_cast<std::uint16_t>(seen.resident - std::min(seen.resident, seen.incompressible));
      if (movable == 0) return;
      if (wanted.only_cold && (candidate.age >> candidate.backoff) < min_age) return;
      candidates.push_back(candidate);
    });
    if (candidates.empty())
      return record(history,
                    nothing(vm, Reason::kNothingCold, "no region untouched for " + std::to_string(min_age) + " s"));

    select_coldest(candidates, budget);
    Decision decision{vm.id, Action::kDemote, wanted.reason, 0, Bytes{}, vm.mode == Mode::kObserve, ""};
    for (const Candidate& candidate : candidates) {
      const Bytes bytes = to_bytes(PageCount{candidate.pages});
      // Whole regions: the last one must fit entirely, so that no bound is ever exceeded.
      if (decision.bytes + bytes > budget && decision.bytes + bytes > tightest.room) continue;
      if (decision.bytes >= budget || decision.regions >= config_.max_regions_per_tick) break;
      decision.bytes += bytes;
      ++decision.regions;
      if (decision.would) continue;
      plan_.demotions.push_back({vm.id, candidate.id, wanted.reason});
      history.objects[object_position(vm, candidate.id.object)][candidate.id.region].demoted_at = now;
      ++history.regrets.moved[0];
    }
    if (decision.regions == 0) return record(history, nothing(vm, tightest.reason, bound_detail(vm, tightest.reason)));
    if (!decision.would) {
      room_.far_ceiling = saturating_sub(room_.far_ceiling, decision.bytes);
      room_.pool = saturating_sub(room_.pool, decision.bytes);
      room_.tokens = saturating_sub(room_.tokens, decision.bytes);
      state_.demote_tokens -= static_cast<double>(decision.bytes.value);
    }
    decision.detail = "resident " + short_text(vm.resident) + ", guarantee " + short_text(vm.guarantee) +
                      (vm.limit ? ", limit " + short_text(*vm.limit) : std::string{});
    record(history, decision);
  }

  static std::size_t object_position(const VmView& vm, std::uint32_t object) {
    std::size_t position = 0;
    while (vm.objects[position].object != object) ++position;
    return position;
  }

  // The coldest regions that make up `budget`, in order; the rest is cut off without being sorted.
  void select_coldest(std::vector<Candidate>& candidates, Bytes budget) const {
    const std::uint64_t by_budget = budget.value / kPageSize + 1;  // a region has at least one page
    const std::size_t keep =
        std::min<std::uint64_t>({candidates.size(), config_.max_regions_per_tick * 2ull, by_budget});
    if (keep < candidates.size()) {
      std::nth_element(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(keep), candidates.end(),
                       colder);
      candidates.resize(keep);
    }
    std::sort(candidates.begin(), candidates.end(), colder);
  }

  std::string bound_detail(const VmView& vm, Reason reason) const {
    switch (reason) {
      case Reason::kGuarantee:
        return "resident " + short_text(vm.resident) + " is within the guarantee of " + short_text(vm.guarantee);
      case Reason::kFarCeiling:
        return "far memory has reached safety.max_far, " + short_text(snapshot_.host.max_far);
      case Reason::kPoolFull:
        return "pool used " + short_text(snapshot_.host.pool_used) + " of " + short_text(snapshot_.host.pool_capacity);
      case Reason::kNotEvacuable:
        return "what is far would not fit back: available " + short_text(snapshot_.host.available) + ", reserve " +
               short_text(snapshot_.host.reserve);
      default:
        return "rate limit of " + short_text(config_.demote_per_second) + " per second";
    }
  }

  static Decision nothing(const VmView& vm, Reason reason, std::string detail) {
    return {vm.id, Action::kNone, reason, 0, Bytes{}, vm.mode == Mode::kObserve, std::move(detail)};
  }

  // Moves are always recorded; that nothing is done, only when the reason is a new one.
  void record(VmHistory& history, Decision decision) {
    const bool news = decision.action != Action::kNone || history.last.action != Action::kNone ||
                      history.last.reason != decision.reason || history.last.vm != decision.vm;
    history.last = decision;
    if (news) plan_.decisions.push_back(std::move(decision));
  }

  const Snapshot& snapshot_;
  PolicyState& state_;
  const PolicyConfig& config_;
  HostRoom room_;
  Bytes shortage_;
  Bytes surplus_;
  Plan plan_;
};

}  // namespace

Plan plan_tick(const Snapshot& snapshot, PolicyState& state, const PolicyConfig& config) {
  return Planner(snapshot, state, config).run();
}

Evacuation evacuation(const HostView& host, Bytes far, Bytes bandwidth_per_second) {
  Evacuation result;
  result.far = far;
  result.spare = saturating_sub(host.available, host.reserve);
  if (host.pool_is_dram) result.spare += host.pool_used;
  result.shortfall = saturating_sub(far, result.spare);
  if (bandwidth_per_second != Bytes{}) {
    const double time = static_cast<double>(far.value) / static_cast<double>(bandwidth_per_second.value);
    result.estimate = std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(std::min(time, 1e8)));
  }
  return result;
}

std::string_view word(Action action) {
  switch (action) {
    case Action::kDemote:
      return "demote";
    case Action::kRestore:
      return "restore";
    default:
      return "none";
  }
}

std::string_view word(Reason reason) {
  static constexpr std::string_view kWords[kReasonCount] = {
      "cold",     "over-limit",  "host-pressure", "below-guarantee", "nothing-cold", "guarantee", "stall-budget",
      "pingpong", "far-ceiling", "pool-full",     "not-evacuable",   "rate-limit",   "held",      "frozen"};
  return kWords[static_cast<unsigned>(reason)];
}

}  // namespace tidepool::policy
