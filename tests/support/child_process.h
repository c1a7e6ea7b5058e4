// A child that prepares itself in some way, says that it is ready, and waits to be ended. Ended with the object.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include "base/unique_fd.h"

namespace tidepool {

class ChildProcess {
 public:
  // Runs in the child: returns an empty string when ready, "skip: ..." when the machine lacks something, else what went
  // wrong. The child is a fork of a process with one thread, so `prepare` may do anything; what it leaves open stays
  // open until the end.
  explicit ChildProcess(const std::function<std::string()>& prepare);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // What `prepare` returned.
  const std::string& outcome() const { return outcome_; }
  // Ends the child without waiting for it: it is a zombie until the destructor runs.
  void leave_as_zombie();

 private:
  pid_t pid_ = -1;
  std::string outcome_;
};

// Skips or fails the calling test unless the child is ready.
#define ASSERT_READY(child)                                                                   \
  do {                                                                                        \
    if ((child).outcome().starts_with("skip: ")) GTEST_SKIP() << (child).outcome().substr(6); \
    ASSERT_EQ((child).outcome(), "");                                                         \
  } while (false)

}  // namespace tidepool
