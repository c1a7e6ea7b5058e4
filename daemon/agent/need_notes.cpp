#include "daemon/agent/need_notes.h"

#include <pthread.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <utility>

#include "base/text.h"
#include "service/log.h"

namespace tidepool::daemon {
namespace {

// As often as policy has news of what VMs need.
constexpr auto kNotingPeriod = std::chrono::minutes(1);
constexpr auto kSavingPeriod = std::chrono::minutes(10);

// Nothing forbids two VMs to claim one UUID, nor one after the other to bear one name: they share a history.
std::string key_of(const ManagedVm& vm) {
  return vm.uuid.empty() ? vm.name : vm.uuid;
}

}  // namespace

void NeedNotes::open() {
  path_ = context_.config().policy.need_archive;
  if (path_.empty()) return;
  auto archive = NeedArchive::load(path_);
  if (!archive) {
    spdlog::warn("msg=\"what VMs need is not kept\" error={}", in_quotes(archive.error().message()));
    return;
  }
  if (archive->lost() != 0) spdlog::warn("msg=\"lines that make no sense\" file={} lines={}", path_, archive->lost());
  archive_ = std::move(*archive);
  open_ = true;
  next_saving_ = context_.clock.now() + kSavingPeriod;
  writer_ = std::thread([this] { write_when_asked(); });
  ::pthread_setname_np(writer_.native_handle(), "needs");
}

void NeedNotes::remember(const std::function<void(VmId, const std::string&)>& give) {
  if (!open_) return;
  std::set<VmId> here;
  for (const auto& vm : context_.vms.all()) {
    const VmId id = vm->number();
    here.insert(id);
    if (here_.contains(id)) continue;
    next_noting_ = MonoTime{};  // what it needed must be known when it has gone
    if (const std::string need = archive_.find(key_of(*vm)); !need.empty()) give(id, need);
  }
  here_ = std::move(here);
}

void NeedNotes::note(const std::function<std::string(VmId)>& history_of) {
  if (!open_) return;
  const MonoTime at = context_.clock.now();
  if (at < next_noting_) return;
  next_noting_ = at + kNotingPeriod;
  const auto now =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch());
  for (const auto& vm : context_.vms.all()) archive_.put(key_of(*vm), history_of(vm->number()), now.count());
  if (at >= next_saving_) save();
}

void NeedNotes::save() {
  next_saving_ = context_.clock.now() + kSavingPeriod;
  const std::lock_guard lock(mutex_);
  text_ = archive_.text();
  asked_.notify_one();
}

void NeedNotes::close() {
  if (!std::exchange(open_, false)) return;
  save();
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    asked_.notify_one();
  }
  writer_.join();
}

void NeedNotes::write_when_asked() {
  std::unique_lock lock(mutex_);
  for (;;) {
    asked_.wait(lock, [this] { return text_ || closing_; });
    if (!text_) return;
    const std::string text = *std::exchange(text_, std::nullopt);
    lock.unlock();
    if (const auto written = NeedArchive::write(path_, text); !written)
      spdlog::warn("msg=\"what VMs need is not kept\" error={}", in_quotes(written.error().message()));
    lock.lock();
  }
}

}  // namespace tidepool::daemon
