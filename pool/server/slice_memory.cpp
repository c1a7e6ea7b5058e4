#include "pool/server/slice_memory.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/mapping.h"
#include "pool/store/medium.h"
#include "pool/store/slot_set.h"

namespace tidepool::pool::server {
namespace {

std::uint64_t chunk_of(std::uint32_t slot) {
  return slot / kSlotsPerChunk;
}

// --- chunks of one medium

class MediumDonation;

class LentChunks final : public SliceMemory {
 public:
  LentChunks(const Medium& medium, SlotMark* marks, std::vector<std::uint32_t> numbers)
      : medium_(medium), marks_(marks), numbers_(std::move(numbers)) {}

  std::uint64_t chunks() const override { return numbers_.size(); }
  SlotMark& mark(std::uint32_t slot) const override {
    return marks_[std::uint64_t{numbers_[chunk_of(slot)]} * kSlotsPerChunk + slot % kSlotsPerChunk];
  }
  std::byte* page(std::uint32_t slot) const override {
    return medium_.data() + offset(chunk_of(slot)).value + std::uint64_t{slot % kSlotsPerChunk} * protocol::kSlotBytes;
  }
  bool populate(std::uint64_t chunk) const override {
    return medium_.populate(offset(chunk), Bytes{kChunkBytes}).has_value();
  }
  std::uint64_t clear(std::uint64_t most) override {
    for (; most != 0 && cleared_ < numbers_.size(); --most, ++cleared_) {
      std::fill_n(marks_ + std::uint64_t{numbers_[cleared_]} * kSlotsPerChunk, kSlotsPerChunk, SlotMark{});
      const Bytes at = offset(cleared_);
      // Memory that cannot be given back, or is not taken back now, is overwritten.
      if (!medium_.can_punch() || !medium_.punch(at, Bytes{kChunkBytes}))
        std::memset(medium_.data() + at.value, 0, kChunkBytes);
    }
    return numbers_.size() - cleared_;
  }

  const std::vector<std::uint32_t>& numbers() const { return numbers_; }

 private:
  Bytes offset(std::uint64_t chunk) const { return Bytes{numbers_[chunk] * kChunkBytes}; }

  const Medium& medium_;
  SlotMark* const marks_;
  const std::vector<std::uint32_t> numbers_;
  std::size_t cleared_ = 0;
};

class MediumDonation final : public Donation {
 public:
  MediumDonation(Medium medium, Mapping marks, SlotSet free, std::uint64_t chunks)
      : medium_(std::move(medium)), marks_(std::move(marks)), free_(std::move(free)), chunks_(chunks) {}

  std::uint64_t chunks() const override { return chunks_; }
  std::uint64_t free_chunks() const override { return free_.count(); }
  std::unique_ptr<SliceMemory> lend(std::uint64_t chunks) override {
    if (free_.count() < chunks) return nullptr;
    std::vector<std::uint32_t> taken;
    taken.reserve(chunks);
    while (taken.size() < chunks) {
      const SlotRun run = free_.take(chunks - taken.size());
      if (run.count == 0) {
        give(taken);
        return nullptr;
      }
      for (std::uint64_t chunk = run.first; chunk < run.end(); ++chunk)
        taken.push_back(static_cast<std::uint32_t>(chunk));
    }
    return std::make_unique<LentChunks>(medium_, reinterpret_cast<SlotMark*>(marks_.data()), std::move(taken));
  }
  void take_back(std::unique_ptr<SliceMemory> memory) override {
    give(static_cast<const LentChunks&>(*memory).numbers());
  }

 private:
  void give(const std::vector<std::uint32_t>& chunks) {
    for (const std::uint32_t chunk : chunks) free_.give({chunk, 1});
  }

  Medium medium_;
  Mapping marks_;
  SlotSet free_;
  const std::uint64_t chunks_;
};

// --- a memory file for each slice

class LentFile final : public SliceMemory {
 public:
  LentFile(Medium medium, std::uint64_t chunks) : medium_(std::move(medium)), chunks_(chunks) {}

  std::uint64_t chunks() const override { return chunks_; }
  SlotMark& mark(std::uint32_t slot) const override {
    const auto slots = static_cast<std::uint32_t>(chunks_ * kSlotsPerChunk);
    return *reinterpret_cast<SlotMark*>(medium_.data() + protocol::mark_offset(slots, slot));
  }
  std::byte* page(std::uint32_t slot) const override { return medium_.data() + protocol::page_offset(slot); }
  bool populate(std::uint64_t chunk) const override {
    return medium_.populate(Bytes{chunk * kChunkBytes}, Bytes{kChunkBytes}).has_value();
  }
  // Opened anew, so that it can be read through and no more; its mode lets nobody but root open it for writing.
  UniqueFd for_reading() const override {
    return UniqueFd{::open(("/proc/self/fd/" + std::to_string(medium_.fd())).c_str(), O_RDONLY | O_CLOEXEC)};
  }
  // At once: its holder may still have it, and the host is to have its pages back.
  std::uint64_t clear(std::uint64_t) override {
    if (!std::exchange(cleared_, true) && !medium_.punch(Bytes{}, medium_.size()))
      std::memset(medium_.data(), 0, medium_.size().value);
    return 0;
  }

 private:
  const Medium medium_;
  const std::uint64_t chunks_;
  bool cleared_ = false;
};

class FileDonation final : public Donation {
 public:
  explicit FileDonation(std::uint64_t chunks) : chunks_(chunks), free_(chunks) {}

  std::uint64_t chunks() const override { return chunks_; }
  std::uint64_t free_chunks() const override { return free_; }
  std::unique_ptr<SliceMemory> lend(std::uint64_t chunks) override {
    if (free_ < chunks) return nullptr;
    const Bytes pages{chunks * kChunkBytes};
    const Bytes marks = to_bytes(whole_pages(Bytes{chunks * kMarkBytesPerChunk + kPageSize - 1}));
    const Bytes size = pages + marks;
    auto medium = Medium::create("", {size, size}, {});
    // Marks are looked at before there is a page to be populated.
    if (!medium || !medium->populate(pages, marks) || ::fchmod(medium->fd(), S_IRUSR) != 0) return nullptr;
    free_ -= chunks;
    return std::make_unique<LentFile>(std::move(*medium), chunks);
  }
  void take_back(std::unique_ptr<SliceMemory> memory) override { free_ += memory->chunks(); }

 private:
  const std::uint64_t chunks_;
  std::uint64_t free_;
};

Result<std::uint64_t> chunks_in(Bytes medium) {
  const std::uint64_t chunks = std::min<std::uint64_t>(medium.value / kChunkBytes, UINT32_MAX);
  if (chunks == 0)
    return failure(std::errc::invalid_argument, "lend", "memory", "at least 1 MiB is wanted: raise memory.capacity");
  return chunks;
}

}  // namespace

Bytes medium_within(Bytes capacity) {
  return Bytes{capacity.value / (kChunkBytes + kMarkBytesPerChunk) * kChunkBytes};
}

Result<std::unique_ptr<Donation>> lend_medium(Medium medium) {
  const auto chunks = chunks_in(medium.size());
  if (!chunks) return Failure{chunks.error()};
  auto marks = Mapping::anonymous(Bytes{*chunks * kMarkBytesPerChunk});
  if (!marks) return Failure{marks.error()};
  auto free = SlotSet::create(*chunks, SlotSet::Initially::kFull, SlotSet::Order::kLowest);
  if (!free) return Failure{free.error()};
  return std::make_unique<MediumDonation>(std::move(medium), std::move(*marks), std::move(*free), *chunks);
}

Result<std::unique_ptr<Donation>> lend_memory_files(Bytes medium) {
  const auto chunks = chunks_in(medium);
  if (!chunks) return Failure{chunks.error()};
  return std::make_unique<FileDonation>(*chunks);
}

}  // namespace tidepool::pool::server
