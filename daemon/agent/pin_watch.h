// Whether VMs have memory pinned or locked that they had not when they were adopted: a device that was plugged in since
// (VFIO counts as locked, iommufd, RDMA and io_uring as pinned memory), which would go on writing to pages that are no
// longer theirs. Such a VM gives up nothing as long as it is so. Of the policy thread.
//
// What was pinned before a page was frozen is seen within its grace, as long as the policy ticks that often; a later
// write pin thaws it.
#pragma once

#include <map>

#include "daemon/agent/context.h"

namespace tidepool::daemon {

class PinWatch {
 public:
  explicit PinWatch(Context& context) : context_(context) {}

  // Once per tick: all VMs of the pager, in all their processes that are known. Where it cannot be read, nothing
  // changes.
  void look_at_all();

 private:
  void look_at(ManagedVm& vm);

  Context& context_;
  // What was there before: of a VM's main process at its adoption, of others when they were first seen.
  std::map<ProcessIdentity, Bytes> before_;
};

}  // namespace tidepool::daemon
