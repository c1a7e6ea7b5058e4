// What adoptions under way have in hand: of two that want the same process or the same name, the later one fails before
// it does anything. Thread-safe.
#pragma once

#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "daemon/vm/foothold.h"

namespace tidepool::daemon {

class AdoptionClaims {
 public:
  // The claims of one adoption, given up when it ends. The AdoptionClaims outlive it.
  class Claim {
   public:
    explicit Claim(AdoptionClaims& claims) : claims_(claims) {}
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;
    ~Claim() {
      const std::lock_guard lock(claims_.mutex_);
      for (const ProcessIdentity& id : processes_) claims_.processes_.erase(id);
      for (const std::string& name : names_) claims_.names_.erase(name);
    }

    // EBUSY when another adoption has the process in hand.
    Result<> add(const ProcessIdentity& id) {
      const std::lock_guard lock(claims_.mutex_);
      if (!claims_.processes_.insert(id).second) {
        return failure(std::errc::device_or_resource_busy, "adopt process", std::to_string(id.pid),
                       "another request is adopting it just now");
      }
      processes_.push_back(id);
      return {};
    }
    // False when another adoption has the name in hand.
    bool add_name(const std::string& name) {
      const std::lock_guard lock(claims_.mutex_);
      if (!claims_.names_.insert(name).second) return false;
      names_.push_back(name);
      return true;
    }

   private:
    AdoptionClaims& claims_;
    std::vector<ProcessIdentity> processes_;
    std::vector<std::string> names_;
  };

  bool has(const ProcessIdentity& id) const {
    const std::lock_guard lock(mutex_);
    return processes_.contains(id);
  }

 private:
  mutable std::mutex mutex_;
  std::set<ProcessIdentity> processes_;
  std::set<std::string> names_;
};

}  // namespace tidepool::daemon
