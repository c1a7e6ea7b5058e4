// Long work asked for by people: started, followed, remembered for a while. Runs on two threads of its own, so that
// neither requests nor faults wait.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "daemon/control/agent_service.h"

namespace tidepool::daemon {

class Operations {
 public:
  // How the work tells of itself. Thread-safe.
  class Handle {
   public:
    Handle(Operations& owner, std::string id) : owner_(&owner), id_(std::move(id)) {}
    void update(const std::function<void(Operation&)>& change) const { owner_->change(id_, change); }
    void step(std::string text, Bytes done = {}, Bytes total = {}) const;
    // Of an operation that was begun: it ended so. The last thing to be said of it.
    void end(const Result<>& result) const;

   private:
    Operations* owner_;
    std::string id_;
  };
  // Ends with the operation's state: an error with operation_not_permitted or not_supported counts as refused.
  using Work = std::function<Result<>(const Handle&)>;

  Operations();
  ~Operations();  // waits for running work

  // Fails when too much is waiting already.
  Result<Operation> start(OperationKind kind, std::string vm, std::string step, Work work);
  // Only keeps account of work that somebody else does, by a Handle of its id.
  Result<Operation> begin(OperationKind kind, std::string vm, std::string step);
  Result<Operation> find(std::string_view id) const;

 private:
  struct Job {
    std::string id;
    Work work;
  };
  Operation& add(OperationKind kind, std::string vm, std::string step);
  void ended(const std::string& id, const Result<>& result);
  void change(const std::string& id, const std::function<void(Operation&)>& change);
  void run();
  void forget_old();

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> queue_;
  std::map<std::string, Operation> operations_;
  std::uint64_t next_ = 1;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tidepool::daemon
