// Far pages whose store has to give their room back: they come home, and what may be far leaves again for elsewhere.
#pragma once

#include <memory>

#include "daemon/pager/pager.h"

namespace tidepool::daemon {

// Orders a bounded number of such pages of the VM home; nothing while those of the last call are on their way. To be
// called again as long as its store says that there are any.
void bring_home_what_leaves(Pager& pager, const std::shared_ptr<PagedVm>& vm);

}  // namespace tidepool::daemon
