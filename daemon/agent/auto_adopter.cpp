#include "daemon/agent/auto_adopter.h"

#include <pthread.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>

#include "daemon/agent/process_search.h"
#include "daemon/vm/vm_name.h"
#include "kmod-interfaces/proc_text.h"
#include "service/log.h"

namespace tidepool::daemon {

bool Refusals::due(const kernel::ProcessId& id, const std::string& exe, std::uint64_t search) const {
  const auto known = by_process_.find(id);
  return known == by_process_.end() || known->second.exe != exe || search >= known->second.next;
}

bool Refusals::add(const kernel::ProcessId& id, const std::string& exe, const std::string& name,
                   const std::string& reason, std::uint64_t search) {
  Refusal& refusal = by_process_[id];
  if (refusal.exe != exe) refusal = Refusal{.exe = exe, .name = {}, .reason = {}, .times = 0, .next = 0};
  refusal.name = name;
  // 2, 4, 8, ... searches later.
  const unsigned pause = refusal.times < 6 ? 2u << refusal.times : kLongestPause;
  refusal.next = search + std::min(pause, kLongestPause);
  ++refusal.times;
  return std::exchange(refusal.reason, reason) != reason;
}

std::vector<RefusedProcess> Refusals::list() const {
  std::vector<RefusedProcess> all;
  for (const auto& [id, refusal] : by_process_) all.push_back({refusal.name, id.pid, refusal.exe, refusal.reason});
  std::ranges::stable_sort(all, {}, &RefusedProcess::name);
  return all;
}

void Refusals::keep(const std::set<kernel::ProcessId>& running) {
  std::erase_if(by_process_, [&](const auto& item) { return !running.contains(item.first); });
}

void AutoAdopter::start() {
  thread_ = std::thread([this] { run(); });
  ::pthread_setname_np(thread_.native_handle(), "auto-adopt");
}

void AutoAdopter::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void AutoAdopter::pause(bool on) {
  std::unique_lock lock(mutex_);
  paused_ = on;
  wake_.notify_all();
  wake_.wait(lock, [&] { return !on || !searching_ || stopping_; });
}

void AutoAdopter::configuration_changed() {
  const std::lock_guard lock(mutex_);
  changed_ = true;
  released_.clear();
  wake_.notify_all();
}

void AutoAdopter::leave_alone(const kernel::ProcessId& id) {
  const std::lock_guard lock(mutex_);
  released_.insert(id);
}

void AutoAdopter::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const Config config = context_.config();
    if (config.adopt.automatic && !paused_) {
      searching_ = true;
      if (std::exchange(changed_, false)) refusals_.clear();
      lock.unlock();
      search(config);
      lock.lock();
      searching_ = false;
      wake_.notify_all();
    }
    wake_.wait_for(lock, config.adopt.scan_interval, [&] { return stopping_ || (changed_ && !paused_); });
    if (!context_.config().adopt.automatic) {
      changed_ = false;
      refused_.clear();
    }
  }
}

// All processes are looked at, cheapest question first: most are answered by the name of their program.
void AutoAdopter::search(const Config& config) {
  if (!context_.clerk->holding()) return;  // later
  const auto pids = all_processes(context_.roots);
  if (!pids) {
    spdlog::warn("msg=\"no search for processes to adopt\" error={}", in_quotes(pids.error().message()));
    return;
  }
  const std::uint64_t number = ++searches_;
  std::set<kernel::ProcessId> running;
  for (const pid_t pid : *pids) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_ || paused_) return;
    }
    const auto process = kernel::Process::open(context_.roots, pid);
    if (!process) continue;
    running.insert(process->id());
    const auto found = match(*process, config);
    if (!found) {
      refusals_.remove(process->id());
    } else if (refusals_.due(found->id, found->exe, number)) {
      adopt(*found, number);
    }
  }
  refusals_.keep(running);
  const std::lock_guard lock(mutex_);
  refused_ = refusals_.list();
  std::erase_if(released_, [&](const kernel::ProcessId& id) { return !running.contains(id); });
}

std::vector<RefusedProcess> AutoAdopter::refused() const {
  const std::lock_guard lock(mutex_);
  return refused_;
}

std::optional<AutoAdopter::Match> AutoAdopter::match(const kernel::Process& process, const Config& config) const {
  const pid_t pid = process.id().pid;
  if (pid == ::getpid() || pid == context_.clerk->holder_pid()) return std::nullopt;
  const auto exe = process.executable();
  if (!exe) return std::nullopt;  // a kernel thread, or gone
  const std::string path = without_deleted(*exe);
  const auto allows = [&](const std::string& glob) { return kernel::matches_glob(glob, path); };
  if (std::ranges::none_of(config.adopt.allow_exe, allows)) return std::nullopt;
  const auto stat = process.stat();
  if (!stat || stat->is_kernel_thread() || stat->is_zombie()) return std::nullopt;
  // Served already; so are the children of what is served: they came with it, or were forked from it.
  if (context_.vms.find(process.id()) != nullptr || is_served(stat->parent)) return std::nullopt;
  const auto arguments = process.command_line();
  if (!arguments) return std::nullopt;
  const std::string name = vm_name(*exe, *arguments, stat->comm, pid);
  if (first_rule(config.rules, rule_subject(process, name, *exe)) == nullptr) return std::nullopt;
  return Match{process.id(), *exe, name};
}

bool AutoAdopter::is_served(pid_t pid) const {
  const auto process = kernel::Process::open(context_.roots, pid);
  return process && context_.vms.find(process->id()) != nullptr;
}

void AutoAdopter::adopt(const Match& match, std::uint64_t number) {
  {
    const std::lock_guard lock(mutex_);
    if (released_.contains(match.id)) return;
  }
  AdoptRequest request;
  request.pid = match.id.pid;
  const auto vm = adopter_.adopt(request, VmOrigin::kRule, nullptr);
  if (vm) {
    refusals_.remove(match.id);
    spdlog::info("msg=adopted by=rule vm={} pid={}", (*vm)->name, match.id.pid);
    return;
  }
  const std::string reason = vm.error().message();
  if (!refusals_.add(match.id, match.exe, match.name, reason, number)) return;
  spdlog::warn("msg=\"not adopted by rule\" vm={} pid={} error={}", match.name, match.id.pid, in_quotes(reason));
  context_.event(match.name, "refused", "pid " + std::to_string(match.id.pid) + " matches a rule: " + reason);
}

}  // namespace tidepool::daemon
