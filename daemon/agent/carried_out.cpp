#include "daemon/agent/carried_out.h"

#include <utility>

#include "base/quantity_text.h"

namespace tidepool::daemon {

void CarriedOut::count(policy::Action action, const policy::Move& move, bool taken) {
  Sum& sum = sums_[{move.vm, action, move.reason}];
  const Bytes bytes = to_bytes(PageCount{move.pages});
  sum.planned += bytes;
  if (taken) sum.taken += bytes;
}

Decision CarriedOut::line_of(const policy::Decision& decision, std::string vm) const {
  Decision line;
  line.vm = std::move(vm);
  line.action = policy::word(decision.action);
  line.reason = policy::word(decision.reason);
  line.detail = decision.detail;
  line.bytes = decision.bytes;
  if (decision.would || decision.action == policy::Action::kNone) return line;
  const auto found = sums_.find({decision.vm, decision.action, decision.reason});
  const Sum sum = found == sums_.end() ? Sum{} : found->second;
  line.carried_out = sum.taken != Bytes{};
  if (!line.carried_out) {
    line.detail += "; nothing of it was taken on";
    return line;
  }
  line.bytes = sum.taken;
  if (sum.taken < sum.planned) line.detail += "; " + short_text(sum.planned - sum.taken) + " more were not taken on";
  return line;
}

}  // namespace tidepool::daemon
