// The drop ring, made in this very process: what it drops, what it refuses, what it survives.
#include "kmod-interfaces/drop_ring.h"

#include <gtest/gtest.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <set>
#include <thread>

#include "base/clock.h"
#include "base/mapping.h"
#include "kmod-interfaces/pidfd.h"
#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

constexpr std::uint32_t kEntries = 8;
constexpr auto kLimit = std::chrono::seconds(30);

UniqueFd new_ring(std::uint32_t entries, std::uint32_t extra_flags = 0) {
  io_uring_params parameters = drop_ring_parameters(1);
  parameters.flags |= extra_flags;
  return UniqueFd{static_cast<int>(::syscall(SYS_io_uring_setup, entries, &parameters))};
}

std::size_t open_descriptors() {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator{}));
}

AddressRange pages_of(const Mapping& memory, std::uint64_t first, std::uint64_t count) {
  const auto start = reinterpret_cast<std::uint64_t>(memory.data()) + first * kPageSize;
  return {start, start + count * kPageSize};
}

class DropRingTest : public testing::Test {
 protected:
  void SetUp() override {
    auto geometry = measure_drop_ring(kEntries);
    if (!geometry) GTEST_SKIP() << geometry.error().message();
    geometry_ = *geometry;
    memory_ = *Mapping::anonymous(Bytes{kPages * kPageSize});
    std::memset(memory_.data(), 0x5a, memory_.size());
  }

  Result<DropRing> attach() { return DropRing::attach(new_ring(kEntries), geometry_); }

  static std::vector<DropRing::Completion> reap(DropRing& ring, std::size_t wanted) {
    std::vector<DropRing::Completion> all;
    const SystemClock clock;
    const MonoTime deadline = clock.now() + kLimit;
    while (all.size() < wanted && clock.now() < deadline && !ring.broken()) {
      std::array<DropRing::Completion, 3> some{};
      const std::size_t count = ring.reap(some);
      all.insert(all.end(), some.begin(), some.begin() + static_cast<std::ptrdiff_t>(count));
      if (count == 0) std::this_thread::yield();
    }
    return all;
  }

  static constexpr std::uint64_t kPages = 256;
  io_uring_params geometry_{};
  Mapping memory_;
};

TEST_F(DropRingTest, DropsWhatItIsToldAndNothingElse) {
  auto ring = attach();
  ASSERT_TRUE(ring) << ring.error().message();
  ASSERT_EQ(ring->submit(pages_of(memory_, 3, 2), 42), 0);
  EXPECT_EQ(ring->in_flight(), 1U);
  const auto done = reap(*ring, 1);
  ASSERT_EQ(done.size(), 1U);
  EXPECT_EQ(done[0].cookie, 42U);
  EXPECT_EQ(done[0].error, 0);
  EXPECT_EQ(ring->in_flight(), 0U);
  for (std::uint64_t page = 0; page < kPages; ++page) {
    const auto expected = page == 3 || page == 4 ? std::byte{0} : std::byte{0x5a};
    EXPECT_EQ(memory_.bytes()[page * kPageSize + 17], expected) << page;
  }
}

TEST_F(DropRingTest, SaysWouldBlockWhenFullAndGoesOnAfterReaping) {
  auto ring = attach();
  ASSERT_TRUE(ring) << ring.error().message();
  ASSERT_EQ(ring->capacity(), kEntries);
  std::set<std::uint64_t> open;
  std::uint64_t next = 0;
  bool was_full = false;
  while (next < kPages) {
    const int error = ring->submit(pages_of(memory_, next, 1), next);
    if (error == 0) {
      open.insert(next++);
      continue;
    }
    ASSERT_EQ(error, EAGAIN);
    was_full = true;
    EXPECT_EQ(ring->in_flight(), kEntries);
    for (const auto& completion : reap(*ring, 1)) EXPECT_EQ(open.erase(completion.cookie), 1U);
  }
  for (const auto& completion : reap(*ring, open.size())) EXPECT_EQ(open.erase(completion.cookie), 1U);
  EXPECT_TRUE(was_full);
  EXPECT_TRUE(open.empty());
  EXPECT_TRUE(std::ranges::all_of(memory_.bytes(), [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(DropRingTest, WakesItsKernelThreadAfterItSlept) {
  auto ring = attach();
  ASSERT_TRUE(ring) << ring.error().message();
  for (std::uint64_t round = 0; round < 5; ++round) {
    // Far beyond the 1 ms after which the thread goes to sleep; drops must complete whether it did or not.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ASSERT_EQ(ring->submit(pages_of(memory_, round, 1), round), 0);
    ASSERT_EQ(reap(*ring, 1).size(), 1U) << round;
  }
}

TEST_F(DropRingTest, ReportsWhatTheKernelRefuses) {
  auto ring = attach();
  ASSERT_TRUE(ring) << ring.error().message();
  const auto unmapped = *Mapping::reserve(Bytes{4 * kPageSize});
  const AddressRange gone = pages_of(unmapped, 0, 4);
  ::munmap(unmapped.data(), unmapped.size());
  ASSERT_EQ(ring->submit(gone, 7), 0);
  const auto done = reap(*ring, 1);
  ASSERT_EQ(done.size(), 1U);
  EXPECT_EQ(done[0].error, ENOMEM);
}

TEST_F(DropRingTest, RefusesRangesThatAreNotWholePages) {
  auto ring = attach();
  ASSERT_TRUE(ring) << ring.error().message();
  const AddressRange good = pages_of(memory_, 0, 1);
  EXPECT_EQ(ring->submit({good.start + 1, good.end}, 0), EINVAL);
  EXPECT_EQ(ring->submit({good.start, good.end - 8}, 0), EINVAL);
  EXPECT_EQ(ring->submit({good.start, good.start}, 0), EINVAL);
  EXPECT_EQ(ring->submit({good.end, good.start}, 0), EINVAL);
  EXPECT_EQ(ring->submit({0, kMaxDropBytes.value + kPageSize}, 0), EINVAL);
  EXPECT_EQ(ring->in_flight(), 0U);
}

TEST_F(DropRingTest, LetsNobodyRunOtherOperationsOrRegisterAnything) {
  auto ring = attach();
  ASSERT_TRUE(ring) << ring.error().message();
  // A second view of the same ring, as somebody who kept a descriptor of it would have.
  auto rings = Mapping::of_file(ring->fd(), Bytes{4096}, Bytes{IORING_OFF_SQ_RING}, PROT_READ | PROT_WRITE, MAP_SHARED);
  auto entries = Mapping::of_file(ring->fd(), Bytes{kEntries * sizeof(io_uring_sqe)}, Bytes{IORING_OFF_SQES},
                                  PROT_READ | PROT_WRITE, MAP_SHARED);
  ASSERT_TRUE(rings && entries);
  io_uring_sqe nop{};
  nop.opcode = IORING_OP_NOP;
  nop.user_data = 99;
  std::memcpy(entries->data(), &nop, sizeof nop);
  const auto word = [&](std::uint32_t offset) {
    return std::atomic_ref<std::uint32_t>(*reinterpret_cast<std::uint32_t*>(rings->data() + offset));
  };
  word(geometry_.sq_off.array).store(0);
  word(geometry_.sq_off.tail).store(1);
  const SystemClock clock;
  const MonoTime deadline = clock.now() + kLimit;
  while (word(geometry_.cq_off.tail).load() == 0 && clock.now() < deadline) {
    ::syscall(SYS_io_uring_enter, ring->fd(), 0, 0, IORING_ENTER_SQ_WAKEUP, nullptr, 0);
    std::this_thread::yield();
  }
  io_uring_cqe cqe{};
  std::memcpy(&cqe, rings->data() + geometry_.cq_off.cqes, sizeof cqe);
  EXPECT_EQ(cqe.user_data, 99U);
  EXPECT_EQ(cqe.res, -EACCES);
  std::array<int, 1> files{0};
  EXPECT_EQ(::syscall(SYS_io_uring_register, ring->fd(), IORING_REGISTER_FILES, files.data(), 1), -1);
  EXPECT_EQ(errno, EACCES);
  EXPECT_EQ(::syscall(SYS_io_uring_register, ring->fd(), IORING_REGISTER_RESTRICTIONS, nullptr, 0), -1);
}

TEST_F(DropRingTest, BreaksRatherThanBelieveForgedCompletions) {
  for (const std::uint64_t forged_user_data : {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{kEntries}}) {
    auto ring = attach();
    ASSERT_TRUE(ring) << ring.error().message();
    auto rings =
        Mapping::of_file(ring->fd(), Bytes{4096}, Bytes{IORING_OFF_SQ_RING}, PROT_READ | PROT_WRITE, MAP_SHARED);
    ASSERT_TRUE(rings);
    ASSERT_EQ(ring->submit(pages_of(memory_, 0, 1), 1), 0);
    ASSERT_EQ(reap(*ring, 1).size(), 1U);
    ASSERT_EQ(ring->submit(pages_of(memory_, 1, 1), 2), 0);
    ASSERT_EQ(reap(*ring, 1).size(), 1U);
    const std::atomic_ref<std::uint32_t> tail(*reinterpret_cast<std::uint32_t*>(rings->data() + geometry_.cq_off.tail));
    const std::uint32_t before = tail;
    ASSERT_EQ(ring->submit(pages_of(memory_, 2, 1), 3), 0);
    // The kernel has said its own first: it would overwrite what is forged.
    while (tail == before) std::this_thread::yield();
    // A tail far ahead announces entries that hold stale or made-up completions.
    io_uring_cqe forged{};
    forged.user_data = forged_user_data;
    for (std::uint32_t i = 0; i < geometry_.cq_entries; ++i)
      std::memcpy(rings->data() + geometry_.cq_off.cqes + i * sizeof forged, &forged, sizeof forged);
    tail.store(0xfffffff0U);
    std::array<DropRing::Completion, 64> out{};
    EXPECT_LE(ring->reap(out), 1U);
    EXPECT_TRUE(ring->broken());
    EXPECT_EQ(ring->submit(pages_of(memory_, 3, 1), 4), EBADMSG);
    EXPECT_EQ(ring->reap(out), 0U);
  }
}

TEST_F(DropRingTest, RefusesDescriptorsThatAreNotFreshRingsOfThatShape) {
  const std::size_t before = open_descriptors();
  UniqueFd memfd{::memfd_create("not a ring", MFD_CLOEXEC)};
  ASSERT_EQ(::ftruncate(memfd.get(), 1 << 20), 0);
  EXPECT_EQ(DropRing::attach(std::move(memfd), geometry_).error().code, std::errc::bad_file_descriptor);
  EXPECT_EQ(DropRing::attach(UniqueFd{}, geometry_).error().code, std::errc::bad_file_descriptor);
  EXPECT_EQ(DropRing::attach(new_ring(2 * kEntries), geometry_).error().code, std::errc::bad_message);
  EXPECT_EQ(DropRing::attach(new_ring(kEntries / 2), geometry_).error().code, std::errc::bad_message);
  // Enabled already: somebody may have made it do anything.
  UniqueFd enabled = new_ring(kEntries);
  ASSERT_EQ(::syscall(SYS_io_uring_register, enabled.get(), IORING_REGISTER_ENABLE_RINGS, nullptr, 0), 0);
  EXPECT_EQ(DropRing::attach(std::move(enabled), geometry_).error().code.value(), EBADFD);
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(DropRingTest, RefusesImpossibleLayouts) {
  const auto refused = [&](auto change) {
    io_uring_params geometry = geometry_;
    change(geometry);
    const auto ring = DropRing::attach(new_ring(kEntries), geometry);
    return !ring && ring.error().code == std::errc::bad_message;
  };
  EXPECT_TRUE(refused([](auto& g) { g.sq_entries = 0; }));
  EXPECT_TRUE(refused([](auto& g) { g.sq_entries = 3; }));
  EXPECT_TRUE(refused([](auto& g) { g.sq_entries = 0x80000000U; }));
  EXPECT_TRUE(refused([](auto& g) { g.cq_entries = 4; }));
  EXPECT_TRUE(refused([](auto& g) { g.cq_entries = 0xffffffffU; }));
  EXPECT_TRUE(refused([](auto& g) { g.cq_off.cqes = 0xfffffff0U; }));
  EXPECT_TRUE(refused([](auto& g) { g.cq_off.cqes += 4; }));
  EXPECT_TRUE(refused([](auto& g) { g.cq_off.tail = 0x7ffffffcU; }));
  EXPECT_TRUE(refused([](auto& g) { g.sq_off.tail += 1; }));
  EXPECT_TRUE(refused([](auto& g) { g.sq_off.flags = 0xfffffffcU; }));
  EXPECT_TRUE(refused([](auto& g) { g.sq_off.array = 0xfffffffcU; }));
  EXPECT_TRUE(refused([](auto& g) { g.sq_off.tail = g.cq_off.head; }));
  EXPECT_TRUE(refused([](auto& g) { g.features = 0; }));
}

TEST(MeasureDropRing, RefusesSizesThatARingCannotHave) {
  for (const std::uint32_t entries : {0U, 3U, kMaxDropRingEntries * 2, 0xffffffffU})
    EXPECT_EQ(measure_drop_ring(entries).error().code, std::errc::invalid_argument) << entries;
}

}  // namespace
}  // namespace tidepool::kernel
