#include "daemon/pager/ring_dropper.h"

#include <algorithm>
#include <array>

namespace tidepool::daemon {

std::size_t RingDropper::reap(std::span<DropCompletion> out) {
  std::array<kernel::DropRing::Completion, 64> completed;
  const std::size_t count = ring_.reap(std::span(completed).first(std::min(out.size(), completed.size())));
  for (std::size_t i = 0; i < count; ++i) out[i] = {completed[i].cookie, completed[i].error};
  return count;
}

}  // namespace tidepool::daemon
