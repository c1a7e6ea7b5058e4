// What a memory server lends, and where the slots of a slice and their marks lie in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "pool/protocol/messages.h"
#include "pool/protocol/slice_file.h"

namespace tidepool::pool {
class Medium;
}

namespace tidepool::pool::server {

using protocol::kMarkBytes;
using protocol::kSlotsPerChunk;
using protocol::SlotMark;

inline constexpr std::uint64_t kChunkBytes = std::uint64_t{kSlotsPerChunk} * protocol::kSlotBytes;
inline constexpr std::uint64_t kMarkBytesPerChunk = kSlotsPerChunk * kMarkBytes;

// The memory of one slice, a number of chunks. All zero until somebody writes. What may be done to a slot at a time is
// its slice's business.
class SliceMemory {
 public:
  virtual ~SliceMemory() = default;
  SliceMemory() = default;
  SliceMemory(const SliceMemory&) = delete;
  SliceMemory& operator=(const SliceMemory&) = delete;

  virtual std::uint64_t chunks() const = 0;
  virtual SlotMark& mark(std::uint32_t slot) const = 0;
  virtual std::byte* page(std::uint32_t slot) const = 0;
  // Gets a chunk's pages from the host: touching memory that it does not have would be a signal, not an error. False
  // when there are none.
  virtual bool populate(std::uint64_t chunk) const = 0;
  // For its holder, on this host, to read marks and pages from: docs/protocol.md has the layout. Invalid: it cannot be
  // given.
  virtual UniqueFd for_reading() const { return {}; }
  // Zeroes at least one of the chunks that are not zero yet and at most `most`; how many are left.
  virtual std::uint64_t clear(std::uint64_t most) = 0;
};

// Not thread-safe, but for the memory that it has lent, which it outlives.
class Donation {
 public:
  virtual ~Donation() = default;
  virtual std::uint64_t chunks() const = 0;  // in all
  virtual std::uint64_t free_chunks() const = 0;
  // Null when there are not so many left, or the host has no memory for their marks.
  virtual std::unique_ptr<SliceMemory> lend(std::uint64_t chunks) = 0;
  // All of it was cleared.
  virtual void take_back(std::unique_ptr<SliceMemory> memory) = 0;
};

// How many bytes of a medium leave room for the marks, when both together may take `capacity`.
Bytes medium_within(Bytes capacity);

// Chunks of one medium; their marks are in memory of this process.
Result<std::unique_ptr<Donation>> lend_medium(Medium medium);
// A memory file for each slice, of `medium` together: it can be handed to whoever holds the slice.
Result<std::unique_ptr<Donation>> lend_memory_files(Bytes medium);

}  // namespace tidepool::pool::server
