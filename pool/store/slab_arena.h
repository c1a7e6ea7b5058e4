// Objects of 1 to 3,456 bytes in a mapped medium: slabs of 64 KiB, each cut into places of one size class (steps of 64
// bytes). Slabs that empty go back to the host. Whose object a place holds is known here, so that sparse slabs can be
// evacuated; what the objects are is not.
//
// Thread-safe but for restore() and finish_restore(). One lock per size class, held for tens of nanoseconds; never
// while bytes are copied.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/mapping.h"
#include "base/result.h"
#include "base/units.h"
#include "pool/store/medium.h"
#include "pool/store/slot_set.h"

namespace tidepool::pool {

class SlabArena {
 public:
  static constexpr std::uint64_t kSlabBytes = 64 << 10;
  static constexpr std::uint64_t kGranule = 64;
  static constexpr std::uint64_t kSmallest = 128;
  static constexpr std::uint64_t kLargest = 3456;  // 84% of a page: beyond that nothing is worth the work
  static constexpr std::uint64_t kMostObjects = kSlabBytes / kSmallest;
  // Empty slabs kept populated for the next writer, until trim().
  static constexpr std::size_t kMostEmpty = 16;

  // `may_grow` is asked, with the bytes populated including one more slab, before that slab is taken from the host.
  static Result<std::unique_ptr<SlabArena>> create(Medium medium, std::function<bool(Bytes)> may_grow);
  ~SlabArena();
  SlabArena(const SlabArena&) = delete;
  SlabArena& operator=(const SlabArena&) = delete;

  enum class Growth : std::uint8_t { kAllowed, kForbidden };
  // The offset of a place for `length` bytes, not yet anybody's; none when there is no room.
  std::optional<std::uint64_t> allocate(std::uint32_t length, Growth growth);
  // The place's object is complete, and belongs to `owner` (below 2^32 - 2): from now on it may be found by an
  // evacuation.
  void set_owner(std::uint64_t offset, std::uint32_t owner);
  // Wipes the object and frees its place.
  void free(std::uint64_t offset);

  std::byte* at(std::uint64_t offset) const { return medium_.data() + offset; }
  std::uint64_t size() const { return medium_.size().value; }
  const Medium& medium() const { return medium_; }

  struct Object {
    std::uint64_t offset = 0;
    std::uint32_t owner = 0;
  };
  // Takes a sparse slab out of use for new objects, of a class whose other slabs have room for what it holds. `wanted`
  // kAny takes any such slab, kSparse only where it is clearly worth the copying.
  enum class Wanted : std::uint8_t { kSparse, kAny };
  std::optional<std::uint32_t> isolate(Wanted wanted);
  std::vector<Object> objects_of(std::uint32_t slab) const;
  // Puts it back into use, or gives it back to the host when it is empty: then true.
  bool end_isolation(std::uint32_t slab);

  // Gives empty slabs back. True when it did.
  bool trim();

  // Rebuilding from what another process left: first every object votes for the class of its slab, so that one damaged
  // entry does not cost its neighbours; then each is claimed, which is refused where it cannot be.
  void vote(std::uint64_t offset, std::uint32_t length);
  bool restore(std::uint64_t offset, std::uint32_t length, std::uint32_t owner);
  void finish_restore();

  Bytes populated() const { return Bytes{populated_slabs_.load() * kSlabBytes}; }
  // Heap and bit sets: what the bookkeeping costs now.
  Bytes bookkeeping() const;

 private:
  static constexpr unsigned kClasses = (kLargest - kSmallest) / kGranule + 1;
  static constexpr unsigned kGroups = 4;  // by quarters of occupancy; full slabs are in none
  static constexpr std::uint32_t kNone = ~0u;
  static constexpr std::uint32_t kFree = 0;
  static constexpr std::uint32_t kReserved = 1;
  static constexpr std::uint32_t kFirstOwner = 2;

  struct Slab {
    std::atomic<std::uint32_t>*
        owners;  // kFree, kReserved or owner + kFirstOwner, per place; heap, while the slab is in use
    std::uint32_t next;
    std::uint32_t previous;
    std::uint16_t used;
    std::uint16_t first_free;  // no free place below it
    std::uint8_t size_class;
    std::uint8_t group;  // kGroups: in no list
    bool isolated;
    std::int16_t votes;
  };
  struct alignas(64) SizeClass {
    std::mutex lock;
    std::array<std::uint32_t, kGroups> heads{kNone, kNone, kNone, kNone};
    std::uint64_t free_places = 0;  // of slabs in lists
  };

  SlabArena(Medium medium, SlotSet free_slabs, Mapping slabs, std::function<bool(Bytes)> may_grow);

  static constexpr unsigned class_of(std::uint32_t length) {
    return length <= kSmallest ? 0 : static_cast<unsigned>((length - kSmallest + kGranule - 1) / kGranule);
  }
  static constexpr std::uint32_t place_bytes(unsigned size_class) {
    return static_cast<std::uint32_t>(kSmallest + size_class * kGranule);
  }
  static constexpr std::uint16_t places_of(unsigned size_class) {
    return static_cast<std::uint16_t>(kSlabBytes / place_bytes(size_class));
  }
  Slab& slab_at(std::uint64_t offset) const { return slabs_[offset / kSlabBytes]; }
  static std::uint32_t place_in(const Slab& slab, std::uint64_t offset) {
    return static_cast<std::uint32_t>(offset % kSlabBytes) / place_bytes(slab.size_class);
  }

  bool fits(std::uint64_t offset, std::uint32_t length) const;
  std::optional<std::uint32_t> acquire_slab();
  void prepare(std::uint32_t index, unsigned size_class);
  void retire(std::uint32_t index);
  void punch(std::uint32_t index);
  // All with the class's lock held.
  void list(SizeClass& of, std::uint32_t index);
  void unlist(SizeClass& of, std::uint32_t index);
  std::uint64_t take_place(SizeClass& of, std::uint32_t index);

  Medium medium_;
  SlotSet free_slabs_;
  Mapping slabs_map_;
  Slab* slabs_;
  std::function<bool(Bytes)> may_grow_;
  std::array<SizeClass, kClasses> classes_;
  std::mutex empty_lock_;
  std::vector<std::uint32_t> empty_;  // populated, unused
  std::atomic<std::uint64_t> populated_slabs_{0};
  std::atomic<std::uint64_t> heap_bytes_{0};
  std::atomic<std::uint64_t> peak_slab_{0};
};

}  // namespace tidepool::pool
