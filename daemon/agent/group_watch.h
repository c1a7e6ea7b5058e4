// Keeps each VM's GroupRoom (daemon/pager/group_room.h) up to date with the memory control groups of its processes and
// those above them. Of the policy thread.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "daemon/agent/context.h"
#include "kmod-interfaces/memcg.h"

namespace tidepool::daemon {

class GroupWatch {
 public:
  explicit GroupWatch(Context& context) : context_(context) {}

  // Once per tick: all VMs.
  void look_at_all();
  // Now, for a VM that waits for room.
  void look_at(ManagedVm& vm);

 private:
  struct Watched {
    std::vector<kernel::MemoryGroup> groups;
    bool seen = false;
    std::uint64_t demoted = 0;  // pages, when last some were
    MonoTime progress_at{};     // when that was, or when there was room
  };
  void find_groups(const ManagedVm& vm, Watched& watched) const;
  std::optional<kernel::MemoryGroupRoom> least_room(const Watched& watched) const;
  void update(ManagedVm& vm, Watched& watched);
  bool can_make_room(const ManagedVm& vm) const;

  Context& context_;
  std::map<VmId, Watched> watched_;
  std::uint64_t looks_ = 0;
  bool swaps_ = false;
};

}  // namespace tidepool::daemon
