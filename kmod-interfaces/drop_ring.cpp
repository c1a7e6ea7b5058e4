#include "kmod-interfaces/drop_ring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "kmod-interfaces/pidfd.h"
#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

constexpr const char* kRingTarget = "anon_inode:[io_uring]";
constexpr int kFdinfoAttempts = 100;

std::uint64_t rings_length(const io_uring_params& geometry) {
  const std::uint64_t submissions = geometry.sq_off.array + std::uint64_t{geometry.sq_entries} * sizeof(std::uint32_t);
  const std::uint64_t completions = geometry.cq_off.cqes + std::uint64_t{geometry.cq_entries} * sizeof(io_uring_cqe);
  return std::max(submissions, completions);
}

bool word_fits(std::uint32_t offset, std::uint64_t length) {
  return offset % sizeof(std::uint32_t) == 0 && offset + sizeof(std::uint32_t) <= length;
}

// Every offset that is used later, against the length that will be mapped and against the others.
bool plausible(const io_uring_params& geometry) {
  const std::uint32_t entries = geometry.sq_entries;
  if (entries == 0 || entries > kMaxDropRingEntries || !std::has_single_bit(entries)) return false;
  if (!std::has_single_bit(geometry.cq_entries) || geometry.cq_entries < entries ||
      geometry.cq_entries > 4 * kMaxDropRingEntries) {
    return false;
  }
  if ((geometry.features & IORING_FEAT_SINGLE_MMAP) == 0) return false;
  const std::uint64_t length = rings_length(geometry);
  // The kernel's layout puts a few words, then the arrays; anything far beyond them is not its work.
  if (length > (1u << 20) || geometry.cq_off.cqes % alignof(io_uring_cqe) != 0) return false;
  const std::array<std::uint32_t, 5> words{geometry.sq_off.tail, geometry.sq_off.flags, geometry.sq_off.array,
                                           geometry.cq_off.head, geometry.cq_off.tail};
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (!word_fits(words.at(i), length)) return false;
    for (std::size_t j = 0; j < i; ++j) {
      if (words.at(i) == words.at(j)) return false;
    }
  }
  return true;
}

// Sizes as the kernel has them, from fdinfo. The kernel leaves them out while somebody holds the ring's lock, and an
// unused ring has that lock free almost always.
Result<> check_shape(int ring, const io_uring_params& geometry) {
  const std::string path = "/proc/self/fdinfo/" + std::to_string(ring);
  for (int attempt = 0; attempt < kFdinfoAttempts; ++attempt) {
    const Result<std::string> text = read_file(path);
    if (!text) return tl::unexpected(text.error());
    const auto submissions = value_of(*text, "SqMask");
    const auto completions = value_of(*text, "CqMask");
    if (!submissions || !completions) {
      ::usleep(100);
      continue;
    }
    const auto mask = [](std::string_view text_mask) {
      return parse_hex(text_mask.starts_with("0x") ? text_mask.substr(2) : text_mask);
    };
    if (mask(*submissions) == geometry.sq_entries - 1 && mask(*completions) == geometry.cq_entries - 1) return {};
    return failure(std::errc::bad_message, "check", "drop ring: not the sizes that were asked for");
  }
  return failure(std::errc::device_or_resource_busy, "check", "drop ring: its sizes cannot be read");
}

Result<> register_ring(int ring, unsigned operation, const void* argument, unsigned count, const char* what) {
  if (::syscall(SYS_io_uring_register, ring, operation, argument, count) < 0) return errno_failure(what, "drop ring");
  return {};
}

Result<> restrict_and_enable(int ring) {
  // Workers first: once restrictions are in force no registration is possible, which is the point of them.
  std::array<std::uint32_t, 2> workers{kDropWorkers, kDropWorkers};
  if (auto done = register_ring(ring, IORING_REGISTER_IOWQ_MAX_WORKERS, workers.data(), 2, "bound the workers of");
      !done)
    return done;
  io_uring_restriction only_madvise{};
  only_madvise.opcode = IORING_RESTRICTION_SQE_OP;
  only_madvise.sqe_op = IORING_OP_MADVISE;
  if (auto done = register_ring(ring, IORING_REGISTER_RESTRICTIONS, &only_madvise, 1, "restrict"); !done) return done;
  return register_ring(ring, IORING_REGISTER_ENABLE_RINGS, nullptr, 0, "enable");
}

}  // namespace

io_uring_params drop_ring_parameters(std::uint32_t idle_ms) {
  io_uring_params parameters{};
  parameters.flags = IORING_SETUP_SQPOLL | IORING_SETUP_R_DISABLED;
  parameters.sq_thread_idle = idle_ms;
  return parameters;
}

Result<io_uring_params> measure_drop_ring(std::uint32_t entries) {
  if (entries == 0 || entries > kMaxDropRingEntries || !std::has_single_bit(entries))
    return failure(std::errc::invalid_argument, "measure", "drop ring of " + std::to_string(entries) + " entries");
  io_uring_params parameters{};
  // No SQPOLL: the kernel thread has no part in the layout and need not be started for it.
  parameters.flags = IORING_SETUP_R_DISABLED;
  const UniqueFd ring{static_cast<int>(::syscall(SYS_io_uring_setup, entries, &parameters))};
  if (!ring.valid()) {
    return errno_failure("set up", "io_uring",
                         errno == EPERM ? "kernel.io_uring_disabled forbids io_uring here" : std::string{});
  }
  if (!plausible(parameters)) return failure(std::errc::not_supported, "use", "this kernel's io_uring layout");
  return parameters;
}

Result<DropRing> DropRing::attach(UniqueFd ring, const io_uring_params& geometry) {
  if (descriptor_target(ring.get()) != kRingTarget)
    return failure(std::errc::bad_file_descriptor, "attach to", "drop ring: the descriptor is not an io_uring");
  if (!plausible(geometry)) return failure(std::errc::bad_message, "attach to", "drop ring: impossible layout");
  if (auto same = check_shape(ring.get(), geometry); !same) return tl::unexpected(same.error());
  const int flags = MAP_SHARED | MAP_POPULATE;
  // Fails when the ring is shorter, so nothing that is mapped lies behind its end.
  auto rings = Mapping::of_file(ring.get(), Bytes{rings_length(geometry)}, Bytes{IORING_OFF_SQ_RING},
                                PROT_READ | PROT_WRITE, flags);
  if (!rings) return tl::unexpected(rings.error());
  auto entries = Mapping::of_file(ring.get(), Bytes{geometry.sq_entries * sizeof(io_uring_sqe)}, Bytes{IORING_OFF_SQES},
                                  PROT_READ | PROT_WRITE, flags);
  if (!entries) return tl::unexpected(entries.error());
  if (auto ready = restrict_and_enable(ring.get()); !ready) return tl::unexpected(ready.error());
  return DropRing{std::move(ring), geometry, std::move(*rings), std::move(*entries)};
}

DropRing::DropRing(UniqueFd ring, const io_uring_params& geometry, Mapping rings, Mapping entries)
    : ring_(std::move(ring)),
      geometry_(geometry),
      rings_(std::move(rings)),
      entries_(std::move(entries)),
      slots_(geometry.sq_entries) {
  free_slots_.reserve(slots_.size());
  for (std::uint32_t slot = geometry.sq_entries; slot > 0; --slot) free_slots_.push_back(slot - 1);
}

std::atomic_ref<std::uint32_t> DropRing::word(std::uint32_t offset) const {
  return std::atomic_ref<std::uint32_t>(*reinterpret_cast<std::uint32_t*>(rings_.data() + offset));
}

int DropRing::submit(AddressRange range, std::uint64_t cookie) {
  if (broken_ != 0) return broken_;
  if (range.empty() || range.start % kPageSize != 0 || range.end % kPageSize != 0 || range.size() > kMaxDropBytes.value)
    return EINVAL;
  if (free_slots_.empty()) return EAGAIN;
  const std::uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  slots_[slot] = Slot{.cookie = cookie, .generation = slots_[slot].generation + 1, .busy = true};
  ++in_flight_;

  // The kernel takes entries in order, and each that completed was taken. So with fewer than sq_entries in flight this
  // position is free, and its head, which the target might forge, need not be read.
  const std::uint32_t position = submitted_ & (geometry_.sq_entries - 1);
  io_uring_sqe entry{};
  entry.opcode = IORING_OP_MADVISE;
  entry.fd = -1;
  entry.addr = range.start;
  entry.len = static_cast<std::uint32_t>(range.size());
  entry.fadvise_advice = MADV_DONTNEED;
  entry.user_data = (std::uint64_t{slots_[slot].generation} << 32) | slot;
  std::memcpy(entries_.data() + std::size_t{position} * sizeof entry, &entry, sizeof entry);
  word(geometry_.sq_off.array + position * static_cast<std::uint32_t>(sizeof(std::uint32_t)))
      .store(position, std::memory_order_relaxed);
  ++submitted_;
  word(geometry_.sq_off.tail).store(submitted_, std::memory_order_release);
  if (const int error = wake(); error != 0) return broken_ = error;
  return 0;
}

int DropRing::wake() {
  // Pairs with the barrier in the kernel's thread between announcing its sleep and looking at the tail once more.
  // An exchange of nothing in place of a fence, which the thread sanitizer does not know.
  word(geometry_.sq_off.tail).fetch_or(0, std::memory_order_seq_cst);
  if ((word(geometry_.sq_off.flags).load(std::memory_order_relaxed) & IORING_SQ_NEED_WAKEUP) == 0) return 0;
  const long woken = ::syscall(SYS_io_uring_enter, ring_.get(), 0, 0, IORING_ENTER_SQ_WAKEUP, nullptr, 0);
  return woken < 0 ? errno : 0;
}

std::size_t DropRing::reap(std::span<Completion> out) {
  if (in_flight_ == 0 || broken_ != 0) return 0;
  std::uint32_t available = word(geometry_.cq_off.tail).load(std::memory_order_acquire) - reaped_;
  if (available == 0) {
    if (const int error = wake(); error != 0) broken_ = error;
    return 0;
  }
  std::size_t count = 0;
  for (; available > 0 && count < out.size(); --available) {
    io_uring_cqe cqe{};
    const std::size_t position = reaped_ & (geometry_.cq_entries - 1);
    std::memcpy(&cqe, rings_.data() + geometry_.cq_off.cqes + position * sizeof cqe, sizeof cqe);
    // More completions than drops, or one that was never asked for: somebody else writes here.
    if (!settle(cqe, out[count])) {
      broken_ = EBADMSG;
      break;
    }
    ++reaped_;
    ++count;
  }
  word(geometry_.cq_off.head).store(reaped_, std::memory_order_release);
  return count;
}

bool DropRing::settle(const io_uring_cqe& cqe, Completion& out) {
  const auto slot = static_cast<std::uint32_t>(cqe.user_data);
  const auto generation = static_cast<std::uint32_t>(cqe.user_data >> 32);
  if (slot >= slots_.size() || !slots_[slot].busy || slots_[slot].generation != generation) return false;
  if (cqe.res > 0 || cqe.res < -4095) return false;
  slots_[slot].busy = false;
  free_slots_.push_back(slot);
  --in_flight_;
  out = Completion{.cookie = slots_[slot].cookie, .error = -cqe.res};
  return true;
}

}  // namespace tidepool::kernel
