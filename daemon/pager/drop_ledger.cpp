#include "daemon/pager/drop_ledger.h"

#include <algorithm>

namespace tidepool::daemon {

DropLedger::Id DropLedger::expect(AddressRange drop) {
  const std::lock_guard lock(mutex_);
  entries_.push_back({next_, drop, {}});
  return next_++;
}

void DropLedger::finished(Id id) {
  const std::lock_guard lock(mutex_);
  std::erase_if(entries_, [&](const Entry& entry) { return entry.id == id; });
}

bool DropLedger::take(std::uint64_t page_address) {
  for (Entry& entry : entries_) {
    if (!entry.range.contains(page_address)) continue;
    const std::size_t index = (page_address - entry.range.start) / kPageSize;
    if (entry.announced.test(index)) continue;
    entry.announced.set(index);
    return true;
  }
  return false;
}

bool DropLedger::empty() const {
  const std::lock_guard lock(mutex_);
  return entries_.empty();
}

}  // namespace tidepool::daemon
