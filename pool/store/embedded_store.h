// What stores in this host's own address space can do beyond PageStore: be resized, give memory back, be held and taken
// over.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "pool/store/page_store.h"

namespace tidepool::pool {

// Things that must not happen, counted since start. Each is refused, none harms another page.
struct StoreErrors {
  std::uint64_t refused_releases = 0;  // of locations that are not live: released twice, stale, or never ours
  std::uint64_t refused_writes = 0;    // items that were neither staged nor given a buffer
  std::uint64_t stale_reads = 0;       // of locations that are not live
  std::uint64_t corrupt_pages = 0;     // reads whose checksum did not match
  std::uint64_t bad_entries = 0;       // found when the store was re-opened, and set aside
};

class EmbeddedStore : public PageStore {
 public:
  // What must be kept for a successor: name and descriptor ("store/data", "store/table"). The descriptors stay the
  // store's.
  virtual std::vector<std::pair<std::string, int>> held_descriptors() const = 0;

  // More or less room. Below what is used nothing is lost: writes answer kFull until enough has been released. Fails
  // above the medium's size.
  virtual Result<> set_capacity(Bytes capacity) = 0;

  // Gives memory back that is kept for speed only, and compacts; a bounded piece of work, at most a few milliseconds.
  // True when there is more to do now. Called by one background thread; never needed for correctness.
  virtual bool maintain() = 0;

  // Every live page and how many owners it has; what a successor compares with the page maps that it inherits. Not a
  // snapshot: call it before others use the store.
  virtual void for_each_live(const std::function<void(Location, std::uint32_t references)>& visit) const = 0;

  virtual StoreErrors errors() const = 0;
};

}  // namespace tidepool::pool
