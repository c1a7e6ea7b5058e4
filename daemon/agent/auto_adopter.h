// Adoption by rule (adopt.auto): looks for processes that a [[rule]] matches and adopts them without being told.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "daemon/agent/adopter.h"
#include "daemon/agent/context.h"
#include "daemon/control/agent_service.h"

namespace tidepool::daemon {

// What was refused is not tried again at every search, but ever more rarely; sooner when the process has become another
// program, or the configuration was read again. Pure.
class Refusals {
 public:
  static constexpr unsigned kLongestPause = 64;  // searches

  // Whether it should be tried in search number `search`.
  bool due(const kernel::ProcessId& id, const std::string& exe, std::uint64_t search) const;
  // Another refusal of it. True when `reason` is news.
  bool add(const kernel::ProcessId& id, const std::string& exe, const std::string& name, const std::string& reason,
           std::uint64_t search);
  // It is adopted, or no rule matches it any more.
  void remove(const kernel::ProcessId& id) { by_process_.erase(id); }
  // Everything but the processes that still run is forgotten.
  void keep(const std::set<kernel::ProcessId>& running);
  void clear() { by_process_.clear(); }
  std::size_t size() const { return by_process_.size(); }
  std::vector<RefusedProcess> list() const;  // by name

 private:
  struct Refusal {
    std::string exe;
    std::string name;
    std::string reason;
    unsigned times = 0;
    std::uint64_t next = 0;
  };
  std::map<kernel::ProcessId, Refusal> by_process_;
};

// One thread; one process at a time.
class AutoAdopter {
 public:
  AutoAdopter(Context& context, Adopter& adopter) : context_(context), adopter_(adopter) {}
  ~AutoAdopter() { stop(); }
  AutoAdopter(const AutoAdopter&) = delete;
  AutoAdopter& operator=(const AutoAdopter&) = delete;

  void start();
  // Ends after the adoption that is under way.
  void stop();
  // No search begins while paused; returns when none is under way.
  void pause(bool on);
  // The configuration is a new one: what was refused or released is looked at again, now.
  void configuration_changed();
  // A person released it, and wants it to stay so until the configuration changes.
  void leave_alone(const kernel::ProcessId& id);
  // What a rule matches and could not be adopted, as of the last search.
  std::vector<RefusedProcess> refused() const;

 private:
  void run();
  void search(const Config& config);
  struct Match {
    kernel::ProcessId id;
    std::string exe;
    std::string name;
  };
  std::optional<Match> match(const kernel::Process& process, const Config& config) const;
  bool is_served(pid_t pid) const;
  void adopt(const Match& match, std::uint64_t number);

  Context& context_;
  Adopter& adopter_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  bool paused_ = false;
  bool searching_ = false;
  bool changed_ = false;
  std::set<kernel::ProcessId> released_;
  std::vector<RefusedProcess> refused_;
  // The thread's own.
  Refusals refusals_;
  std::uint64_t searches_ = 0;
  std::thread thread_;
};

}  // namespace tidepool::daemon
