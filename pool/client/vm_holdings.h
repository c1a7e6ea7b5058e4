// One VM's slices, between its store and the controller: what is to be asked for, told and given back. No I/O.
//
// Not thread-safe: belongs to the thread that talks with the controller.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "pool/client/remote_store.h"
#include "pool/controller/core/requests.h"

namespace tidepool::pool {

class VmHoldings {
 public:
  VmHoldings(std::string name, unsigned replicas, Bytes slice)
      : name_(std::move(name)), replicas_(replicas), slice_(slice) {}

  // What the store is at now. Withdraws what could not be attached, and takes back from the store what is spare.
  void look(RemoteStore& store, MonoTime now);

  controller::VmReport report(RemoteStore& store);
  std::vector<controller::LostReplica> lost() const;
  std::vector<controller::TaskReport> task_reports() const;

  // How many slices to ask for; 0: none now.
  std::uint32_t wants(MonoTime now) const;
  void granted(RemoteStore& store, const controller::GrantAnswer& answer,
               const std::map<std::string, std::string>& domains, MonoTime now);
  // So many were asked for, and none was given: less is asked for the next time.
  void refused(std::uint32_t asked, MonoTime again, std::string why);
  const std::string& refusal() const { return refusal_; }

  std::vector<protocol::SliceId> to_confirm() const;
  void confirmed(RemoteStore& store, const controller::ConfirmAnswer& answer);
  std::vector<protocol::SliceId> to_release() const;
  void released(const controller::ReleaseAnswer& answer);

  void take_share(RemoteStore& store, const controller::VmShare& share);
  // All that this VM is to do; what is missing is to be left.
  void take_tasks(RemoteStore& store, std::vector<controller::Task> tasks,
                  const std::map<std::string, std::string>& domains);
  // Reported as done, and not so for the controller.
  void fenced(RemoteStore& store, const controller::TaskReport& report);

  // What the controller knows of this VM: slices, and at which servers. A slice that it does not know is kept; one that
  // it has and the store has not is released. A replica that it does not count is let go when there are enough others.
  using Known = std::map<protocol::SliceId, std::set<std::string>>;
  void compare(RemoteStore& store, const Known& known);
  std::uint64_t unknown() const { return unknown_; }

 private:
  struct Job {
    controller::Task task;
    bool done = false;
    std::string failed{};
  };
  std::size_t stock() const;
  std::size_t most_stock() const;

  const std::string name_;
  const unsigned replicas_;
  const Bytes slice_;

  std::vector<SliceReport> slices_;  // as of the last look()
  std::vector<protocol::SliceId> to_release_;
  std::map<std::pair<protocol::SliceId, std::string>, Job> jobs_;
  std::size_t keep_ = SIZE_MAX;  // slices that may take pages
  bool gives_back_ = false;
  MonoTime ask_at_{};
  // Whoever used up what came within seconds gets more at a time: a grant and a demotion take a second or two each.
  std::size_t ahead_ = 1;  // slices
  MonoTime granted_at_{};
  std::uint32_t at_once_ = controller::kMostSlicesPerRequest;  // slices of a request
  std::string refusal_;
  std::uint64_t full_writes_ = 0;  // as of the last report
  std::uint64_t turned_away_ = 0;  // since then, as far as looked at
  bool used_ = false;              // a page wanted to leave
  std::uint64_t unknown_ = 0;
};

}  // namespace tidepool::pool
