// Making userfaultfds and a drop ring in a stopped process and fetching them. Detail of tidepool-adopt.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "kmod-interfaces/ptrace_injector.h"

namespace tidepool::daemon {

struct PlacedFd {
  int number = -1;  // in the target
  UniqueFd fd;      // ours
};

// Everything that is open in the target because of this is closed in it again at the end, unless keep() says otherwise:
// a failure at any point leaves nothing.
class Placement {
 public:
  // All of them outlive this. `device`: /dev/userfaultfd, or invalid where there is none.
  Placement(kernel::PtraceInjector& injector, int pidfd, pid_t pid, const UniqueFd& device)
      : injector_(injector), pidfd_(pidfd), pid_(pid), device_(device) {}
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;
  ~Placement();

  // Up to two userfaultfds of the target's address space, which serve faults of the kernel as well (KVM's). By the
  // system call where the target is privileged enough, else through /dev/userfaultfd, a descriptor of which is handed
  // to the target for a moment.
  Result<std::vector<PlacedFd>> make_userfaultfds(int count);
  // A ring for kernel::DropRing::attach(). The target's own descriptor of it is closed again.
  Result<UniqueFd> make_ring(std::uint32_t entries);
  // The userfaultfds stay open in the target.
  void keep() { open_in_target_.clear(); }

 private:
  Result<int> make(const char* what, long number, std::initializer_list<std::uint64_t> arguments);
  Result<UniqueFd> fetch(int number, const char* kind);
  Result<int> hand_over_device();
  void close_in_target(int number);
  std::string subject() const;

  kernel::PtraceInjector& injector_;
  int pidfd_;
  pid_t pid_;
  const UniqueFd& device_;
  std::vector<int> open_in_target_;
};

}  // namespace tidepool::daemon
