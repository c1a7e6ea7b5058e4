// A set of slot numbers, made for handing out runs of free slots to many threads at once: one bit per slot, a second
// level that says which words are worth a look, and a cursor per group of threads. Lock-free; memory is touched only
// where slots are.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/mapping.h"
#include "base/result.h"
#include "base/units.h"
#include "pool/store/thread_shard.h"

namespace tidepool::pool {

struct SlotRun {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  std::uint64_t end() const { return first + count; }
};

class SlotSet {
 public:
  enum class Initially : std::uint8_t { kEmpty, kFull };
  // kSpread: threads start in different places and stay apart. kLowest: always low numbers first, so that what is in
  // use stays dense.
  enum class Order : std::uint8_t { kSpread, kLowest };
  // A run never crosses this many slots; longer wishes are met by adjacent runs where they are free.
  static constexpr std::uint64_t kMaxRun = 64;

  static Result<SlotSet> create(std::uint64_t slots, Initially initially, Order order);
  SlotSet() = default;
  // Before the set is shared between threads only.
  SlotSet(SlotSet&& other) noexcept;
  SlotSet& operator=(SlotSet&& other) noexcept;

  // Removes up to `want` adjacent slots and returns them; count 0 when the set is empty.
  SlotRun take(std::uint64_t want);
  // Adds slots that are not in the set.
  void give(SlotRun run);
  // Removes this one; false when it is not there.
  bool take_one(std::uint64_t slot);
  std::uint64_t count() const { return count_.load(std::memory_order_relaxed); }
  // take() looks no further than this slot (rounded up to a word): keeps the memory of what is indexed by slots dense.
  // Initially all.
  void set_bound(std::uint64_t slots);
  // Most that the bits of `slots` slots can cost the host.
  static Bytes cost(std::uint64_t slots);

 private:
  struct alignas(64) Cursor {
    std::atomic<std::uint64_t> word{0};
  };

  std::atomic_ref<std::uint64_t> word(std::uint64_t index) const {
    return std::atomic_ref<std::uint64_t>(words_[index]);
  }
  std::atomic_ref<std::uint64_t> summary(std::uint64_t index) const {
    return std::atomic_ref<std::uint64_t>(summary_[index]);
  }
  std::uint64_t next_word(std::uint64_t from, std::uint64_t end) const;
  SlotRun take_from_word(std::uint64_t index, std::uint64_t want);
  SlotRun take_between(std::uint64_t from, std::uint64_t end, std::uint64_t want, Cursor& cursor);
  void note_empty(std::uint64_t index);
  void note_filled(std::uint64_t index);
  Cursor& cursor() { return cursors_[order_ == Order::kSpread ? thread_shard() : 0]; }

  // A bit differs from `flip_` when its slot is in the set, so that fresh zero memory is a full set or an empty one, as
  // wanted.
  std::uint64_t flip_ = 0;
  std::uint64_t slots_ = 0;
  std::uint64_t word_count_ = 0;
  std::atomic<std::uint64_t> bound_words_{0};
  Order order_ = Order::kSpread;
  Mapping words_map_;
  Mapping summary_map_;
  std::uint64_t* words_ = nullptr;
  std::uint64_t* summary_ = nullptr;
  std::atomic<std::uint64_t> count_{0};
  std::array<Cursor, kThreadShards> cursors_{};
};

}  // namespace tidepool::pool
