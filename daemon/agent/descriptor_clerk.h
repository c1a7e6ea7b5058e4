// The agent's way to whoever holds descriptors: one thread, because holders are asked one question at a time and an
// answer may take a while.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
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
  // Finds or starts whoever holds descriptors, and makes sure that it holds for nobody else: EBUSY when another agent
  // uses the same keeper, or when VMs of an earlier agent still depend on what is held there.
  static Result<std::unique_ptr<DescriptorClerk>> open(const Config::Keeper& config, const kernel::KernelRoots& roots);

  // `keeper_socket`: where the keeper listens, to learn whose memory is the keeper's. `claim` is kept as long as this.
  DescriptorClerk(std::unique_ptr<pool::FdHolder> holder, const std::string& keeper_socket, UniqueFd claim = {});
  ~DescriptorClerk();

  // Waits for the holder's answer. Not for fault threads.
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
  Result<> store_all(const std::vector<pool::HeldFd>& descriptors);
  void carry_out(Order order);
  Result<> note(Result<> result);

  const UniqueFd claim_;
  std::unique_ptr<pool::FdHolder> holder_;
  const std::string kind_;
  const pid_t holder_pid_;
  std::mutex holder_mutex_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Order> queue_;
  std::string trouble_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tidepool::daemon
