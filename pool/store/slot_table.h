// The part of a store that must survive its process: a memfd with a checked header and one entry per slot
// (docs/layout.md). Position independent; whoever holds its descriptor and the data's can open the store again.
//
// All methods are thread-safe once the table is created. Entries are believed only as far as open() checked them: every
// use checks its bounds.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>

#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "pool/store/slot_word.h"

namespace tidepool::pool {

enum class StoreLayoutKind : std::uint32_t { kMapped = 1, kCompressed = 2, kRemote = 3, kFile = 4 };

inline constexpr std::uint32_t kStoreLayoutVersion = 1;
inline constexpr std::uint64_t kStoreHeaderBytes = 4096;

// First page of the table. Written once, before any page is stored.
struct StoreHeader {
  char magic[8];  // "TDPSTORE"
  std::uint32_t byte_order;
  std::uint32_t layout_version;
  std::uint32_t header_bytes;
  StoreLayoutKind kind;
  std::uint32_t entry_bytes;
  std::uint32_t unit_bytes;  // of data: a slot, or a slab
  std::uint64_t slots;
  std::uint64_t data_bytes;
  // Which object holds the data: a descriptor of another one, kept under the wrong name, must not be opened with this
  // table.
  std::uint64_t data_device;
  std::uint64_t data_inode;
  std::uint32_t codec;  // compressed: how pages are encoded
  std::uint32_t reserved;
  std::uint32_t reserved2;
  std::uint32_t header_crc;  // CRC32C of everything before it
};
static_assert(sizeof(StoreHeader) == 80);

struct SlotTableSpec {
  StoreLayoutKind kind = StoreLayoutKind::kMapped;
  std::uint32_t entry_words = 1;  // 64-bit words per slot
  std::uint32_t unit_bytes = 0;
  std::uint64_t slots = 0;
  Bytes data_bytes;
  std::uint32_t codec = 0;
};

enum class DropResult : std::uint8_t { kStillHeld, kLast, kRefused };

class SlotTable {
 public:
  // `data_fd` is looked at, not kept.
  static Result<SlotTable> create(const SlotTableSpec& spec, int data_fd);
  // Takes over a table that another process made. Refuses what this program does not understand, a damaged header, a
  // table of the wrong size, and a `data_fd` that is not the object the table was made for. Entries are the caller's to
  // check.
  static Result<SlotTable> open(StoreLayoutKind kind, UniqueFd table_fd, int data_fd);

  const StoreHeader& header() const { return header_; }
  std::uint64_t slots() const { return header_.slots; }
  int fd() const { return fd_.get(); }
  // What the host pays for the table now.
  Bytes populated() const;

  std::atomic_ref<std::uint64_t> word(std::uint64_t slot) const {
    return std::atomic_ref<std::uint64_t>(entries_[slot * entry_words_]);
  }
  // The entry's other words, where entries have them.
  std::atomic_ref<std::uint64_t> second(std::uint64_t slot) const { return other(slot, 1); }
  std::atomic_ref<std::uint64_t> other(std::uint64_t slot, unsigned index) const {
    return std::atomic_ref<std::uint64_t>(entries_[slot * entry_words_ + index]);
  }
  SlotWord load(std::uint64_t slot) const { return SlotWord::unpack(word(slot).load(std::memory_order_acquire)); }

  // Calls back with ranges of slots whose entries have ever been written; what lies between is free and was never
  // touched. Looking at it through the mapping would cost memory: a read fault on a hole of a shared file allocates the
  // page.
  void for_each_touched(const std::function<void(std::uint64_t first, std::uint64_t end)>& visit) const;

  // The word of a live page, or nothing when the location is stale, malformed or free.
  bool find_live(Location location, SlotWord& found) const;
  Result<> retain(Location location);
  // One owner less. With the last one the entry becomes `next`, of the following generation: the caller alone may then
  // recycle the slot.
  DropResult drop(Location location, SlotState next);

 private:
  static Result<SlotTable> map(UniqueFd fd, const StoreHeader& header);

  StoreHeader header_{};
  UniqueFd fd_;
  Mapping mapping_;
  std::uint64_t* entries_ = nullptr;
  std::uint64_t entry_words_ = 1;
};

}  // namespace tidepool::pool
