#include "policy/planner.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/quantity_text.h"
#include "policy/admission.h"
#include "policy/arbiter.h"

namespace tidepool::policy {
namespace {

constexpr Bytes kRegion{kRegionPages * kPageSize};
constexpr double kPriceMemory = 60;    // seconds in which the price of DRAM falls to a third when it is not scarce
constexpr double kLimitSlack = 0.05;   // of a limit, at most kept free for what is about to come in
constexpr double kPriceFollows = 4.5;  // seconds in which it comes near to what pages that go are worth
constexpr double kDearer = 1.25;       // what a page of DRAM is worth under a limit that is not kept, per second
constexpr double kLeastPrice = 1e-8;   // from which it rises, in seconds of waiting per second
constexpr double kMostPrice = 1;
constexpr double kDeeperShare = 0.01;   // of a VM's resident memory, at most on its way from one tier to another
constexpr UnitMask kCanaryUnits = 0xf;  // a quarter of a MiB

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, value < 10 ? "%.2g" : "%.0f", value);
  return text;
}

double as_double(Bytes bytes) {
  return static_cast<double>(bytes.value);
}

}  // namespace

Planner::Planner(const HostView& host, std::span<VmState* const> vms, const Moment& now, double passed,
                 PlannerState& state, const PolicyConfig& config)
    : host_(host),
      vms_(vms),
      now_(now),
      passed_(passed),
      state_(state),
      config_(config),
      tiers_(host.tiers, state.dram_price),
      demotions_left_(config.max_regions_per_tick),
      restores_left_(config.max_regions_per_tick) {
  refill();
  // Whatever the mode of its VM: it takes the pool's room and wants to come home in every one.
  Bytes far;
  Bytes ordered;
  for (const VmState* vm : vms_) {
    far += vm->terms.far + vm->terms.leaving;
    ordered += saturating_sub(going(*vm), vm->terms.leaving);
  }
  far_ceiling_ = saturating_sub(host.max_far, far + ordered);
  std::uint32_t under_way = 0;
  for (const VmState* vm : vms_) under_way += vm->heat.pending_moves();
  demotions_left_ = std::min(demotions_left_, config.moves_under_way - std::min(config.moves_under_way, under_way));
  evacuable_ = !host.require_evacuable || evacuation(host, far, Bytes{}).shortfall == Bytes{};
  spare_ = host.available;
  state_.dram_price *= std::exp(-passed_ / kPriceMemory);
  for (VmState* vm : vms_) vm->limit_price *= std::exp(-passed_ / kPriceMemory);
}

void Planner::refill() {
  const auto fill = [&](double& tokens, Bytes per_second) {
    const double rate = as_double(per_second);
    // A burst of two seconds at most, but always enough for one region.
    tokens = std::min(std::max(2 * rate, as_double(kRegion)), tokens + rate * std::clamp(passed_, 0.0, 2.0));
  };
  fill(state_.demote_tokens, config_.demote_per_second);
  fill(state_.restore_tokens, config_.restore_per_second);
}

Bytes Planner::in_dram(const VmState& vm) const {
  const Bytes paper = vm.terms.mode == Mode::kDryRun ? to_bytes(PageCount{vm.heat.far_pages()}) : Bytes{};
  return saturating_sub(saturating_sub(vm.terms.resident, going(vm)), paper);
}

Bytes Planner::going(const VmState& vm) {
  return std::max(vm.terms.leaving, to_bytes(PageCount{vm.heat.pending_pages()}));
}

void Planner::run(const Pressure& pressure, Plan& plan) {
  const std::vector<Want> all = wants(pressure);
  const std::size_t count = vms_.size();
  const std::size_t first = count == 0 ? 0 : state_.turn++ % count;
  // What must go has the first call on the bandwidth; then everybody in turn.
  for (const bool forced : {true, false}) {
    for (std::size_t n = 0; n < count; ++n) {
      const std::size_t i = (first + n) % count;
      if ((all[i].amount > Bytes{}) == forced) plan_vm(*vms_[i], all[i], plan);
    }
  }
  for (std::size_t n = 0; n < count; ++n) go_deeper(*vms_[(first + n) % count], plan);
}

std::uint32_t Planner::demotions_left(const VmState& vm) const {
  const std::uint32_t own = vm.heat.pending_moves();
  return std::min(demotions_left_, config_.moves_under_way_per_vm - std::min(config_.moves_under_way_per_vm, own));
}

std::vector<Planner::Want> Planner::wants(const Pressure& pressure) {
  std::vector<Want> wants(vms_.size());
  for (std::size_t i = 0; i < vms_.size(); ++i) {
    const VmState& vm = *vms_[i];
    if (!vm.terms.limit) continue;
    // What is likely to come in before a move that begins now has freed anything.
    const double inflow = vm.heat.fault_rate() * vm.heat.move_seconds() * kPageSize;
    const Bytes slack = saturating_bytes(std::min(inflow, kLimitSlack * as_double(*vm.terms.limit)));
    wants[i] = {saturating_sub(against_limit(vm) + slack, *vm.terms.limit), Reason::kOverLimit, Pick::kAny};
  }
  if (pressure.level != PressureLevel::kNone && pressure.shortage > Bytes{}) share_among(pressure, wants);
  return wants;
}

void Planner::share_among(const Pressure& pressure, std::vector<Want>& wants) {
  const bool cold_only = pressure.level == PressureLevel::kTrimCold;
  std::vector<Claim> claims(vms_.size());
  for (std::size_t i = 0; i < vms_.size(); ++i) {
    const VmState& vm = *vms_[i];
    claims[i].pages = cold_only ? &vm.heat.ripe() : &vm.heat.movable();
    claims[i].worth = vm.terms.weight * vm.terms.fault_cost;
    const bool spared = vm.terms.held || (cold_only && vm.stall.over());
    if (counts(vm) && !spared) claims[i].surplus = saturating_sub(in_dram(vm), vm.terms.guarantee);
  }
  // A demotion frees less than it moves where the tier takes DRAM itself.
  double surplus = 0;
  double freed = 0;
  for (std::size_t i = 0; i < vms_.size(); ++i) {
    surplus += as_double(claims[i].surplus);
    freed += as_double(claims[i].surplus) * tiers_.freed_per_byte(vms_[i]->terms.tiers);
  }
  freed = surplus > 0 ? freed / surplus : 1;
  // What is under way will have freed its part.
  Bytes under_way;
  for (const VmState* vm : vms_) {
    if (counts(*vm)) under_way += going(*vm);
  }
  const Bytes missing = saturating_sub(saturating_bytes(as_double(pressure.shortage) / freed), under_way);
  const Shares shares = share_shortage(claims, missing);
  if (missing > Bytes{}) state_.dram_price = std::max(state_.dram_price, shares.price);
  tiers_.set_dram_price(state_.dram_price);
  for (std::size_t i = 0; i < wants.size(); ++i) {
    if (shares.give[i] > wants[i].amount)
      wants[i] = {shares.give[i], Reason::kHostPressure, cold_only ? Pick::kRipe : Pick::kAny};
  }
}

// Then that is recorded.
bool Planner::stays_as_it_is(VmState& vm, Plan& plan) const {
  if (host_.frozen) {
    record(vm, nothing(vm, Reason::kFrozen), plan, [] { return "the host is frozen"; });
  } else if (host_.keeper_away) {
    record(vm, nothing(vm, Reason::kKeeperAway), plan,
           [] { return "the keeper, which holds what is far should the agent end, does not answer"; });
  } else if (vm.terms.held) {
    record(vm, nothing(vm, Reason::kHeld), plan, [] { return "held"; });
  }
  return host_.frozen || host_.keeper_away || vm.terms.held;
}

void Planner::plan_vm(VmState& vm, const Want& want, Plan& plan) {
  if (stays_as_it_is(vm, plan)) return;
  if (restore_guarantee(vm, plan)) return;
  // What a tenant was promised outranks what an operator would like to have free, but not the host's life.
  const bool waits_too_much = vm.stall.over() || vm.stall.paused(now_.tenths);
  if (want.amount > Bytes{} && (want.reason == Reason::kHostPressure || !waits_too_much)) return force(vm, want, plan);
  if (vm.stall.over()) return promote_back(vm, plan);
  if (vm.stall.paused(now_.tenths)) {
    return record(vm, nothing(vm, Reason::kStallBudget), plan, [&] {
      return "stall was above its budget of " + share_text(vm.terms.budget) + ": waiting another " +
             std::to_string((vm.stall.paused_until() - now_.tenths) / 10) + " s";
    });
  }
  if (vm.pingpong.paused(now_.tenths)) {
    return record(vm, nothing(vm, Reason::kPingpong), plan, [&] {
      return std::to_string(vm.pingpong.returned()) + " of " + std::to_string(vm.pingpong.moved()) +
             " trimmed pages came back";
    });
  }
  trim(vm, plan);
}

bool Planner::restore_guarantee(VmState& vm, Plan& plan) {
  if (vm.terms.resident >= vm.terms.guarantee || vm.heat.far_pages() == 0) return false;
  const Bytes missing = saturating_sub(vm.terms.guarantee, vm.terms.resident);
  const Decision decision = restore(vm, Reason::kBelowGuarantee, missing, 0, plan);
  if (decision.reason == Reason::kNothingCold) return false;
  record(vm, decision, plan, [&] {
    return "resident " + short_text(vm.terms.resident) + ", guarantee " + short_text(vm.terms.guarantee) +
           (decision.regions == 0 ? ", available " + short_text(spare_) : "");
  });
  return true;
}

void Planner::promote_back(VmState& vm, Plan& plan) {
  // Worth it when the waits that it saves within the horizon cost more than the copy.
  const double horizon = std::chrono::duration<double>(config_.gate_horizon).count();
  const double copy = std::chrono::duration<double>(config_.restore_cost).count();
  const auto least = static_cast<float>(copy / std::max(1e-9, horizon * vm.terms.fault_cost));
  Bytes room = saturating_sub(host_.available, host_.reserve);
  if (vm.terms.limit) room = std::min(room, saturating_sub(*vm.terms.limit, against_limit(vm)));
  Decision decision = restore(vm, Reason::kPromoteBack, room, least, plan);
  const bool no_room = room < kRegion && vm.heat.far_pages() > 0;
  if (decision.regions == 0) decision = nothing(vm, Reason::kStallBudget);
  record(vm, decision, plan, [&] {
    return "stall " + short_share_text(vm.terms.stall) + ", budget " + share_text(vm.terms.budget) +
           (no_room && decision.regions == 0 ? "; no memory to bring more home" : "");
  });
}

Decision Planner::restore(VmState& vm, Reason reason, Bytes amount, float least_rate, Plan& plan) {
  const bool real = counts(vm);
  const Bytes bandwidth = saturating_bytes(state_.restore_tokens);
  const Bytes room = std::min({amount, spare_, bandwidth});
  vm.heat.most_missed({(room.value + kPageSize - 1) / kPageSize, restores_left_}, scratch_);
  Decision decision{vm.id, Action::kRestore, reason, 0, Bytes{}, !real, ""};
  const Bytes resident = against_limit(vm);
  for (const Candidate& candidate : scratch_) {
    const Bytes bytes = to_bytes(PageCount{candidate.pages});
    if (candidate.rate < least_rate || decision.bytes >= amount) break;
    if (decision.bytes + bytes > std::min(spare_, bandwidth)) continue;
    // A guarantee outranks a limit; waiting less does not.
    if (reason == Reason::kPromoteBack && vm.terms.limit && resident + decision.bytes + bytes > *vm.terms.limit) break;
    decision.bytes += bytes;
    ++decision.regions;
    if (vm.terms.mode == Mode::kObserve) continue;
    vm.heat.note_restore(candidate);
    if (real)
      plan.restores.push_back({vm.id, candidate.id, candidate.units, candidate.pages, 0, reason, candidate.rate});
  }
  if (decision.regions == 0) {
    if (scratch_.empty() && room > Bytes{}) return nothing(vm, Reason::kNothingCold);
    return nothing(vm, std::min(amount, spare_) < kRegion ? Reason::kNoMemory : Reason::kRateLimit);
  }
  if (real) {
    spare_ = saturating_sub(spare_, decision.bytes);
    state_.restore_tokens -= as_double(decision.bytes);
    restores_left_ -= std::min(restores_left_, decision.regions);
  }
  return decision;
}

// Of its tiers, what there is for this VM: where room is leased to it, no more than is left of that.
Bytes Planner::tier_room(const VmState& vm) const {
  const LeasedRoom& leased = vm.terms.leased;
  return tiers_.room(vm.terms.tiers & ~leased.tiers) +
         std::min(tiers_.room(vm.terms.tiers & leased.tiers), leased.bytes);
}

int Planner::choose_tier(const VmState& vm, const Candidate& candidate) const {
  const LeasedRoom& leased = vm.terms.leased;
  const bool fits = to_bytes(PageCount{candidate.pages}) <= leased.bytes;
  return tiers_.choose(candidate.rate, candidate.pages, fits ? vm.terms.tiers : vm.terms.tiers & ~leased.tiers,
                       price_of(vm));
}

// The smallest bound decides, and names itself.
// The host's own need is not held up by what would not fit back: a demotion changes nothing of that.
Planner::Bound Planner::tightest(const VmState& vm, bool urgent) const {
  const Bound bounds[] = {{saturating_sub(in_dram(vm), vm.terms.guarantee), Reason::kGuarantee},
                          {evacuable_ || urgent ? Bytes{~0ull} : Bytes{}, Reason::kNotEvacuable},
                          {far_ceiling_, Reason::kFarCeiling},
                          {tier_room(vm), Reason::kPoolFull},
                          {saturating_bytes(state_.demote_tokens), Reason::kRateLimit}};
  return least(bounds);
}

Planner::Bound Planner::least(std::span<const Bound> bounds) {
  return *std::ranges::min_element(bounds, {}, &Bound::room);
}

void Planner::force(VmState& vm, const Want& want, Plan& plan) {
  const Bound bound = tightest(vm, want.reason == Reason::kHostPressure);
  const Bytes amount = std::min(want.amount, bound.room);
  const double freed = want.reason == Reason::kOverLimit ? 1 - shallow_part(vm) : 1;
  const auto pages = static_cast<std::uint64_t>(as_double(amount) / freed / kPageSize) + 1;
  vm.heat.coldest(want.pick, {pages, demotions_left(vm)}, scratch_);
  if (want.reason == Reason::kOverLimit) price_limit(vm);
  const Decision decision = demote(vm, want.reason, MoveKind::kForced, amount, bound, -1, plan);
  vm.heat.price_moves(decision.bytes < amount && demotions_left(vm) == 0);
  vm.must_give = amount > Bytes{};
  record(vm, decision, plan, [&] {
    if (decision.regions == 0) return bound_text(vm, decision.reason);
    std::string text =
        want.reason == Reason::kOverLimit
            ? "resident " + short_text(in_dram(vm) + decision.bytes) +
                  (vm.terms.shallow_dram > Bytes{} ? " and compressed " + short_text(vm.terms.shallow_dram) : "") +
                  ", limit " + short_text(*vm.terms.limit)
            : "its share of the host's shortage is " + short_text(want.amount);
    if (vm.stall.over())
      text += "; stall " + short_share_text(vm.terms.stall) + ", budget " + share_text(vm.terms.budget);
    return text;
  });
}

double Planner::faults_left(const VmState& vm) const {
  const double allowed = vm.terms.faults_allowed * config_.fault_headroom * vm.stall.trust();
  return std::max(0.0, allowed - vm.heat.fault_rate() - vm.predicted);
}

void Planner::trim(VmState& vm, Plan& plan) {
  const Bound bound = tightest(vm);
  const double measured = vm.heat.fault_rate();
  const double expected = vm.predicted;
  vm.heat.coldest(Pick::kRipe, {bound.room.value / kPageSize, demotions_left(vm)}, scratch_);
  const Decision decision = demote(vm, Reason::kCold, MoveKind::kTrim, Bytes{~0ull}, bound, faults_left(vm), plan);
  if (decision.reason == Reason::kNothingCold) return canaries(vm, plan);
  record(vm, decision, plan, [&] {
    if (decision.regions == 0 && decision.reason != Reason::kFaultBudget) return bound_text(vm, decision.reason);
    return "unused for " + std::to_string(vm.heat.ripe_age()) + " scan periods; " +
           number(vm.terms.faults_allowed * config_.fault_headroom * vm.stall.trust()) + " faults/s allowed, " +
           number(measured) + " measured, " + number(expected) + " expected";
  });
}

// Memory of which only writes are seen, or nothing: a part goes, and its far pages tell how it is used.
void Planner::canaries(VmState& vm, Plan& plan) {
  const Bound bound = tightest(vm);
  const Bytes share = std::max(kRegion, saturating_bytes(config_.canary_share * as_double(vm.terms.resident)));
  const Bytes unproven = to_bytes(PageCount{vm.heat.unproven_canaries()});
  const Bytes amount = saturating_sub(share, unproven);
  vm.heat.coldest(Pick::kUnknown, {(amount.value + kPageSize - 1) / kPageSize * 8, demotions_left(vm)}, scratch_);
  if (vm.terms.partial) {
    for (Candidate& candidate : scratch_) {
      // Another part of every region, and of the same region another time.
      const unsigned turn = (candidate.id.region * 5 + now_.period) % (kUnits / 4);
      candidate.units &= kCanaryUnits << (4 * turn);
      candidate.pages = static_cast<std::uint16_t>(std::min<unsigned>(candidate.pages, 4 * kUnitPages));
    }
    std::erase_if(scratch_, [](const Candidate& candidate) { return candidate.units == 0; });
  }
  const Decision decision = amount == Bytes{}
                                ? nothing(vm, Reason::kNothingCold)
                                : demote(vm, Reason::kCanary, MoveKind::kCanary, amount, bound, faults_left(vm), plan);
  record(vm, decision, plan, [&] {
    if (decision.regions > 0) {
      return "reads are not seen: a part goes and is watched; " + short_text(unproven) + " of " + short_text(share) +
             " were out";
    }
    if (decision.reason != Reason::kNothingCold) return bound_text(vm, decision.reason);
    return "no region is known to have been unused for " + std::to_string(vm.heat.ripe_age()) + " scan periods";
  });
}

Decision Planner::demote(VmState& vm, Reason reason, MoveKind kind, Bytes amount, const Bound& bound, double faults,
                         Plan& plan) {
  const std::vector<Candidate>& candidates = scratch_;
  const bool real = counts(vm);
  Decision decision{vm.id, Action::kDemote, reason, 0, Bytes{}, !real, ""};
  const std::uint32_t most = demotions_left(vm);
  Reason why_not = candidates.empty() ? Reason::kNothingCold : bound.reason;
  if (candidates.empty() && most == 0) why_not = Reason::kRateLimit;
  if (candidates.empty() && bound.room < Bytes{kPageSize}) why_not = bound.reason;
  double expected = 0;
  double going = 0;  // bytes
  for (const Candidate& candidate : candidates) {
    const Bytes bytes = to_bytes(PageCount{candidate.pages});
    if (going >= as_double(amount)) break;
    // Whole regions: the last one must fit entirely, so that no bound is ever exceeded.
    if (decision.bytes + bytes > bound.room) continue;
    const double uses = static_cast<double>(candidate.rate + candidate.doubt) * candidate.pages;
    if (faults >= 0 && expected + uses > faults) {
      why_not = Reason::kFaultBudget;
      break;
    }
    if (decision.regions >= most) {
      why_not = Reason::kRateLimit;
      break;
    }
    const int tier = choose_tier(vm, candidate);
    if (tier < 0) {
      why_not = Reason::kPoolFull;
      break;
    }
    expected += uses;
    const bool stays_in_part = reason == Reason::kOverLimit && vm.terms.shallow_tier == static_cast<unsigned>(tier);
    going += as_double(bytes) * candidate.success * (stays_in_part ? 1 - shallow_part(vm) : 1);
    decision.bytes += bytes;
    ++decision.regions;
    if (vm.terms.mode == Mode::kObserve) continue;
    vm.heat.note_demotion(candidate, kind);
    if (!real) continue;
    tiers_.take(tier, candidate.pages);
    LeasedRoom& leased = vm.terms.leased;
    if (((leased.tiers >> tier) & 1) != 0) leased.bytes = saturating_sub(leased.bytes, bytes);
    plan.demotions.push_back({vm.id, candidate.id, candidate.units, candidate.pages, static_cast<std::uint8_t>(tier),
                              reason, candidate.rate, kind == MoveKind::kForced && reason != Reason::kGroupLimit});
  }
  if (decision.regions == 0) return nothing(vm, why_not);
  if (vm.terms.mode != Mode::kObserve && kind != MoveKind::kForced) vm.predicted += expected;
  if (real) {
    far_ceiling_ = saturating_sub(far_ceiling_, decision.bytes);
    state_.demote_tokens -= as_double(decision.bytes);
    demotions_left_ -= std::min(demotions_left_, decision.regions);
  }
  return decision;
}

// A limit is one: while it is not kept, and what is in the shallow tier has a part in that, DRAM becomes dearer.
void Planner::price_limit(VmState& vm) const {
  if (!scratch_.empty()) {
    // At home the dearest page that goes would save its waits in the tier that suits it best, and what it takes there.
    const float rate = scratch_.back().rate;
    const double worth = static_cast<double>(rate) * tiers_.fault_cost(rate, vm.terms.tiers) / (1 - shallow_part(vm));
    vm.limit_price += (worth - vm.limit_price) * (1 - std::exp(-passed_ / kPriceFollows));
  }
  const double limit = as_double(*vm.terms.limit);
  if (as_double(against_limit(vm)) > (1 + kLimitSlack) * limit &&
      as_double(vm.terms.shallow_dram) > kLimitSlack * limit)
    vm.limit_price = std::min(std::max(vm.limit_price, kLeastPrice) * std::pow(kDearer, passed_), kMostPrice);
}

double Planner::price_of(const VmState& vm) const {
  return vm.terms.shallow_tier ? vm.limit_price : 0;
}

// Of what goes to the shallow tier, what goes on to count against the limit.
double Planner::shallow_part(const VmState& vm) const {
  return vm.terms.shallow_tier ? std::min(0.9, tiers_.excess(*vm.terms.shallow_tier, vm.terms.tiers)) : 0;
}

// What went to a tier that takes DRAM, and proved to be used too seldom to be worth that, goes on to one that takes
// less. Nothing becomes less resident by it, so no guarantee is touched; but a fault becomes dearer.
void Planner::go_deeper(VmState& vm, Plan& plan) {
  const bool stays = host_.frozen || host_.keeper_away || vm.terms.held || vm.terms.mode != Mode::kActive;
  if (stays || !vm.terms.shallow_tier || vm.terms.shallow_dram == Bytes{}) return;
  if (vm.stall.over() || vm.stall.paused(now_.tenths)) return;
  const TierChooser::Further further = tiers_.further(*vm.terms.shallow_tier, vm.terms.tiers, price_of(vm));
  // They come home on their way, and must not push anything else out by that.
  const Bytes share = std::max(kRegion + kRegion, saturating_bytes(kDeeperShare * as_double(vm.terms.resident)));
  const Bytes room = std::min(share, saturating_bytes(state_.demote_tokens));
  if (further.tier < 0 || room < kRegion) return;
  vm.heat.coldest_shallow(further.below, {room.value / kPageSize, demotions_left(vm)}, scratch_);
  Decision decision{vm.id, Action::kDemote, Reason::kDeeper, 0, Bytes{}, false, ""};
  for (const Candidate& candidate : scratch_) {
    const Bytes bytes = to_bytes(PageCount{candidate.pages});
    if (decision.bytes + bytes > room) break;
    LeasedRoom& leased = vm.terms.leased;
    if (((leased.tiers >> further.tier) & 1) != 0) {
      if (bytes > leased.bytes) break;
      leased.bytes = saturating_sub(leased.bytes, bytes);
    }
    decision.bytes += bytes;
    ++decision.regions;
    vm.heat.note_deeper(candidate.id);
    tiers_.take(further.tier, candidate.pages);
    plan.demotions.push_back({vm.id, candidate.id, candidate.units, candidate.pages,
                              static_cast<std::uint8_t>(further.tier), Reason::kDeeper, candidate.rate, false});
  }
  if (decision.regions == 0) return;
  state_.demote_tokens -= as_double(decision.bytes);
  demotions_left_ -= std::min(demotions_left_, decision.regions);
  decision.detail = "used less than once in " + number(1 / static_cast<double>(further.below)) +
                    " s each; a page of DRAM is worth " + number(1e6 * std::max(price_of(vm), state_.dram_price)) +
                    " us of waiting per second";
  // Before what else was decided for the VM, which says how things stand.
  plan.decisions.insert(plan.decisions.begin(), decision);
}

std::string Planner::bound_text(const VmState& vm, Reason reason) const {
  switch (reason) {
    case Reason::kGuarantee:
      return "resident " + short_text(in_dram(vm)) + ", guarantee " + short_text(vm.terms.guarantee);
    case Reason::kFarCeiling:
      return "far memory has reached safety.max_far, " + short_text(host_.max_far);
    case Reason::kPoolFull: {
      std::string text;
      for (std::size_t i = 0; i < host_.tiers.size() && i < 32; ++i) {
        const TierView& tier = host_.tiers[i];
        if (((vm.terms.tiers >> i) & 1) == 0) continue;
        text += (text.empty() ? "" : "; ") + tier.name + " used " + short_text(tier.used) + " of " +
                short_text(tier.capacity);
        if (((vm.terms.leased.tiers >> i) & 1) != 0)
          text += ", " + short_text(vm.terms.leased.bytes) + " left of the lease";
      }
      return text.empty() ? "there is no tier for its pages" : text;
    }
    case Reason::kNotEvacuable:
      return "what is far would not fit back: available " + short_text(host_.available) + ", reserve " +
             short_text(host_.reserve);
    case Reason::kRateLimit:
      return short_text(config_.demote_per_second) + " per second, " + std::to_string(vm.heat.pending_moves()) +
             " moves under way";
    default:
      return {};
  }
}

Decision Planner::nothing(const VmState& vm, Reason reason) {
  return {vm.id, Action::kNone, reason, 0, Bytes{}, vm.terms.mode != Mode::kActive, {}};
}

}  // namespace tidepool::policy
