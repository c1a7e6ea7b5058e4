// Where far pages live. One interface for every kind of pooled memory: mapped (CXL-like), compressed DRAM, and stores
// behind a network.
//
// Batches are asynchronous: a caller fills items, submits, and is told by `done` on whichever thread completed the
// batch. Stores in local memory complete before submit returns; callers must not depend on that. A batch and its
// buffers belong to the store from submit to done; `done` may call the store again. Nothing here allocates per page on
// the read path. All methods are thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "base/units.h"

namespace tidepool::pool {

// Names one stored page within one store. 40 bits are used, so that it fits into a page-map entry beside the state.
// Valid from a successful write until its last reference is released; its content never changes in between.
enum class Location : std::uint64_t {};
inline constexpr unsigned kLocationBits = 40;
inline constexpr Location kNoLocation{(1ull << kLocationBits) - 1};

// Demand reads (a vCPU waits) overtake prefetch, which overtakes write-back.
enum class Priority : std::uint8_t { kDemand, kPrefetch, kWriteBack };

enum class PageStatus : std::uint8_t {
  kPending,
  kOk,
  kIncompressible,  // write: stored it would save nothing; keep the page resident
  kFull,            // write: no capacity left
  kCorrupt,         // read: the checksum does not match; the content must not reach the guest
  kUnavailable,     // the medium did not answer; the page is still there, retry
  kCancelled,
};

struct WriteItem {
  // In: the 4 KiB to store. Null before stage(): the store may then lend memory of its own, so that a copy is saved.
  std::byte* buffer = nullptr;
  Location location = kNoLocation;  // out, when kOk (mapped stores may set it in stage)
  PageStatus status = PageStatus::kPending;
};

struct ReadItem {
  Location location = kNoLocation;
  std::byte* buffer = nullptr;  // in: 4 KiB of the caller's, used when the store cannot show its own memory
  // Out, when kOk: the page, either `buffer` or memory of the store that stays valid until the location is released.
  const std::byte* page = nullptr;
  PageStatus status = PageStatus::kPending;
};

template <class Item>
struct Batch {
  std::span<Item> items;
  Priority priority = Priority::kPrefetch;
  std::function<void(Batch&)> done;  // called exactly once, from any thread
};
using WriteBatch = Batch<WriteItem>;
using ReadBatch = Batch<ReadItem>;

struct StoreUsage {
  Bytes capacity;                    // how much local memory or remote space the store may take
  Bytes used;                        // what pages and metadata take of it now; the rest is room for more
  Bytes metadata;                    // the part of `used` that is not page content
  Bytes process_memory;              // the part of `metadata` that is in this process's heap, so counted in its Rss too
  PageCount pages;                   // pages held
  std::uint64_t incompressible = 0;  // writes answered so, since start
  // Host DRAM that nobody else has while the store exists, however few pages are in it: huge pages, which are reserved
  // all at once. What pages take of it is in `used` as well.
  Bytes set_aside{};
};

class PageStore {
 public:
  virtual ~PageStore() = default;

  virtual std::string kind() const = 0;  // "mapped", "compressed", "file"; label of metrics
  virtual StoreUsage usage() const = 0;
  // True: a page that is stored takes of the DRAM that the host has for everybody, and gives it back when it is
  // released. False: it lies elsewhere, or in what is set aside.
  virtual bool uses_host_dram() const = 0;

  // Gives each item whose buffer is null a place to put the page, if the store can; items left null need a buffer of
  // the caller's. Such a place holds anything, a former page's bytes included: fill all of it. Runs of items get
  // adjacent memory where possible.
  virtual void stage(std::span<WriteItem> items) = 0;
  // Gives the place back; every staged item goes through it in the end. Before submit_write, or instead: nothing is
  // stored. After `done`: what was stored stays so; until then its place can be read, and holds what it was filled
  // with. The item is empty afterwards.
  virtual void unstage(std::span<WriteItem> items) = 0;
  // True: stage() gives a place to every page that can be taken now, and one left null is not (kFull). Callers then
  // need no memory of their own for pages under way.
  virtual bool lends_places() const { return false; }

  virtual void submit_write(WriteBatch& batch) = 0;
  virtual void submit_read(ReadBatch& batch) = 0;
  // Stores that answer later: readable when answers to reads may be there, the same descriptor for the store's whole
  // life; -1: everything is answered before submit returns, or by a thread of the store's own. Whoever waits for reads
  // watches it and calls take_answers, which completes what has come on the calling thread and never waits: an answer
  // then reaches a fault without another thread in between. Nobody has to.
  virtual int answers_descriptor() const { return -1; }
  virtual void take_answers() {}
  // True: what is submitted may be under way for a while.
  virtual bool answers_later() const { return answers_descriptor() >= 0; }

  // Best effort; items that had not started complete as kCancelled. Still calls done.
  virtual void cancel(WriteBatch& batch) = 0;
  virtual void cancel(ReadBatch& batch) = 0;

  // What it can take now, where room comes piece by piece from somebody else and may be less than `capacity`. Absent:
  // capacity tells.
  virtual std::optional<Bytes> leased_room() const { return {}; }

  // Tells which pages should leave, as of now, because the store has to give their room back; they can be read until
  // they are released. Empty: none.
  virtual std::function<bool(Location)> leaving() const { return {}; }

  // One more owner of a stored page (a forked process shares its parent's far pages). Fails when the location is not
  // live.
  virtual Result<> retain(Location location) = 0;
  // The page is gone when the last owner has released it: nobody can read it any more, whatever becomes of its memory.
  virtual void release(std::span<const Location> locations) = 0;
};

// For whoever shares a store that is somebody else's and outlives all who use it.
inline std::shared_ptr<PageStore> unowned(PageStore& store) {
  return {std::shared_ptr<void>(), &store};
}

}  // namespace tidepool::pool
