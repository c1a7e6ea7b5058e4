// One running adopt_target (or other program), ended when this goes.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/mapping.h"
#include "base/unique_fd.h"
#include "daemon/vm/foothold.h"
#include "tests/integration/adopt/adopt_target.h"

namespace tidepool::adopt_test {

inline constexpr auto kPatience = std::chrono::seconds(60);

// True when `condition` became true in time.
bool await(const std::function<bool()>& condition);

// What each descriptor of a process points to; empty when it is gone.
std::map<int, std::string> descriptors_of(pid_t pid);
std::string state_of(pid_t pid);  // "S", "T", ...

class TargetProcess {
 public:
  explicit TargetProcess(std::vector<std::string> arguments);  // of adopt_target
  TargetProcess(const std::string& program, std::vector<std::string> arguments);
  TargetProcess(const TargetProcess&) = delete;
  TargetProcess& operator=(const TargetProcess&) = delete;
  ~TargetProcess();

  pid_t pid() const { return pid_; }
  daemon::ProcessIdentity id() const;
  Report& report() const { return *reinterpret_cast<Report*>(page_.data()); }
  bool started() const { return started_; }
  bool alive() const;
  void signal(int number) const;
  void kill_and_reap();
  // Sum of the bytes of one of its pages, as it sees them itself; ~0 when it does not answer.
  std::uint32_t ask_for_page(std::uint64_t page) const;

 private:
  void start(const std::string& program, std::vector<std::string> arguments);

  Mapping page_;
  pid_t pid_ = 0;
  bool started_ = false;
};

// The request that every test begins with: the helper that was built with this test.
daemon::FootholdRequest request_for(const daemon::ProcessIdentity& id);
daemon::LetGoRequest return_of(const daemon::Foothold& foothold);

}  // namespace tidepool::adopt_test
