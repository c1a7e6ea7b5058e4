#include "pool/client/vm_secret.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <set>
#include <thread>
#include <vector>

namespace tidepool::pool {
namespace {

std::unique_ptr<VmSecret> fresh() {
  auto secret = VmSecret::create();
  EXPECT_TRUE(secret) << secret.error().message();
  return std::move(*secret);
}

UniqueFd another(const VmSecret& secret) {
  return UniqueFd{::fcntl(secret.fd(), F_DUPFD_CLOEXEC, 0)};
}

// Whoever takes over sees the same memory; so does a test that damages it.
std::byte* memory_of(const VmSecret& secret) {
  void* memory = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, secret.fd(), 0);
  EXPECT_NE(memory, MAP_FAILED);
  return static_cast<std::byte*>(memory);
}

TEST(VmSecret, GivesNeitherKeyNorVersionBeforeItAdvanced) {
  const auto secret = fresh();
  EXPECT_EQ(secret->key(), nullptr);
  EXPECT_EQ(secret->next_version(), 0u);
  ASSERT_TRUE(secret->advance());
  EXPECT_NE(secret->key(), nullptr);
  EXPECT_EQ(secret->incarnation(), 1u);
  EXPECT_EQ(secret->next_version(), (1ull << kCounterBits) + 1);
}

TEST(VmSecret, KeysDiffer) {
  const auto one = fresh();
  const auto other = fresh();
  ASSERT_TRUE(one->advance());
  ASSERT_TRUE(other->advance());
  EXPECT_NE(*one->key(), *other->key());
}

TEST(VmSecret, ASuccessorHasTheSameKeyAndHigherVersions) {
  const auto secret = fresh();
  ASSERT_TRUE(secret->advance());
  std::uint64_t last = 0;
  for (int i = 0; i < 1000; ++i) last = secret->next_version();
  auto successor = VmSecret::open(another(*secret));
  ASSERT_TRUE(successor) << successor.error().message();
  EXPECT_EQ((*successor)->key(), nullptr);
  EXPECT_GE((*successor)->highest_inherited(), last);
  ASSERT_TRUE((*successor)->advance());
  EXPECT_EQ(*(*successor)->key(), *secret->key());
  EXPECT_GT((*successor)->next_version(), (*successor)->highest_inherited());
}

TEST(VmSecret, NoVersionIsGivenTwice) {
  const auto secret = fresh();
  ASSERT_TRUE(secret->advance());
  std::vector<std::vector<std::uint64_t>> given(4);
  {
    std::vector<std::jthread> threads;
    for (auto& mine : given)
      threads.emplace_back([&mine, &secret] {
        for (int i = 0; i < 5000; ++i) mine.push_back(secret->next_version());
      });
  }
  std::set<std::uint64_t> all;
  for (const auto& mine : given) all.insert(mine.begin(), mine.end());
  EXPECT_EQ(all.size(), 20000u);
  EXPECT_FALSE(all.contains(0));
}

TEST(VmSecret, EveryDamagedBitOfItIsNoticed) {
  const auto secret = fresh();
  std::byte* memory = memory_of(*secret);
  for (std::size_t bit = 0; bit < 72 * 8; ++bit) {
    memory[bit / 8] ^= std::byte{static_cast<std::uint8_t>(1u << bit % 8)};
    EXPECT_FALSE(VmSecret::open(another(*secret))) << "bit " << bit;
    EXPECT_FALSE(secret->advance()) << "bit " << bit;
    memory[bit / 8] ^= std::byte{static_cast<std::uint8_t>(1u << bit % 8)};
  }
  EXPECT_TRUE(VmSecret::open(another(*secret)));
  ::munmap(memory, kPageSize);
}

TEST(VmSecret, IsGoneForEverybodyOnceWiped) {
  const auto secret = fresh();
  ASSERT_TRUE(secret->advance());
  const UniqueFd kept = another(*secret);
  secret->wipe();
  EXPECT_EQ(secret->key(), nullptr);
  EXPECT_EQ(secret->next_version(), 0u);
  EXPECT_FALSE(VmSecret::open(UniqueFd{::dup(kept.get())}));
  std::byte* memory = memory_of(*secret);
  for (std::size_t i = 0; i < kPageSize; ++i) ASSERT_EQ(memory[i], std::byte{0});
  ::munmap(memory, kPageSize);
}

TEST(VmSecret, RefusesWhatIsNotSealedMemory) {
  UniqueFd file{::memfd_create("not a secret", MFD_CLOEXEC)};
  ASSERT_EQ(::ftruncate(file.get(), kPageSize), 0);
  EXPECT_FALSE(VmSecret::open(std::move(file)));
  EXPECT_FALSE(VmSecret::open(UniqueFd{::open("/dev/null", O_RDWR | O_CLOEXEC)}));
}

TEST(VmSecret, EndsWithTheLastIncarnation) {
  const auto secret = fresh();
  std::byte* memory = memory_of(*secret);
  const std::uint64_t word = kMostIncarnations | (~std::uint64_t{kMostIncarnations} & 0xffffffffull) << 32;
  std::memcpy(memory + 64, &word, sizeof(word));
  ::munmap(memory, kPageSize);
  EXPECT_FALSE(secret->advance());
  EXPECT_EQ(secret->key(), nullptr);
}

}  // namespace
}  // namespace tidepool::pool
