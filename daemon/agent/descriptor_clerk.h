// The agent's way to whoever holds descriptors: one thread, because holders are asked one question at a time and an
// answer may take a while.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "pool/keeper/fd_holder.h"

namespace tidepool::daemon {

class DescriptorClerk {
 public:
  // `keeper_socket`: where the keeper listens, to learn whose memory is the keeper's.
  DescriptorClerk(std::unique_ptr<pool::FdHolder> holder, const std::string& keeper_socket);
  ~DescriptorClerk();

  // Waits for the holder's answer. Not for fault threads.
  Result<> store(const std::string& name, int fd);
  Result<> remove(const std::string& name);
  // Does not wait: `done` runs on the clerk's thread. The descriptor is duplicated before this returns.
  void store_later(std::string name, int fd, std::function<void(Result<>)> done);
  std::string kind() const { return kind_; }
  // The keeper's process; 0 when somebody else holds.
  pid_t holder_pid() const { return holder_pid_; }
  // The last thing that went wrong; empty when the holder works.
  std::string trouble() const;

 private:
  void run();
  Result<> note(Result<> result);

  std::unique_ptr<pool::FdHolder> holder_;
  const std::string kind_;
  const pid_t holder_pid_;
  std::mutex holder_mutex_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  std::string trouble_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tidepool::daemon
