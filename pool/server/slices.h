// The slices that a memory server lends: donated memory, carved into slots of 4 KiB with a mark each.
//
// Memory is lent in chunks of kSlotsPerChunk slots, so nothing is lost to fragmentation. What is released is zeroed by
// scrub() before it is lent again; until then it counts as in use. Nothing here trusts a client: whoever calls has
// checked that its peer knows the token's secret, and passes the token's claims.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "pool/protocol/messages.h"
#include "pool/server/slice.h"

namespace tidepool::pool::server {

struct SliceLimits {
  std::uint32_t slices = 4096;  // at most at a time
  Bytes slice_bytes{std::uint64_t{1} << 30};
  std::uint32_t slices_per_holder = 4096;
  Bytes holder_bytes{std::uint64_t{1} << 50};
};

struct SliceFigures {
  Bytes capacity;  // that can be lent
  Bytes lent;
  Bytes scrubbing;  // released, not yet zeroed
  Bytes marks;      // taken for marks, besides
  std::uint64_t slices = 0;
  std::uint64_t holders = 0;
  std::uint64_t stored_pages = 0;
  std::uint64_t created = 0;  // since start
  std::uint64_t released = 0;
  std::uint64_t refused_full = 0;
};

struct AttachResult {
  protocol::ErrorCode status = protocol::ErrorCode::kOk;
  std::shared_ptr<Slice> slice;  // when kOk
  bool created = false;
};

// Thread-safe.
class SliceStore {
 public:
  SliceStore(std::unique_ptr<Donation> donation, const SliceLimits& limits, const Clock& clock);

  // The slice of the claims. Makes it when it is not there, the claims allow that and `may_create`. The holder and the
  // size must be those it was made with; an epoch never goes back, not even over a release, and a higher one fences the
  // lower at once. The lease begins anew; an attach in the same epoch does not shorten it.
  AttachResult attach(const protocol::Claims& claims, bool may_create);

  // Gives the slice back: nobody reaches it from now on. Its memory is lent again only after scrub().
  protocol::ErrorCode release(Slice& slice, protocol::LeaseEpoch epoch);

  // Nobody has the slice with a lower epoch from now on, nor can have: it is given back if it is there, and attaching
  // with a lower one is refused, also if it is not. Its memory as in release().
  void free_below(protocol::SliceId slice, protocol::LeaseEpoch epoch);

  // What is lent, in the order of ids.
  struct Held {
    protocol::SliceId slice{};
    protocol::LeaseEpoch epoch{};
  };
  std::vector<Held> held() const;

  // Zeroes up to `chunks` released chunks. False when there was nothing left to do.
  bool scrub(std::size_t chunks);

  void set_limits(const SliceLimits& limits);
  SliceFigures figures() const;
  const Clock& clock() const { return clock_; }

 private:
  struct HolderUse {
    std::uint32_t slices = 0;
    std::uint64_t chunks = 0;
  };
  // The highest epoch that a released slice had, and whose it was.
  struct Grave {
    protocol::HolderId holder{};
    std::uint64_t epoch = 0;
  };

  AttachResult attach_known(const std::shared_ptr<Slice>& slice, const protocol::Claims& claims);
  AttachResult make(const protocol::Claims& claims);
  bool within_limits(const protocol::Claims& claims, std::uint64_t chunks) const;
  void end(Slice& slice);
  void bury(protocol::SliceId slice, const protocol::HolderId& holder, std::uint64_t epoch);

  const Clock& clock_;

  mutable std::mutex mutex_;
  std::unique_ptr<Donation> donation_;
  SliceLimits limits_;
  std::vector<std::unique_ptr<SliceMemory>> dirty_;
  std::uint64_t scrubbing_ = 0;  // chunks; of dirty_, or just being zeroed
  std::map<std::uint64_t, std::shared_ptr<Slice>> slices_;
  std::map<protocol::HolderId, HolderUse> holders_;
  std::map<std::uint64_t, Grave> graves_;
  std::deque<std::uint64_t> grave_order_;
  std::uint64_t created_ = 0;
  std::uint64_t released_ = 0;
  std::uint64_t refused_full_ = 0;
  std::atomic<std::uint64_t> stored_pages_{0};
};

}  // namespace tidepool::pool::server
