// What the kernel does with pages in swap whose memory is registered with a userfaultfd: what the pager and the
// kernel's tier lean on when they have the same memory (docs/adr/0017). Against a zram device of the test's own.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "base/mapping.h"
#include "kmod-interfaces/pagemap.h"
#include "kmod-interfaces/userfaultfd.h"
#include "tests/support/zram_swap.h"

namespace tidepool {
namespace {

using namespace literals;
using namespace std::chrono_literals;
using kernel::Userfaultfd;

constexpr std::uint64_t kPages = 64;

class SwappedMemory : public testing::Test {
 protected:
  void SetUp() override {
    if (!zram_.missing().empty()) GTEST_SKIP() << "no zram swap: " << zram_.missing();
    auto fd = Userfaultfd::create_for_self();
    if (!fd) GTEST_SKIP() << "no userfaultfd: " << fd.error().message();
    userfaultfd_ = std::move(*fd);
    ASSERT_TRUE(userfaultfd_.handshake(UFFD_FEATURE_PAGEFAULT_FLAG_WP));
    auto memory = Mapping::anonymous(Bytes{kPages * kPageSize});
    ASSERT_TRUE(memory);
    memory_ = std::move(*memory);
    ASSERT_EQ(::madvise(memory_.data(), memory_.size(), MADV_NOHUGEPAGE), 0);
    for (std::uint64_t page = 0; page < kPages; ++page) std::memset(at(page), static_cast<int>(page + 1), kPageSize);
    auto pagemap = kernel::Pagemap::open(::getpid());
    ASSERT_TRUE(pagemap);
    pagemap_ = std::move(*pagemap);
    ASSERT_TRUE(userfaultfd_.register_range(whole(), UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP));
  }

  std::byte* at(std::uint64_t page) const { return memory_.data() + page * kPageSize; }
  std::uint64_t address(std::uint64_t page) const { return reinterpret_cast<std::uint64_t>(at(page)); }
  AddressRange range(std::uint64_t page) const { return {address(page), address(page) + kPageSize}; }
  AddressRange whole() const { return {address(0), address(kPages)}; }

  std::uint64_t count(std::uint64_t category, AddressRange in) const {
    std::uint64_t pages = 0;
    EXPECT_TRUE(
        pagemap_.for_each(in, category, [&](const auto& seen) { pages += (seen.end - seen.start) / kPageSize; }));
    return pages;
  }
  bool swapped(std::uint64_t page) const { return count(kernel::uapi::kPageIsSwapped, range(page)) == 1; }
  // The kernel passes over pages that are on its per-processor lists: a few attempts.
  void page_out() const {
    for (int attempt = 0; attempt < 50; ++attempt) {
      ASSERT_EQ(::madvise(memory_.data(), memory_.size(), MADV_PAGEOUT), 0);
      if (count(kernel::uapi::kPageIsSwapped, whole()) == kPages) return;
      std::this_thread::sleep_for(10ms);
    }
    FAIL() << count(kernel::uapi::kPageIsSwapped, whole()) << " of " << kPages << " pages are in swap";
  }
  bool holds(std::uint64_t page, std::uint64_t from = 0) const {
    const auto want = static_cast<std::byte>(page + 1);
    return std::all_of(at(page) + from, at(page) + kPageSize, [&](std::byte b) { return b == want; });
  }

  // Writes to the page; returns the flags of the fault that came of it, after it was answered by `answer`; nullopt when
  // there was none.
  template <class Answer>
  std::optional<std::uint64_t> write(std::uint64_t page, Answer&& answer) {
    std::atomic<bool> done{false};
    std::optional<std::uint64_t> flags;
    std::thread writer([&] {
      *reinterpret_cast<volatile std::byte*>(at(page)) = std::byte{0xee};
      done = true;
    });
    while (!done) {
      uffd_msg message{};
      if (userfaultfd_.read_events(std::span(&message, 1)) == 1) {
        EXPECT_EQ(message.event, UFFD_EVENT_PAGEFAULT);
        flags = std::uint64_t{message.arg.pagefault.flags};
        EXPECT_TRUE(count(kernel::uapi::kPageIsPresent, range(page)) == 0 || holds(page)) << "before it is answered";
        answer();
      }
      std::this_thread::sleep_for(1ms);
    }
    writer.join();
    return flags;
  }
  void unprotect(std::uint64_t page) { EXPECT_EQ(userfaultfd_.write_protect(range(page), false), 0); }

  tests::ZramSwap zram_{256_MiB};
  Userfaultfd userfaultfd_;
  Mapping memory_;
  kernel::Pagemap pagemap_;
};

TEST_F(SwappedMemory, ComesHomeByTheKernelAloneAndNobodyIsAsked) {
  page_out();
  for (std::uint64_t page = 0; page < kPages; ++page) EXPECT_TRUE(holds(page)) << page;
  EXPECT_FALSE(write(3, [] {}).has_value());
  EXPECT_TRUE(holds(3, 1));
  EXPECT_FALSE(userfaultfd_.has_message());
}

TEST_F(SwappedMemory, KeepsTheProtectionThatItHadWhenItWent) {
  ASSERT_EQ(userfaultfd_.write_protect(whole(), true), 0);
  page_out();
  // Reads bring it home protected.
  EXPECT_TRUE(holds(5));
  const auto after_read = write(5, [&] { unprotect(5); });
  ASSERT_TRUE(after_read.has_value());
  EXPECT_NE(*after_read & UFFD_PAGEFAULT_FLAG_WP, 0u);
  // A write finds it in swap, and waits all the same.
  ASSERT_TRUE(swapped(6));
  const auto from_swap = write(6, [&] { unprotect(6); });
  ASSERT_TRUE(from_swap.has_value());
  EXPECT_NE(*from_swap & UFFD_PAGEFAULT_FLAG_WP, 0u);
  EXPECT_TRUE(holds(6, 1));
}

TEST_F(SwappedMemory, IsProtectedAndUnprotectedWhereItIs) {
  page_out();
  ASSERT_EQ(userfaultfd_.write_protect(whole(), true), 0);
  EXPECT_TRUE(swapped(7)) << "protection brings nothing home";
  EXPECT_TRUE(write(7, [&] { unprotect(7); }).has_value());
  ASSERT_EQ(userfaultfd_.write_protect(range(8), false), 0);
  EXPECT_TRUE(swapped(8));
  EXPECT_FALSE(write(8, [] {}).has_value());
  EXPECT_TRUE(holds(8, 1));
}

TEST_F(SwappedMemory, TakesNoPageThatIsInstalledOverIt) {
  page_out();
  const std::vector<std::byte> other(kPageSize, std::byte{0x77});
  const auto outcome = userfaultfd_.copy(address(9), other.data(), kPageSize, false);
  EXPECT_EQ(outcome.done, 0u);
  EXPECT_EQ(outcome.error, EEXIST);
  EXPECT_TRUE(holds(9));
}

TEST_F(SwappedMemory, IsGoneAfterADropAndMissedAgain) {
  ASSERT_EQ(userfaultfd_.write_protect(range(10), true), 0);
  page_out();
  ASSERT_EQ(::madvise(at(10), kPageSize, MADV_DONTNEED), 0);
  EXPECT_FALSE(swapped(10));
  const std::vector<std::byte> content(kPageSize, std::byte{11});
  const auto flags =
      write(10, [&] { EXPECT_EQ(userfaultfd_.copy(address(10), content.data(), kPageSize, false).done, kPageSize); });
  ASSERT_TRUE(flags.has_value());
  EXPECT_EQ(*flags & UFFD_PAGEFAULT_FLAG_WP, 0u);
  EXPECT_TRUE(holds(10, 1));
}

TEST_F(SwappedMemory, LosesItsProtectionWithItsRegistration) {
  ASSERT_EQ(userfaultfd_.write_protect(whole(), true), 0);
  page_out();
  ASSERT_TRUE(userfaultfd_.unregister_range(whole()));
  EXPECT_TRUE(swapped(12));
  EXPECT_FALSE(write(12, [] {}).has_value());
  EXPECT_TRUE(holds(12, 1));
}

}  // namespace
}  // namespace tidepool
