// What a store's process leaves behind when it is killed, and what a successor makes of it, damaged or not.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <random>
#include <thread>
#include <vector>

#include "pool/store/medium.h"
#include "pool/store/slot_table.h"
#include "tests/unit/pool/store/store_kinds.h"
#include "tests/unit/pool/store/store_kit.h"

namespace tidepool::pool {
namespace {

using namespace literals;
using namespace testing;

struct Written {
  Location location;
  std::uint64_t seed;
};

// Shared with a child that will be killed: what it has written so far.
struct Journal {
  std::atomic<std::uint64_t> count;
  std::array<Written, 200000> entries;
};

TEST_P(StoreTest, AKilledWritersPagesAreAllThere) {
  auto store = create(GetParam());
  void* shared = ::mmap(nullptr, sizeof(Journal), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto* journal = static_cast<Journal*>(shared);
  const pid_t pid = ::fork();
  if (pid == 0) {
    std::mt19937_64 random(3);
    while (true) {
      const std::uint64_t n = journal->count;
      // Releasing some on the way leaves freed and half-moved things behind as well.
      const std::uint64_t seed = random();
      const auto [status, location] = put(*store, make_page(seed));
      if (status != PageStatus::kOk) continue;
      if (seed % 3 == 0) {
        drop(*store, location);
        if (seed % 30 == 0) store->maintain();
        continue;
      }
      if (n >= journal->entries.size()) continue;
      journal->entries[n] = {location, seed};
      journal->count = n + 1;
    }
  }
  while (journal->count < 3000) std::this_thread::yield();
  ::kill(pid, SIGKILL);
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);

  auto successor = reopen(GetParam(), data_fd(*store), table_fd(*store));
  ASSERT_TRUE(successor.has_value()) << successor.error().message();
  const std::uint64_t count = journal->count;
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto& [location, seed] = journal->entries[i];
    ASSERT_TRUE(holds(**successor, location, make_page(seed))) << i;
  }
  EXPECT_EQ((*successor)->errors().bad_entries, 0u);
  std::uint64_t live = 0;
  (*successor)->for_each_live([&](Location, std::uint32_t references) {
    ++live;
    EXPECT_EQ(references, 1u);
  });
  EXPECT_GE(live, count);
  EXPECT_LE(live, count + 1) << "at most the one that was being written";
  EXPECT_EQ((*successor)->usage().pages, PageCount{live});
  const auto used = static_cast<double>((*successor)->usage().used.value);
  const auto host = static_cast<double>(host_bytes(**successor));
  EXPECT_GE(used, host * 0.98);
  EXPECT_LE(used, host * 1.02 + static_cast<double>((*successor)->usage().metadata.value));
  // And it is a store like any other.
  const Location fresh = put_ok(**successor, make_page(99));
  EXPECT_TRUE(holds(**successor, fresh, make_page(99)));
  for (std::uint64_t i = 0; i < count; ++i) drop(**successor, journal->entries[i].location);
  EXPECT_EQ((*successor)->errors().refused_releases, 0u);
  ::munmap(shared, sizeof(Journal));
}

TEST_P(StoreTest, OpensOnlyWhatBelongsTogether) {
  auto one = create(GetParam());
  auto two = create(GetParam());
  put_ok(*one, make_page(1));
  EXPECT_FALSE(reopen(GetParam(), data_fd(*two), table_fd(*one)));
  EXPECT_FALSE(reopen(GetParam(), table_fd(*one), data_fd(*one)));
  EXPECT_FALSE(reopen(GetParam(), -1, table_fd(*one)));
  EXPECT_FALSE(reopen(GetParam(), data_fd(*one), -1));
  const Kind other = GetParam() == Kind::kMapped ? Kind::kLz4 : Kind::kMapped;
  EXPECT_FALSE(reopen(other, data_fd(*one), table_fd(*one)));
  if (GetParam() != Kind::kMapped) {
    EXPECT_FALSE(reopen(GetParam() == Kind::kLz4 ? Kind::kZstd : Kind::kLz4, data_fd(*one), table_fd(*one)));
  }
  UniqueFd unsealed{::memfd_create("table", MFD_CLOEXEC)};
  ASSERT_EQ(::ftruncate(unsealed.get(), 1 << 20), 0);
  EXPECT_FALSE(reopen(GetParam(), data_fd(*one), unsealed.get()));
  EXPECT_TRUE(reopen(GetParam(), data_fd(*one), table_fd(*one)));
}

TEST_P(StoreTest, RefusesAHeaderWithAnyBitFlipped) {
  auto store = create(GetParam());
  put_ok(*store, make_page(1));
  std::array<std::byte, sizeof(StoreHeader)> header{};
  ASSERT_EQ(::pread(table_fd(*store), header.data(), header.size(), 0), static_cast<ssize_t>(header.size()));
  for (std::size_t bit = 0; bit < header.size() * 8; ++bit) {
    auto damaged = header;
    damaged[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    ASSERT_EQ(::pwrite(table_fd(*store), damaged.data(), damaged.size(), 0), static_cast<ssize_t>(damaged.size()));
    ASSERT_FALSE(reopen(GetParam(), data_fd(*store), table_fd(*store))) << "bit " << bit;
  }
  ASSERT_EQ(::pwrite(table_fd(*store), header.data(), header.size(), 0), static_cast<ssize_t>(header.size()));
  EXPECT_TRUE(reopen(GetParam(), data_fd(*store), table_fd(*store)));
}

// The files' bytes, for damaging them behind a store's back.
class Damage {
 public:
  Damage(int fd, std::uint64_t seed) : fd_(fd), random_(seed) {}
  void flip_bit(std::uint64_t offset) {
    std::uint8_t byte = 0;
    if (::pread(fd_, &byte, 1, static_cast<off_t>(offset)) != 1) return;
    byte ^= static_cast<std::uint8_t>(1u << (random_() % 8));
    EXPECT_EQ(::pwrite(fd_, &byte, 1, static_cast<off_t>(offset)), 1);
  }
  void overwrite_word(std::uint64_t offset) {
    // Wild values, and near ones that look right.
    std::uint64_t word = random_();
    if (random_() % 2 == 0) {
      if (::pread(fd_, &word, sizeof(word), static_cast<off_t>(offset)) != sizeof(word)) return;
      word += random_() % 64;
    }
    EXPECT_EQ(::pwrite(fd_, &word, sizeof(word), static_cast<off_t>(offset)), static_cast<ssize_t>(sizeof(word)));
  }
  std::uint64_t random(std::uint64_t below) { return random_() % below; }

 private:
  int fd_;
  std::mt19937_64 random_;
};

// Every page is read right or not at all.
void expect_no_wrong_bytes(PageStore& store, const std::vector<Written>& written) {
  for (const auto& [location, seed] : written) {
    Page page;
    if (get(store, location, page) == PageStatus::kOk) {
      ASSERT_TRUE(page == make_page(seed));
    }
  }
}

std::uint64_t populated_end(int fd) {
  struct stat status {};
  EXPECT_EQ(::fstat(fd, &status), 0);
  std::uint64_t end = 0;
  for_each_extent(fd, Bytes{static_cast<std::uint64_t>(status.st_size)}, [&](Bytes, Bytes last) { end = last.value; });
  return end;
}

TEST_P(StoreTest, AnswersCorruptForDamagedBytes) {
  auto store = create(GetParam());
  std::vector<Written> written;
  for (std::uint64_t i = 0; i < 500; ++i) written.push_back({put_ok(*store, make_page(i)), i});
  const std::uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  Damage damage(data_fd(*store), seed);
  const std::uint64_t end = populated_end(data_fd(*store));
  for (int i = 0; i < 3000; ++i) damage.flip_bit(damage.random(end));
  expect_no_wrong_bytes(*store, written);
  EXPECT_GT(store->errors().corrupt_pages, 0u);
}

// The files are hostile: whatever is in them, a successor reads right bytes or none, stays within bounds (the
// sanitizers look), and works.
TEST_P(StoreTest, SurvivesAnyDamageToWhatItTakesOver) {
  const std::uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  for (std::uint64_t round = 0; round < 30; ++round) {
    auto store = create(GetParam());
    std::vector<Written> written;
    for (std::uint64_t i = 0; i < 400; ++i) written.push_back({put_ok(*store, make_page(i)), i});
    Damage damage(table_fd(*store), seed + round);
    const std::uint64_t entries = GetParam() == Kind::kMapped ? 400 : 800;
    for (std::uint64_t i = 0; i < 1 + round * 10; ++i) {
      const std::uint64_t offset = kStoreHeaderBytes + 8 * damage.random(entries);
      damage.random(2) == 0 ? damage.overwrite_word(offset) : damage.flip_bit(offset);
    }
    auto successor = reopen(GetParam(), data_fd(*store), table_fd(*store));
    ASSERT_TRUE(successor.has_value()) << "entries are checked one by one: " << successor.error().message();
    expect_no_wrong_bytes(**successor, written);
    std::vector<Written> fresh;
    for (std::uint64_t i = 1000; i < 1400; ++i) {
      const auto [status, location] = put(**successor, make_page(i));
      if (status == PageStatus::kOk) fresh.push_back({location, i});
    }
    EXPECT_EQ(fresh.size(), 400u);
    for (const auto& [location, page] : fresh) ASSERT_TRUE(holds(**successor, location, make_page(page)));
    for (int i = 0; i < 20; ++i) (*successor)->maintain();
    expect_no_wrong_bytes(**successor, written);
    for (const auto& [location, page] : written) drop(**successor, location);
    for (const auto& [location, page] : fresh) ASSERT_TRUE(holds(**successor, location, make_page(page)));
  }
}

// Each damaged entry costs its own page and no other.
TEST_P(StoreTest, OneDamagedEntryCostsOnePage) {
  auto store = create(GetParam());
  std::vector<Written> written;
  for (std::uint64_t i = 0; i < 400; ++i) written.push_back({put_ok(*store, make_page(i)), i});
  const std::uint64_t victim = static_cast<std::uint64_t>(written[17].location) & 0xffffffff;
  const std::uint64_t entry_bytes = GetParam() == Kind::kMapped ? 8 : 16;
  const std::uint64_t nonsense = ~0ull;
  const auto offset = static_cast<off_t>(kStoreHeaderBytes + victim * entry_bytes + (entry_bytes - 8));
  ASSERT_EQ(::pwrite(table_fd(*store), &nonsense, 8, offset), 8);
  auto successor = reopen(GetParam(), data_fd(*store), table_fd(*store));
  ASSERT_TRUE(successor.has_value());
  EXPECT_EQ((*successor)->errors().bad_entries, 1u);
  for (std::size_t i = 0; i < written.size(); ++i) {
    Page page;
    if (i == 17) {
      EXPECT_EQ(get(**successor, written[i].location, page), PageStatus::kCorrupt);
    } else {
      ASSERT_TRUE(holds(**successor, written[i].location, make_page(written[i].seed)));
    }
  }
}

TEST_P(StoreTest, IsNotPopulatedByAProcessThatLocksAllItsMemory) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (::mlockall(MCL_CURRENT | MCL_FUTURE) != 0) ::_exit(2);
    auto store = try_create(GetParam(), 32_MiB);
    if (!store) ::_exit(3);
    ::_exit(host_bytes(**store) < (1u << 20) ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 2) GTEST_SKIP() << "memory may not be locked here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace tidepool::pool
