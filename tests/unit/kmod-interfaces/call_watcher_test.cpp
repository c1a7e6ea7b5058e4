#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "base/mapping.h"
#include "kmod-interfaces/advice_calls.h"
#include "kmod-interfaces/userfaultfd.h"

namespace tidepool::kernel {
namespace {

constexpr int kPopulate = 22;  // MADV_POPULATE_READ
constexpr auto kPatience = std::chrono::seconds(60);

// Threads that stand still inside madvise, each on a page of its own that nobody fills, until this is gone.
class Advisers {
 public:
  Advisers(Userfaultfd userfaultfd, Mapping memory)
      : userfaultfd_(std::move(userfaultfd)), memory_(std::move(memory)) {}
  ~Advisers() { release(); }

  void add(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
      threads_.emplace_back(
          [page = address_of(used_++)] { ::madvise(reinterpret_cast<void*>(page), kPageSize, kPopulate); });
  }
  void release() {
    const std::vector<std::byte> content(kPageSize);
    for (std::size_t page = 0; page < used_; ++page)
      userfaultfd_.copy(address_of(page), content.data(), kPageSize, false);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  std::uint64_t address_of(std::size_t page) const {
    return reinterpret_cast<std::uint64_t>(memory_.data()) + page * kPageSize;
  }

 private:
  Userfaultfd userfaultfd_;
  Mapping memory_;
  std::vector<std::thread> threads_;
  std::size_t used_ = 0;  // pages
};

class CallWatcherTest : public testing::Test {
 protected:
  static constexpr std::size_t kPages = 2 * CallWatcher::kKeptFiles;

  void SetUp() override {
    auto userfaultfd = Userfaultfd::create_for_self();
    if (!userfaultfd) GTEST_SKIP() << "no userfaultfd here: " << userfaultfd.error().message();
    auto memory = Mapping::anonymous(Bytes{kPages * kPageSize});
    ASSERT_TRUE(memory);
    const auto start = reinterpret_cast<std::uint64_t>(memory->data());
    ASSERT_TRUE(userfaultfd->handshake(0));
    ASSERT_TRUE(userfaultfd->register_range({start, start + memory->size()}, UFFDIO_REGISTER_MODE_MISSING));
    advisers_ = std::make_unique<Advisers>(std::move(*userfaultfd), std::move(*memory));
  }
  // How many of the pages a thread was seen to call madvise for.
  std::size_t seen() {
    const auto found = watcher_.look();
    EXPECT_TRUE(found);
    std::size_t pages = 0;
    for (std::size_t page = 0; found && page < kPages; ++page) {
      pages += std::ranges::any_of(found->calls, [&](const AdviceCall& call) {
        return call.advice == kPopulate && call.range.start == advisers_->address_of(page) &&
               call.range.end == call.range.start + kPageSize;
      });
    }
    return pages;
  }
  bool comes_to(std::size_t pages) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (seen() != pages) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }

  std::unique_ptr<Advisers> advisers_;
  CallWatcher watcher_{::getpid()};
};

TEST_F(CallWatcherTest, SeesThreadsThatComeAndGo) {
  EXPECT_EQ(seen(), 0u);
  advisers_->add(3);
  EXPECT_TRUE(comes_to(3));
  advisers_->add(2);
  EXPECT_TRUE(comes_to(5));
  advisers_->release();
  EXPECT_EQ(seen(), 0u);
  advisers_->add(4);
  EXPECT_TRUE(comes_to(4));
}

TEST_F(CallWatcherTest, SeesMoreThreadsThanItKeepsFilesOf) {
  advisers_->add(kPages);
  EXPECT_TRUE(comes_to(kPages));
  EXPECT_TRUE(comes_to(kPages));
}

TEST(CallWatcher, SaysThatAProcessIsGone) {
  // Above the largest number that the kernel gives (PID_MAX_LIMIT).
  CallWatcher watcher{(1 << 22) + 1};
  const auto found = watcher.look();
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, std::errc::no_such_file_or_directory);
}

}  // namespace
}  // namespace tidepool::kernel
