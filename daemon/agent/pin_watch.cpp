#include "daemon/agent/pin_watch.h"

#include <set>

#include "base/quantity_text.h"
#include "kmod-interfaces/process.h"

namespace tidepool::daemon {

void PinWatch::look_at_all() {
  const auto vms = context_.vms.paged();
  std::set<ProcessIdentity> known;
  for (const auto& vm : vms) {
    for (const auto& placed : vm->footholds) known.insert(placed.id);
    known.insert(vm->id);
    if (!vm->memory->dead && !vm->memory->releasing) look_at(*vm);
  }
  std::erase_if(before_, [&](const auto& each) { return !known.contains(each.first); });
}

void PinWatch::look_at(ManagedVm& vm) {
  before_.try_emplace(vm.id, vm.pinned_before);
  std::set<ProcessIdentity> processes{vm.id};
  for (const auto& placed : vm.footholds) processes.insert(placed.id);
  Bytes since;
  for (const ProcessIdentity& id : processes) {
    const auto process = kernel::Process::open(context_.roots, id.pid);
    if (!process || process->id() != id) continue;
    const auto status = process->status();
    if (!status) return;
    const Bytes now = status->pinned + status->locked;
    const Bytes before = before_.try_emplace(id, now).first->second;
    if (now > before) since += now - before;
  }
  const std::lock_guard lock(vm.mutex);
  if ((since == Bytes{}) == (vm.pinned == Bytes{})) {
    vm.pinned = since;
    return;
  }
  vm.pinned = since;
  vm.settle_demotion();
  context_.event(vm.name, since == Bytes{} ? "unpinned" : "pinned",
                 since == Bytes{} ? "" : short_text(since) + " are pinned or locked since adoption: nothing more goes");
}

}  // namespace tidepool::daemon
