// A page's way through a mapped store on each kind of medium but the memfd, which all other tests use.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "pool/store/mapped_store.h"
#include "pool/store/medium.h"
#include "tests/support/huge_pages.h"
#include "tests/support/program.h"
#include "tests/support/small_tmpfs.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"
#include "tests/unit/pool/store/store_kit.h"

namespace tidepool::pool {
namespace {

using namespace literals;
using namespace testing;
using tests::HugePages;
using tests::SmallTmpfs;
using tests::TestFolder;

Bytes room_in(const PageStore& store) {
  return saturating_sub(store.usage().capacity, store.usage().used);
}

// Pages of ascending seeds from 0, until there is no more room.
std::vector<Location> fill(PageStore& store) {
  std::vector<Location> locations;
  while (true) {
    const auto [status, location] = put(store, make_page(locations.size()));
    if (status != PageStatus::kOk) {
      EXPECT_EQ(status, PageStatus::kFull);
      return locations;
    }
    locations.push_back(location);
  }
}

void expect_pages(PageStore& store, std::span<const Location> locations, std::size_t from = 0) {
  for (std::size_t i = from; i < locations.size(); ++i) ASSERT_TRUE(holds(store, locations[i], make_page(i))) << i;
}

Result<std::unique_ptr<EmbeddedStore>> take_over(const EmbeddedStore& store, const MappedStoreOptions& options) {
  const auto held = store.held_descriptors();
  return open_mapped_store(UniqueFd{::dup(held[0].second)}, UniqueFd{::dup(held[1].second)}, options);
}

class HugetlbStore : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!huge_.missing().empty()) GTEST_SKIP() << "no huge pages here: " << huge_.missing();
  }
  HugePages huge_{16};
};

TEST_F(HugetlbStore, HasRoomForAsManyPagesAsFit) {
  auto made = create_mapped_store({.path = huge_ / "pool", .capacity = 16_MiB});
  ASSERT_TRUE(made.has_value()) << made.error().message();
  EmbeddedStore& store = **made;
  EXPECT_GT(room_in(store), 15_MiB) << "nothing is stored yet";
  EXPECT_EQ(store.usage().set_aside, 16_MiB) << "but nobody else can have it";
  EXPECT_FALSE(store.uses_host_dram()) << "nor when pages leave";
  const std::vector<Location> locations = fill(store);
  EXPECT_GT(locations.size(), 4000u);
  EXPECT_LT(room_in(store), 1_MiB);
  expect_pages(store, locations);
  store.release(std::span(locations).first(2000));
  EXPECT_GT(room_in(store), Bytes{2000 * kPageSize});
  EXPECT_EQ(store.usage().set_aside, 16_MiB);
  for (std::size_t i = 0; i < 2000; ++i) put_ok(store, make_page(i));
  expect_pages(store, locations, 2000);
  EXPECT_EQ(store.errors().corrupt_pages, 0u);
}

TEST_F(HugetlbStore, ReservesWholeHugePagesForItsCapacity) {
  auto small = create_mapped_store({.path = huge_ / "pool", .capacity = 3_MiB});
  ASSERT_TRUE(small.has_value()) << small.error().message();
  EXPECT_EQ((*small)->usage().set_aside, 4_MiB);
  EXPECT_TRUE((*small)->set_capacity(4_MiB));
  EXPECT_FALSE((*small)->set_capacity(8_MiB)) << "no more was reserved";
  const auto none = create_mapped_store({.path = huge_ / "more", .capacity = 30_MiB});
  ASSERT_FALSE(none.has_value());
  EXPECT_NE(none.error().message().find("raise vm.nr_hugepages"), std::string::npos) << none.error().message();
}

TEST_F(HugetlbStore, IsTakenOverWithItsPages) {
  const MappedStoreOptions options{.path = huge_ / "pool", .capacity = 16_MiB};
  auto store = create_mapped_store(options);
  ASSERT_TRUE(store.has_value()) << store.error().message();
  std::vector<Location> locations;
  for (std::size_t i = 0; i < 1000; ++i) locations.push_back(put_ok(**store, make_page(i)));
  (*store)->release(std::span(locations).first(500));
  auto successor = take_over(**store, options);
  ASSERT_TRUE(successor.has_value()) << successor.error().message();
  store->reset();
  EXPECT_EQ((*successor)->usage().pages, PageCount{500});
  EXPECT_GT(room_in(**successor), 13_MiB);
  EXPECT_EQ((*successor)->usage().set_aside, 16_MiB);
  expect_pages(**successor, locations, 500);
  const Location fresh = put_ok(**successor, make_page(7));
  EXPECT_TRUE(holds(**successor, fresh, make_page(7)));
  (*successor)->release(std::span(locations).subspan(500));
  EXPECT_EQ((*successor)->usage().pages, PageCount{1});
  EXPECT_EQ((*successor)->errors().refused_releases, 0u);
}

class TmpfsStore : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!tmpfs_.mounted()) GTEST_SKIP() << "no tmpfs can be mounted here";
  }
  SmallTmpfs tmpfs_{"size=16m"};
};

TEST_F(TmpfsStore, WritesReadsAndGivesBackToTheHost) {
  auto store = create_mapped_store({.path = tmpfs_ / "pool", .capacity = 8_MiB});
  ASSERT_TRUE(store.has_value()) << store.error().message();
  EXPECT_NE(::access((tmpfs_ / "pool").c_str(), F_OK), 0) << "nothing is left when its holders have gone";
  EXPECT_TRUE((*store)->uses_host_dram());
  EXPECT_EQ((*store)->usage().set_aside, Bytes{});
  const std::vector<Location> locations = fill(**store);
  EXPECT_GT(locations.size(), 2000u);
  EXPECT_LE((*store)->usage().used, 8_MiB);
  expect_pages(**store, locations);
  (*store)->release(std::span(locations).first(1000));
  for (int i = 0; i < 100; ++i) (*store)->maintain();
  EXPECT_GT(room_in(**store), Bytes{1000 * kPageSize});
  EXPECT_LT(host_bytes(**store), 5u << 20);
  expect_pages(**store, locations, 1000);
}

// The file system has less than the store was promised: that is an answer, and never a signal.
TEST_F(TmpfsStore, IsFullWhenItsFileSystemIs) {
  auto store = create_mapped_store({.path = tmpfs_ / "pool", .capacity = 64_MiB});
  ASSERT_TRUE(store.has_value()) << store.error().message();
  const std::vector<Location> locations = fill(**store);
  EXPECT_GT(locations.size(), 3000u);
  EXPECT_LE(locations.size(), 4096u);
  expect_pages(**store, locations);
  (*store)->release(std::span(locations).first(10));
  const Location again = put_ok(**store, make_page(1));
  EXPECT_TRUE(holds(**store, again, make_page(1)));
}

TEST_F(TmpfsStore, IsTakenOverWithItsPages) {
  const MappedStoreOptions options{.path = tmpfs_ / "pool", .capacity = 8_MiB};
  auto store = create_mapped_store(options);
  ASSERT_TRUE(store.has_value()) << store.error().message();
  std::vector<Location> locations;
  for (std::size_t i = 0; i < 1000; ++i) locations.push_back(put_ok(**store, make_page(i)));
  (*store)->release(std::span(locations).first(500));
  auto successor = take_over(**store, options);
  ASSERT_TRUE(successor.has_value()) << successor.error().message();
  store->reset();
  EXPECT_EQ((*successor)->usage().pages, PageCount{500});
  EXPECT_LT(host_bytes(**successor), 3u << 20) << "what held no page went back to the host";
  expect_pages(**successor, locations, 500);
  const Location fresh = put_ok(**successor, make_page(7));
  EXPECT_TRUE(holds(**successor, fresh, make_page(7)));
}

TEST_F(TmpfsStore, IsNobodyElsesAndHoldsNoData) {
  const std::string path = tmpfs_ / "pool";
  const auto refused = [&] {
    const auto store = create_mapped_store({.path = path, .capacity = 8_MiB});
    return store ? std::string() : store.error().message();
  };
  const UniqueFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
  ASSERT_EQ(::ftruncate(file.get(), 8 << 20), 0);
  {
    const auto store = create_mapped_store({.path = path, .capacity = 8_MiB});
    ASSERT_TRUE(store.has_value()) << store.error().message();
    EXPECT_NE(refused().find("another store uses it"), std::string::npos) << refused();
    put_ok(**store, make_page(1));
  }
  EXPECT_NE(refused().find("it holds data"), std::string::npos) << refused();
}

// /dev/zero under another name: it can be mapped, and a made-up /sys calls it a DAX device. What it cannot show is a
// takeover: each mapping of it is memory of its own.
class DaxStore : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::mknod(path_.c_str(), S_IFCHR | 0600, ::makedev(1, 5)) != 0 ||
        !UniqueFd{::open(path_.c_str(), O_RDWR)}.valid())
      GTEST_SKIP() << "a device cannot be made here: " << std::strerror(errno);
    tree_.link("sys/dev/char/1:5/subsystem", "../../../bus/dax");
    tree_.write("sys/dev/char/1:5/align", "2097152\n");
    set_size(9_MiB);
  }
  void set_size(Bytes size) { tree_.write("sys/dev/char/1:5/size", std::to_string(size.value) + "\n"); }
  MappedStoreOptions options(Bytes capacity) const {
    return {.path = path_, .capacity = capacity, .roots = tree_.roots()};
  }

  kernel::KernelTree tree_;
  TestFolder folder_;
  const std::string path_ = folder_ / "dax0.0";
};

TEST_F(DaxStore, TakesTheWholeDeviceAndNothingOfTheHosts) {
  const auto size = medium_size(path_, tree_.roots());
  ASSERT_TRUE(size.has_value()) << size.error().message();
  EXPECT_EQ(*size, 8_MiB) << "what is left of an alignment cannot be mapped";
  EXPECT_FALSE(create_mapped_store(options(9_MiB)));
  auto store = create_mapped_store(options(8_MiB));
  ASSERT_TRUE(store.has_value()) << store.error().message();
  EXPECT_FALSE((*store)->uses_host_dram());
  EXPECT_EQ((*store)->usage().set_aside, Bytes{});
  EXPECT_GT(room_in(**store), 7_MiB);
}

TEST_F(DaxStore, WritesReadsAndUsesAgainWhatWasReleased) {
  auto store = create_mapped_store(options(8_MiB));
  ASSERT_TRUE(store.has_value()) << store.error().message();
  const std::vector<Location> locations = fill(**store);
  EXPECT_GT(locations.size(), 2000u);
  expect_pages(**store, locations);
  (*store)->release(std::span(locations).first(1000));
  EXPECT_GT(room_in(**store), Bytes{1000 * kPageSize});
  EXPECT_FALSE((*store)->maintain()) << "there is nothing to give back to anybody";
  for (std::size_t i = 0; i < 1000; ++i) put_ok(**store, make_page(i));
  expect_pages(**store, locations, 1000);
}

TEST_F(DaxStore, IsNotTakenOverWhenTheDeviceHasShrunk) {
  auto store = create_mapped_store(options(8_MiB));
  ASSERT_TRUE(store.has_value()) << store.error().message();
  EXPECT_TRUE(take_over(**store, options(8_MiB)));
  set_size(4_MiB);
  const auto successor = take_over(**store, options(8_MiB));
  ASSERT_FALSE(successor.has_value());
  EXPECT_NE(successor.error().message().find("it is smaller than its table says"), std::string::npos)
      << successor.error().message();
}

TEST(MediumOfAPath, SaysWhatIsNoDeviceAndNoFile) {
  const auto refused = [](const std::string& path) {
    const auto store = create_mapped_store({.path = path, .capacity = 8_MiB});
    return store ? std::string() : store.error().message();
  };
  EXPECT_NE(refused("/dev/dax99.0").find("there is no such DAX device: see daxctl list"), std::string::npos);
  EXPECT_NE(refused("/dev/null").find("it is not a device of the dax subsystem"), std::string::npos);
  const TestFolder folder;
  EXPECT_NE(refused(folder.path()).find("it must be readable and writable"), std::string::npos);
  const std::string fifo = folder / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_NE(refused(fifo).find("it must be a DAX device or a file"), std::string::npos);
}

}  // namespace
}  // namespace tidepool::pool
