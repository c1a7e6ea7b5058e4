// What ends by itself: offers that nobody confirmed, lives that are over, what was forgotten.
#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

// A forgotten host goes with its last VM. True: more than fits into this call.
bool drop_host(State& state, Host& host) {
  for (auto vm = host.vms.begin(); vm != host.vms.end();) {
    if (state.budget() < 3) return true;
    drop_if_over(state, (vm++)->second);
  }
  if (!host.vms.empty()) return false;
  state.event("host-forgotten", "host " + host.record.name, "nothing of it is left");
  state.remove(host.record);
  state.hosts.erase(std::string(host.record.name));
  return false;
}

}  // namespace

// A VM without lives stays only for what an operator has set. True when it went.
bool drop_if_over(State& state, Vm& vm) {
  const bool forgotten = vm.record.forgotten || vm.host->record.forgotten;
  if (!vm.record.lives.empty() || (!forgotten && vm.record.bounds != BoundsRecord{})) return false;
  state.remove(vm.record);
  state.drop_claim(vm);
  --state.tenant_of(vm.record.tenant).vms;
  vm.host->vms.erase(std::string(vm.record.name));
  return true;
}

void end_offers(State& state) {
  while (!state.offers.empty() && state.offers.front().until <= state.context.now) {
    const Offer& offer = state.offers.front();
    if (state.budget() < offer.slices.size() + 2 && !state.changes.empty()) return;
    std::uint64_t ended = 0;
    for (const std::uint64_t id : offer.slices) {
      const auto found = state.slices.find(id);
      if (found == state.slices.end() || found->second.record.phase != SlicePhase::kOffered) continue;
      state.release(found->second);
      ++ended;
    }
    if (ended > 0)
      state.event("offer-ended", "host " + offer.host, std::to_string(ended) + " slices were not confirmed in time");
    state.offers.pop_front();
  }
}

bool end_lives(State& state) {
  while (!state.ending.empty()) {
    const HolderId holder = *state.ending.begin();
    const auto found = state.lives.find(holder);
    if (found == state.lives.end() || !state.ended(found->second)) {
      state.ending.erase(holder);
      continue;
    }
    Life& life = found->second;
    const std::vector<std::uint64_t> ids(life.slices.begin(), life.slices.end());
    for (const std::uint64_t id : ids) {
      if (state.budget() < 3) return true;
      if (const auto slice = state.slices.find(id); slice != state.slices.end()) state.release(slice->second);
    }
    if (state.budget() < 3) return true;
    state.ending.erase(holder);
    if (!life.slices.empty()) continue;  // servers have to confirm; the last one brings it here again
    Vm& vm = *life.vm;
    std::erase_if(vm.record.lives, [&](const LifeRecord& each) { return each.holder == holder; });
    state.lives.erase(found);
    state.save(vm.record);
    drop_if_over(state, vm);
  }
  for (auto host = state.hosts.begin(); host != state.hosts.end();) {
    Host& each = (host++)->second;
    if (each.record.forgotten && drop_host(state, each)) return true;
  }
  return false;
}

}  // namespace tidepool::pool::controller
