#include "daemon/vm/mappings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace tidepool::daemon {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;

// A process's address space as a test describes it, each mapping behind a gap.
class Space {
 public:
  kernel::MappingUsage& add(std::uint64_t size, const char* permissions, const std::string& path = "",
                            kernel::InodeId file = {}, const std::string& flags = "rd wr mr mw me ac") {
    next_ += gap_;
    kernel::MappingUsage usage;
    usage.map.range = {next_, next_ + size};
    usage.map.readable = permissions[0] == 'r';
    usage.map.writable = permissions[1] == 'w';
    usage.map.executable = permissions[2] == 'x';
    usage.map.shared = permissions[3] == 's';
    usage.map.path = path;
    usage.map.file = file;
    usage.resident = Bytes{size};
    usage.vm_flags = flags;
    next_ += size;
    mappings_.push_back(usage);
    return mappings_.back();
  }
  kernel::MappingUsage& memfd(std::uint64_t size, std::uint64_t inode, const std::string& name = "/memfd:m (deleted)") {
    return add(size, "rw-s", name, {{0, 1}, inode}, "rd wr sh mr mw me ms");
  }
  // What follows lies right behind what came before.
  void without_gap() { gap_ = 0; }

  MappingChoice choose(const std::string& selector = "auto", const std::string& exe = "/usr/bin/redis-server",
                       const std::vector<std::string>& command_line = {}) const {
    const auto parsed = parse_memory_selector(selector);
    EXPECT_TRUE(parsed) << selector;
    return choose_mappings({mappings_, mounts_, stack_pointers_, exe, command_line}, *parsed);
  }

  std::vector<kernel::MappingUsage> mappings_;
  std::vector<kernel::Mount> mounts_{{30, {0, 27}, "/dev/shm", "tmpfs", "tmpfs"},
                                     {24, {254, 0}, "/", "ext4", "/dev/vda"}};
  std::vector<std::uint64_t> stack_pointers_;

 private:
  std::uint64_t next_ = 0x7f0000000000;
  std::uint64_t gap_ = 0x10000;
};

std::optional<Exclusion> reason_for(const std::vector<ExcludedMapping>& list, const kernel::MappingUsage& usage) {
  for (const ExcludedMapping& mapping : list) {
    if (mapping.range.start == usage.map.range.start) return mapping.reason;
  }
  return std::nullopt;
}

struct KindCase {
  const char* path;
  kernel::InodeId file;
  const char* permissions;
  std::optional<MemoryKind> kind;
};

TEST(ChooseMappings, TellsKindsOfMemoryApart) {
  for (const KindCase& test : {KindCase{"/memfd:ram (deleted)", {{0, 1}, 5}, "rw-s", MemoryKind::memfd},
                               {"/dev/zero (deleted)", {{0, 1}, 6}, "rw-s", MemoryKind::shared_anonymous},
                               {"[anon_shmem:cache]", {{0, 1}, 6}, "rw-s", MemoryKind::shared_anonymous},
                               {"/SYSV0000002a (deleted)", {{0, 1}, 7}, "rw-s", MemoryKind::tmpfs_file},
                               {"/dev/shm/cache", {{0, 27}, 2}, "rw-s", MemoryKind::tmpfs_file},
                               {"", {}, "rw-p", MemoryKind::private_anonymous},
                               {"[heap]", {}, "rw-p", MemoryKind::private_anonymous},
                               {"[anon:jemalloc]", {}, "rwxp", MemoryKind::private_anonymous},
                               // A file on a disk may be called anything.
                               {"/memfd:ram (deleted)", {{254, 0}, 5}, "rw-s", std::nullopt},
                               {"/var/db", {{254, 0}, 5}, "rw-s", std::nullopt},
                               {"/memfd:ram (deleted)", {{0, 1}, 5}, "rw-p", std::nullopt},
                               {"/usr/lib/x.so", {{254, 0}, 5}, "rw-p", std::nullopt},
                               {"anon_inode:[io_uring]", {{0, 16}, 5}, "rw-s", std::nullopt},
                               {"[vdso]", {}, "r-xp", std::nullopt},
                               {"[vvar_vclock]", {}, "rw-p", std::nullopt},
                               {"[stack]", {}, "rw-p", std::nullopt}}) {
    Space space;
    space.add(8 * kMiB, test.permissions, test.path, test.file);
    const MappingChoice choice = space.choose("all");
    if (!test.kind) {
      EXPECT_TRUE(choice.chosen.empty()) << test.path;
      EXPECT_TRUE(choice.blocked.empty()) << test.path;
      continue;
    }
    ASSERT_EQ(choice.chosen.size(), 1u) << test.path;
    EXPECT_EQ(choice.chosen[0].kind, *test.kind) << test.path;
  }
}

struct FlagCase {
  const char* flags;
  Exclusion reason;
};

TEST(ChooseMappings, BlocksMemoryThatMustNotBeTouched) {
  for (const FlagCase& test : {FlagCase{"rd wr lo", Exclusion::locked},
                               {"rd wr um", Exclusion::userfaultfd},
                               {"rd wr uw", Exclusion::userfaultfd},
                               {"rd wr ui", Exclusion::userfaultfd},
                               {"rd wr de ht", Exclusion::hugetlb}}) {
    Space space;
    const auto usage = space.add(8 * kMiB, "rw-p", "", {}, test.flags);
    EXPECT_EQ(reason_for(space.choose("private").blocked, usage), test.reason) << test.flags;
    EXPECT_TRUE(blocks(test.reason));
  }
}

TEST(ChooseMappings, NeverConsidersWhatIsNotMemoryToManage) {
  Space space;
  const auto device = space.add(8 * kMiB, "rw-s", "/dev/mem", {{0, 5}, 3}, "rd wr sh io pf");
  const auto guard = space.add(8 * kMiB, "---p");
  const auto constant = space.add(8 * kMiB, "r--p");
  const auto small = space.add(kMiB - kPageSize, "rw-p");
  const auto grows = space.add(8 * kMiB, "rw-p", "", {}, "rd wr gd");
  const auto heap = space.add(8 * kMiB, "rw-p", "[heap]");
  const MappingChoice choice = space.choose("all");
  EXPECT_EQ(reason_for(choice.excluded, device), Exclusion::device);
  EXPECT_EQ(reason_for(choice.excluded, guard), Exclusion::no_access);
  EXPECT_EQ(reason_for(choice.excluded, constant), Exclusion::read_only);
  EXPECT_EQ(reason_for(choice.excluded, small), Exclusion::too_small);
  EXPECT_EQ(reason_for(choice.excluded, grows), Exclusion::stack);
  ASSERT_EQ(choice.chosen.size(), 1u);
  EXPECT_EQ(choice.chosen[0].range, heap.map.range);
  for (const ExcludedMapping& mapping : choice.excluded) {
    EXPECT_FALSE(blocks(mapping.reason));
    EXPECT_FALSE(reason_of(mapping.reason).empty());
  }
}

TEST(ChooseMappings, BlocksDaxDevicesAndLargePageFiles) {
  Space space;
  const auto dax = space.add(8 * kMiB, "rw-s", "/dev/dax0.0", {{0, 5}, 9});
  auto& huge = space.add(8 * kMiB, "rw-s", "/memfd:m (deleted)", {{0, 15}, 9});
  huge.kernel_page_size = Bytes{kHugePageSize};
  const auto huge_copy = huge;
  const MappingChoice choice = space.choose("shared");
  EXPECT_EQ(reason_for(choice.blocked, dax), Exclusion::dax);
  EXPECT_EQ(reason_for(choice.blocked, huge_copy), Exclusion::hugetlb);
  EXPECT_EQ(choice.blocked_by(Exclusion::hugetlb), Bytes{8 * kMiB});
}

TEST(ChooseMappings, SparesThreadStacks) {
  Space space;
  const auto sleeping = space.add(8 * kMiB, "rw-p");
  space.stack_pointers_ = {sleeping.map.range.end - 512};
  space.add(4096, "---p", "", {}, "mr mw me ac nh");
  space.without_gap();
  const auto running = space.add(8 * kMiB, "rw-p", "", {}, "rd wr mr mw me ac nh");
  const auto memory = space.add(8 * kMiB, "rw-p", "", {}, "rd wr mr mw me ac hg");
  const MappingChoice choice = space.choose("all");
  EXPECT_EQ(reason_for(choice.excluded, sleeping), Exclusion::stack);
  EXPECT_EQ(reason_for(choice.excluded, running), Exclusion::stack);
  ASSERT_EQ(choice.chosen.size(), 1u);
  EXPECT_EQ(choice.chosen[0].range, memory.map.range);
}

TEST(ChooseMappings, TakesMemoryBehindAReservationForNoStack) {
  Space space;
  space.add(48 * kMiB, "---p", "", {}, "mr mw me nr");
  space.without_gap();
  const auto memory = space.add(64 * kMiB, "rw-p", "", {}, "rd wr mr mw me ac nh");
  const MappingChoice choice = space.choose("all");
  ASSERT_EQ(choice.chosen.size(), 1u);
  EXPECT_EQ(choice.chosen[0].range, memory.map.range);
}

TEST(ChooseMappings, TakesAHypervisorsGuestMemoryOnly) {
  Space space;
  space.add(30 * kMiB, "rw-p", "[heap]");
  const auto ram = space.add(1024 * kMiB, "rw-p");
  space.add(16 * kMiB, "rw-p");
  const auto node1 = space.add(600 * kMiB, "rw-p");
  const auto small_backend = space.add(64 * kMiB, "rw-p");
  const MappingChoice choice = space.choose("auto", "/usr/bin/qemu-system-x86_64",
                                            {"qemu", "-object", "memory-backend-ram,id=m0,size=64M", "-m", "1G"});
  ASSERT_EQ(choice.chosen.size(), 3u);
  EXPECT_EQ(choice.chosen[0].range, ram.map.range);
  EXPECT_EQ(choice.chosen[1].range, node1.map.range);
  EXPECT_EQ(choice.chosen[2].range, small_backend.map.range);
}

TEST(ChooseMappings, TakesNoTranslatedCodeForGuestMemory) {
  Space space;
  const auto ram = space.add(256 * kMiB, "rw-p");
  space.add(1024 * kMiB, "rwxp");
  space.memfd(1024 * kMiB, 9, "/memfd:tcg-jit (deleted)");
  for (const std::vector<std::string>& command_line : {std::vector<std::string>{"qemu", "-m", "256"}, {"qemu"}}) {
    const MappingChoice choice = space.choose("auto", "/usr/bin/qemu-system-x86_64", command_line);
    ASSERT_EQ(choice.chosen.size(), 1u);
    EXPECT_EQ(choice.chosen[0].range, ram.map.range);
  }
}

TEST(ChooseMappings, MeasuresGuestMemoryByTheSizesThatAreNamed) {
  Space space;
  const auto ram = space.add(256 * kMiB, "rw-p");
  const auto plugged = space.add(128 * kMiB, "rw-p");
  space.add(100 * kMiB, "rw-p", "[heap]");
  const MappingChoice choice = space.choose("auto", "/usr/bin/qemu-system-x86_64", {"qemu", "-m", "256"});
  ASSERT_EQ(choice.chosen.size(), 2u);
  EXPECT_EQ(choice.chosen[0].range, ram.map.range);
  EXPECT_EQ(choice.chosen[1].range, plugged.map.range);
}

TEST(ChooseMappings, MeasuresLockedGuestMemoryWithoutTheGuardBesideIt) {
  Space space;
  const auto ram = space.add(256 * kMiB, "rw-p", "", {}, "rd wr lo dc");
  space.without_gap();
  space.add(kPageSize, "---p", "", {}, "lo");
  const MappingChoice choice = space.choose("auto", "/usr/bin/qemu-system-x86_64", {"qemu", "-m", "256"});
  EXPECT_EQ(reason_for(choice.blocked, ram), Exclusion::locked);
  EXPECT_EQ(choice.blocked.size(), 1u);
}

TEST(ChooseMappings, SeesGuestMemoryThatTheKernelListsInPieces) {
  Space space;
  space.add(400 * kMiB, "rw-p", "", {}, "rd wr dc");
  space.without_gap();
  space.add(112 * kMiB, "rw-p", "", {}, "rd wr dc hg");
  const MappingChoice choice = space.choose("auto", "/usr/bin/qemu-system-x86_64", {"qemu", "-m", "512"});
  EXPECT_EQ(choice.chosen.size(), 2u);
  EXPECT_EQ(choice.total(), Bytes{512 * kMiB});
}

TEST(ChooseMappings, BlocksAVmWhoseGuestMemoryIsHugetlb) {
  Space space;
  space.add(64 * kMiB, "rw-p", "[heap]");
  space.add(1024 * kMiB, "rw-s", "/memfd:ram (deleted)", {{0, 15}, 9}, "rd wr ht");
  const MappingChoice choice = space.choose("auto", "/usr/bin/qemu-system-x86_64");
  EXPECT_TRUE(choice.chosen.empty());
  EXPECT_EQ(choice.blocked_by(Exclusion::hugetlb), Bytes{1024 * kMiB});
}

TEST(ChooseMappings, PrefersSharedMemoryWhereThatIsWhereTheDataIs) {
  Space cache;
  cache.memfd(64 * kMiB, 5);
  cache.add(8 * kMiB, "rw-p", "[heap]");
  ASSERT_EQ(cache.choose().chosen.size(), 1u);
  EXPECT_TRUE(is_shared(cache.choose().chosen[0].kind));
  Space heap;
  heap.memfd(2 * kMiB, 5);
  heap.add(64 * kMiB, "rw-p", "[heap]");
  ASSERT_EQ(heap.choose().chosen.size(), 1u);
  EXPECT_TRUE(heap.choose().has_private());
  EXPECT_TRUE(heap.choose().objects().empty());
}

TEST(ChooseMappings, FollowsTheSelector) {
  Space space;
  space.memfd(64 * kMiB, 5, "/memfd:cache (deleted)");
  const auto heap = space.add(8 * kMiB, "rw-p", "[heap]");
  EXPECT_EQ(space.choose("shared").chosen.size(), 1u);
  EXPECT_EQ(space.choose("private").chosen.size(), 1u);
  EXPECT_EQ(space.choose("all").chosen.size(), 2u);
  EXPECT_EQ(space.choose("path:/memfd:c*").chosen.size(), 1u);
  EXPECT_EQ(space.choose("path:[[]heap]").chosen.size(), 1u);
  EXPECT_TRUE(space.choose("path:nothing").chosen.empty());
  char range[64];
  std::snprintf(range, sizeof range, "0x%lx-0x%lx", heap.map.range.start + kPageSize, heap.map.range.end + kMiB);
  const MappingChoice part = space.choose(range);
  ASSERT_EQ(part.chosen.size(), 1u);
  EXPECT_EQ(part.chosen[0].range, (AddressRange{heap.map.range.start + kPageSize, heap.map.range.end}));
}

TEST(ChooseMappings, TakesEveryMappingOfTheSameMemory) {
  Space space;
  const auto first = space.memfd(64 * kMiB, 5);
  auto& window = space.add(4 * kMiB, "r--s", "/memfd:m (deleted)", {{0, 1}, 5});
  window.map.offset = 62 * kMiB;
  const auto window_copy = window;
  auto& elsewhere = space.memfd(4 * kMiB, 6);
  elsewhere.map.file.inode = 7;
  char range[64];
  std::snprintf(range, sizeof range, "0x%lx-0x%lx", first.map.range.start, first.map.range.end);
  const MappingChoice choice = space.choose(range);
  ASSERT_EQ(choice.chosen.size(), 2u);
  EXPECT_FALSE(choice.chosen[0].alias);
  EXPECT_TRUE(choice.chosen[1].alias);
  EXPECT_FALSE(choice.chosen[1].writable);
  // Only the part that shows selected memory.
  EXPECT_EQ(choice.chosen[1].range,
            (AddressRange{window_copy.map.range.start, window_copy.map.range.start + 2 * kMiB}));
  EXPECT_EQ(choice.chosen[1].object_offset, 62 * kMiB);
  EXPECT_EQ(choice.total(), Bytes{64 * kMiB});
  EXPECT_EQ(choice.objects(), (std::vector<kernel::InodeId>{{{0, 1}, 5}}));
}

TEST(ChooseMappings, GivesUpMemoryThatIsAlsoMappedWhereItCannotBeWatched) {
  for (const char* permissions : {"rw-p", "rw-s"}) {
    Space space;
    const auto ram = space.memfd(64 * kMiB, 5);
    space.add(4 * kMiB, permissions, "/memfd:m (deleted)", {{0, 1}, 5}, "rd wr lo");
    const MappingChoice choice = space.choose("shared");
    EXPECT_TRUE(choice.chosen.empty()) << permissions;
    EXPECT_EQ(reason_for(choice.blocked, ram), Exclusion::alias_unmanageable) << permissions;
  }
}

TEST(ChooseMappings, KeepsEveryMappingInExactlyOneList) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const std::vector<std::string> paths{
      "",         "[heap]", "[stack]",    "/memfd:m (deleted)", "/dev/shm/x", "/usr/bin/x", "/dev/zero (deleted)",
      "[anon:x]", "[vdso]", "/dev/dax0.0"};
  const std::vector<std::string> flags{"", "lo", "um", "ht", "io", "nh", "gd", "dc"};
  const std::vector<const char*> permissions{"rw-p", "rw-s", "r--p", "r--s", "---p", "---s", "rwxp"};
  for (int round = 0; round < 500; ++round) {
    Space space;
    const std::size_t count = random() % 30;
    for (std::size_t i = 0; i < count; ++i) {
      if (random() % 4 == 0) space.without_gap();
      auto& usage = space.add(kPageSize << (random() % 16), permissions[random() % permissions.size()],
                              paths[random() % paths.size()], {{0, static_cast<unsigned>(random() % 28)}, random() % 3},
                              flags[random() % flags.size()]);
      usage.map.offset = (random() % 64) * kPageSize;
    }
    for (const char* selector : {"auto", "shared", "private", "all", "path:*", "0x7f0000000000-0x7f0001000000"}) {
      const MappingChoice choice = space.choose(selector);
      EXPECT_EQ(choice.chosen.size() + choice.blocked.size() + choice.excluded.size(), count);
      for (const ManagedMapping& mapping : choice.chosen) {
        EXPECT_FALSE(mapping.range.empty());
        EXPECT_EQ(mapping.range.start % kPageSize, 0u);
        EXPECT_TRUE(std::ranges::any_of(space.mappings_,
                                        [&](const auto& usage) { return usage.map.range.contains(mapping.range); }));
      }
      for (const ExcludedMapping& mapping : choice.blocked) EXPECT_TRUE(blocks(mapping.reason));
    }
  }
}

MappingChoice choose_handed_off(const Space& space, std::vector<AddressRange> regions) {
  MemorySelector selector;
  selector.kind = MemorySelector::Kind::handed_off;
  selector.regions = std::move(regions);
  return choose_mappings({space.mappings_, space.mounts_, space.stack_pointers_, "/usr/bin/vmm", {}}, selector);
}

AddressRange part(const kernel::MappingUsage& usage, std::uint64_t from, std::uint64_t to) {
  return {usage.map.range.start + from, usage.map.range.start + to};
}

TEST(ChooseMappings, TakesExactlyTheRegionsThatWereHandedOff) {
  Space space;
  const auto ram = space.add(64 * kMiB, "rw-p", "", {}, "rd wr um");
  const auto heap = space.add(8 * kMiB, "rw-p", "[heap]");
  // Two regions that the kernel joined with what lies between and behind them.
  const MappingChoice choice = choose_handed_off(space, {part(ram, 0, 16 * kMiB), part(ram, 20 * kMiB, 40 * kMiB)});
  ASSERT_EQ(choice.chosen.size(), 2u);
  EXPECT_EQ(choice.chosen[0].range, part(ram, 0, 16 * kMiB));
  EXPECT_EQ(choice.chosen[1].range, part(ram, 20 * kMiB, 40 * kMiB));
  EXPECT_EQ(reason_for(choice.excluded, heap), Exclusion::not_selected);
  EXPECT_TRUE(choice.blocked.empty());
}

TEST(ChooseMappings, TakesARegionThatLiesInSeveralMappings) {
  Space space;
  const auto first = space.add(8 * kMiB, "rw-p");
  space.without_gap();
  const auto second = space.add(8 * kMiB, "rw-p", "", {}, "rd wr hg");
  const MappingChoice choice = choose_handed_off(space, {{first.map.range.start, second.map.range.end}});
  ASSERT_EQ(choice.chosen.size(), 2u);
  EXPECT_EQ(choice.total(), Bytes{16 * kMiB});
}

TEST(ChooseMappings, KnowsTheFileOffsetsOfHandedOffParts) {
  Space space;
  auto& ram = space.memfd(64 * kMiB, 5);
  ram.map.offset = 4 * kMiB;
  const MappingChoice choice = choose_handed_off(space, {part(ram, kMiB, 3 * kMiB), part(ram, 8 * kMiB, 9 * kMiB)});
  ASSERT_EQ(choice.chosen.size(), 2u);
  EXPECT_EQ(choice.chosen[0].object_offset, 5 * kMiB);
  EXPECT_EQ(choice.chosen[1].object_offset, 12 * kMiB);
}

TEST(ChooseMappings, TakesOtherPlacesOfMemoryThatWasHandedOff) {
  Space space;
  const auto ram = space.memfd(16 * kMiB, 5);
  const auto again = space.memfd(16 * kMiB, 5);
  const MappingChoice choice = choose_handed_off(space, {part(ram, 0, 4 * kMiB)});
  ASSERT_EQ(choice.chosen.size(), 2u);
  EXPECT_EQ(choice.chosen[1].range, part(again, 0, 4 * kMiB));
  EXPECT_TRUE(choice.chosen[1].alias);
}

TEST(ChooseMappings, RefusesHandedOffMemoryThatMustNotBeTouched) {
  Space space;
  const auto locked = space.add(8 * kMiB, "rw-p", "", {}, "rd wr lo");
  const auto code = space.add(8 * kMiB, "r-xp", "/usr/bin/vmm", {{254, 0}, 7});
  const MappingChoice choice = choose_handed_off(space, {locked.map.range, code.map.range});
  EXPECT_TRUE(choice.chosen.empty());
  EXPECT_EQ(reason_for(choice.blocked, locked), Exclusion::locked);
  EXPECT_EQ(reason_for(choice.excluded, code), Exclusion::file_private);
}

// However regions lie, every byte of every mapping is in exactly one list, and what was chosen lies in a region.
TEST(ChooseMappings, CutsMappingsAtRegionsWithoutLosingAPart) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 500; ++round) {
    Space space;
    std::uint64_t total = 0;
    for (int i = 0; i < 6; ++i) {
      if (random() % 2 == 0) space.without_gap();
      total += space.add((1 + random() % 64) * kPageSize, "rw-p").map.range.size();
    }
    std::vector<AddressRange> regions;
    std::uint64_t at = space.mappings_.front().map.range.start;
    while (regions.size() < 8) {
      const std::uint64_t start = at + random() % 32 * kPageSize;
      at = start + (1 + random() % 32) * kPageSize;
      regions.push_back({start, at});
    }
    const MappingChoice choice = choose_handed_off(space, regions);
    std::uint64_t seen = 0;
    for (const ManagedMapping& mapping : choice.chosen) {
      seen += mapping.range.size();
      EXPECT_TRUE(std::ranges::any_of(regions, [&](const auto& region) { return region.contains(mapping.range); }));
    }
    for (const ExcludedMapping& mapping : choice.excluded) {
      seen += mapping.range.size();
      EXPECT_FALSE(std::ranges::any_of(regions, [&](const auto& region) { return region.overlaps(mapping.range); }));
    }
    EXPECT_EQ(seen, total);
  }
}

TEST(MemorySelector, RefusesNonsenseWithAHint) {
  for (const char* bad : {"guest", "0x1000", "0x2000-0x1000", "0x1000-0x1000", "0x1001-0x2000", "1000-2000",
                          "path:", "0x-0x", "0x1000-0xfffffffffffffffff", "0x1000 -0x2000"}) {
    const auto selector = parse_memory_selector(bad);
    ASSERT_FALSE(selector) << bad;
    EXPECT_EQ(selector.error().code, std::errc::invalid_argument);
    EXPECT_FALSE(selector.error().remedy.empty());
  }
  EXPECT_TRUE(parse_memory_selector(""));
  EXPECT_FALSE(parse_memory_selector("path:" + std::string(5000, 'x')));
}

TEST(GuestMemorySizes, AreReadAsQemuReadsThem) {
  using Sizes = std::vector<Bytes>;
  EXPECT_EQ(guest_memory_sizes(std::vector<std::string>{"q", "-m", "2G"}), Sizes{Bytes{2048 * kMiB}});
  EXPECT_EQ(guest_memory_sizes(std::vector<std::string>{"q", "-m", "512"}), Sizes{Bytes{512 * kMiB}});
  EXPECT_EQ(guest_memory_sizes(std::vector<std::string>{"q", "-m", "size=512,slots=2,maxmem=4G"}),
            Sizes{Bytes{512 * kMiB}});
  EXPECT_EQ(guest_memory_sizes(std::vector<std::string>{
                "q", "-object", R"({"qom-type":"memory-backend-memfd","id":"pc.ram","size":4294967296})"}),
            Sizes{Bytes{4096 * kMiB}});
  EXPECT_EQ(guest_memory_sizes(std::vector<std::string>{"ch", "--memory", "size=1G,shared=on"}),
            Sizes{Bytes{1024 * kMiB}});
  EXPECT_TRUE(guest_memory_sizes(std::vector<std::string>{"q", "-m", "99999999999999999999G"}).empty());
  EXPECT_TRUE(guest_memory_sizes(std::vector<std::string>{"q", "-m"}).empty());
  EXPECT_TRUE(guest_memory_sizes({}).empty());
}

}  // namespace
}  // namespace tidepool::daemon
