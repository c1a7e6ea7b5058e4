// Dropping another process's private memory from outside: an io_uring that was made inside the target (so it works on
// the target's address space) and is driven from here. Every drop is one MADV_DONTNEED, done by the ring's kernel
// threads; the target itself is not stopped and runs no code for it.
//
// The ring is restricted before it is enabled: it executes IORING_OP_MADVISE and nothing else, takes no further
// registrations, and has at most kDropWorkers kernel workers. The target may have kept a way to write to the shared
// rings, so nothing read from them is believed: completions are matched against what is in flight here, positions are
// kept here, and a ring that contradicts itself is broken for good. A completed drop is a hint that the pages are gone;
// pagemap proves it.
//
// What to expect from the kernel (io_uring_setup(2), io_uring_register(2), tried on 6.18):
// - A stopped or frozen target completes nothing until it goes on: the caller needs deadlines of its own.
// - With UFFD_FEATURE_EVENT_REMOVE on a drop completes only after its event was read.
// - When the target dies, drops in flight never complete: EOWNERDEAD from submit, or nothing at all.
//
// Used by one thread. Closing the last descriptor of the ring ends it and its kernel threads.
#pragma once

#include <linux/io_uring.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace tidepool::kernel {

inline constexpr std::uint32_t kMaxDropRingEntries = 1024;
inline constexpr std::uint32_t kDropWorkers = 32;
// The kernel takes 32-bit lengths only (before 6.13).
inline constexpr Bytes kMaxDropBytes{1ull << 30};

// What a drop ring must be set up with, wherever that happens. idle_ms: how long its kernel thread spins before it
// sleeps (0 would mean one second).
io_uring_params drop_ring_parameters(std::uint32_t idle_ms);

// Where the kernel puts heads, tails and arrays of a ring with `entries` entries and drop_ring_parameters(): found out
// with a ring of our own, because an answer that came through another process's memory could be forged. `entries` is a
// power of two up to kMaxDropRingEntries. ENOSYS or EPERM: io_uring is missing or forbidden (kernel.io_uring_disabled).
Result<io_uring_params> measure_drop_ring(std::uint32_t entries);

class DropRing {
 public:
  struct Completion {
    std::uint64_t cookie = 0;
    int error = 0;  // errno; 0: the kernel says that the pages are gone
  };

  // `ring`: set up in the target with drop_ring_parameters() and not enabled yet. `geometry`: from measure_drop_ring().
  // Restricts and enables it. EBADF: not an io_uring. EBADMSG: not a ring of that shape. EBADFD: enabled already.
  static Result<DropRing> attach(UniqueFd ring, const io_uring_params& geometry);

  // The target's pages [range) shall go: MADV_DONTNEED. Never blocks. 0, or EAGAIN: as much in flight as the ring
  // holds, reap first; EINVAL: not whole pages, empty or above kMaxDropBytes; EOWNERDEAD: the target is gone; EBADMSG:
  // broken.
  [[nodiscard]] int submit(AddressRange range, std::uint64_t cookie);
  // Completions in any order, as many as there are and fit. Never blocks. Call it now and then while anything is in
  // flight: it also wakes the ring's thread should that have missed something.
  std::size_t reap(std::span<Completion> out);

  std::size_t in_flight() const { return in_flight_; }
  std::size_t capacity() const { return slots_.size(); }
  // The ring contradicted itself, or its owner is gone. What is in flight may or may not be dropped still: pagemap
  // tells.
  bool broken() const { return broken_ != 0; }
  // For poll(2): readable when there is something to reap. It cannot be sent over a socket (SCM_RIGHTS: EINVAL since
  // Linux 6.8), so nobody else can keep it: after the agent's end a new ring is placed.
  int fd() const { return ring_.get(); }

 private:
  struct Slot {
    std::uint64_t cookie = 0;
    std::uint32_t generation = 0;
    bool busy = false;
  };

  DropRing(UniqueFd ring, const io_uring_params& geometry, Mapping rings, Mapping entries);
  std::atomic_ref<std::uint32_t> word(std::uint32_t offset) const;
  bool settle(const io_uring_cqe& cqe, Completion& out);
  // Wakes the ring's kernel thread if it sleeps. 0 or errno.
  int wake();

  UniqueFd ring_;
  io_uring_params geometry_{};
  Mapping rings_;
  Mapping entries_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::size_t in_flight_ = 0;
  std::uint32_t submitted_ = 0;  // our submission tail
  std::uint32_t reaped_ = 0;     // our completion head
  int broken_ = 0;
};

}  // namespace tidepool::kernel
