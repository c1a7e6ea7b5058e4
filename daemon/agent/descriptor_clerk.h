// The agent's way to whoever holds descriptors: one thread, because holders are asked one question at a time and an
// answer may take a while. It notices at once when the holder goes, and gives everything to the next one.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "daemon/control/config.h"
#include "daemon/pager/pager.h"
#include "kmod-interfaces/kernel_roots.h"
#include "pool/keeper/fd_holder.h"

namespace tidepool::daemon {

class DescriptorClerk {
 public:
  using Connect = std::function<Result<std::unique_ptr<pool::FdHolder>>()>;

  // Finds or starts whoever holds descriptors, and makes sure that it holds for nobody else: EBUSY when another agent
  // uses the same keeper, or when VMs of an earlier agent still depend on what is held there.
  static Result<std::unique_ptr<DescriptorClerk>> open(const Config::Keeper& config, const kernel::KernelRoots& roots);

  // `reconnect` finds the holder again when it has gone; `address` tells people where it should be. `claim` is kept as
  // long as this.
  DescriptorClerk(std::unique_ptr<pool::FdHolder> holder, std::string address, Connect reconnect, UniqueFd claim = {});
  ~DescriptorClerk();

  // Whether somebody holds all that was stored. False from the moment when the holder goes until it is back and has
  // everything again, under the same names: nothing that a crash of the agent would lose may be begun meanwhile.
  bool holding() const { return holding_; }
  // Told each time that holding() changes, and once now. On any thread; must not block, nor call the clerk. Empty: no
  // more, and none is under way when this returns.
  void watch(std::function<void(bool holding)> changed);

  // Waits for the holder's answer. Not for fault threads. ECONNRESET while nobody holds.
  Result<> store(const std::string& name, int fd);
  // Of a name that nobody holds there is nothing to remove.
  Result<> remove(const std::string& name);
  // Neither waits. The descriptors are duplicated before this returns. `done` runs on the clerk's thread: with an error
  // each time that not all could be stored, which is tried again every second, and at last with success; never when
  // they were removed meanwhile.
  void store_later(const std::vector<DescriptorToHold>& descriptors, std::function<void(const Result<>&)> done);
  void remove_later(std::vector<std::string> names);
  std::string kind() const { return kind_; }
  // The keeper's process; 0 when somebody else holds.
  pid_t holder_pid() const { return holder_pid_; }
  // The last thing that went wrong; empty when the holder works.
  std::string trouble() const;

 private:
  struct Order {
    std::vector<pool::HeldFd> store;
    std::function<void(const Result<>&)> done;
    std::vector<std::string> remove;
    std::chrono::steady_clock::time_point not_before{};
  };
  void run();
  void wake() const;
  std::optional<Order> next_due();
  void wait_for_work();
  Result<> store_all(const std::vector<pool::HeldFd>& descriptors);
  void carry_out(Order order);
  Result<> note(Result<> result);
  void use(std::unique_ptr<pool::FdHolder> holder);
  void note_lost(const std::string& why);
  void lose(const std::string& why);
  void try_again();
  Result<> hand_over(pool::FdHolder& holder) const;
  void set_holding(bool holding);

  const UniqueFd claim_;
  const std::string address_;
  const Connect reconnect_;
  std::string kind_;
  std::atomic<pid_t> holder_pid_{0};
  std::atomic<bool> holding_{true};

  std::mutex holder_mutex_;  // before the others
  std::unique_ptr<pool::FdHolder> holder_;
  std::map<std::string, UniqueFd> held_;  // what the holder has, for the next one

  std::mutex watch_mutex_;
  std::function<void(bool)> changed_;

  mutable std::mutex mutex_;
  std::deque<Order> queue_;
  std::string trouble_;
  bool stopping_ = false;

  // The thread's own.
  UniqueFd connection_;
  std::chrono::steady_clock::time_point again_at_{};
  std::chrono::milliseconds pause_{0};

  const UniqueFd wake_;
  std::thread thread_;
};

}  // namespace tidepool::daemon
