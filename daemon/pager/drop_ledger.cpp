#include "daemon/pager/drop_ledger.h"

#include <algorithm>

namespace tidepool::daemon {

DropLedger::Id DropLedger::expect(AddressRange drop) {
  const std::lock_guard lock(mutex_);
  const Id id{drop.start, next_++};
  entries_.emplace(id, Entry{drop, {}});
  return id;
}

void DropLedger::finished(Id id) {
  const std::lock_guard lock(mutex_);
  entries_.erase(id);
}

// The first own drop that ends behind the address. No drop is longer than a region, so none that begins further before
// can reach it.
DropLedger::Entries::iterator DropLedger::first_behind(std::uint64_t address) {
  const std::uint64_t earliest = address - std::min(address, kHugePageSize - 1);
  auto entry = entries_.lower_bound(Id{earliest, 0});
  while (entry != entries_.end() && entry->second.range.end <= address) ++entry;
  return entry;
}

bool DropLedger::take(Entries::iterator entry, std::uint64_t page_address) {
  for (; entry != entries_.end() && entry->second.range.start <= page_address; ++entry) {
    if (!entry->second.range.contains(page_address)) continue;
    const std::size_t index = (page_address - entry->second.range.start) / kPageSize;
    if (entry->second.announced.test(index)) continue;
    entry->second.announced.set(index);
    return true;
  }
  return false;
}

DropLedger::UnderWay DropLedger::under_way(AddressRange range) {
  const std::lock_guard lock(mutex_);
  UnderWay found = UnderWay::kNone;
  for (auto entry = first_behind(range.start); entry != entries_.end() && entry->second.range.start < range.end;
       ++entry) {
    if (!entry->second.range.overlaps(range)) continue;
    if (entry->second.announced.count() * kPageSize == entry->second.range.size()) return UnderWay::kAnnounced;
    found = UnderWay::kUnannounced;
  }
  return found;
}

bool DropLedger::empty() const {
  const std::lock_guard lock(mutex_);
  return entries_.empty();
}

}  // namespace tidepool::daemon
