// Keeps each VM's GroupRoom (daemon/pager/group_room.h) up to date with its memory control group and those above it.
// Of the policy thread.
#pragma once

#include <map>
#include <optional>

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
    std::optional<kernel::MemoryGroup> group;
    bool seen = false;
    std::uint64_t demoted = 0;  // pages, when last some were
    MonoTime progress_at{};     // when that was, or when there was room
  };
  void find_group(const ManagedVm& vm, Watched& watched) const;
  void update(ManagedVm& vm, Watched& watched);
  bool can_make_room(const ManagedVm& vm) const;

  Context& context_;
  std::map<VmId, Watched> watched_;
  std::uint64_t looks_ = 0;
  bool swaps_ = false;
};

}  // namespace tidepool::daemon
