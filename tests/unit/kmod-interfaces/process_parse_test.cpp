// The parsers of /proc/PID over recorded and hostile text.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <random>

#include "kmod-interfaces/advice_calls.h"
#include "kmod-interfaces/process.h"
#include "kmod-interfaces/userfaultfd.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"

namespace tidepool::kernel {
namespace {

constexpr std::string_view kMaps =
    "55e8a1f13000-55e8a1f5c000 r--p 00000000 fe:00 2244                       /usr/bin/qemu-system-x86_64\n"
    "55e8a3000000-55e8a3400000 rw-p 00000000 00:00 0                          [heap]\n"
    "7f0000000000-7f0080000000 rw-s 00000000 00:01 1025                       /memfd:memory-backend-memfd (deleted)\n"
    "7f0080000000-7f0080001000 rw-s 00000000 00:1b 2                          /dev/shm/x y\\012z (deleted)\n"
    "7f0080002000-7f0080003000 ---p 00000000 00:00 0 \n"
    "7ffc11f00000-7ffc11f21000 rw-p 00000000 00:00 0                          [stack]\n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

constexpr std::string_view kSmaps =
    "7f0000000000-7f0000400000 rw-p 00000000 00:00 0 \n"
    "Size:               4096 kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\nRss:                3072 "
    "kB\n"
    "Pss:                1536 kB\nReferenced:          512 kB\nAnonymous:          3072 kB\nAnonHugePages:      2048 "
    "kB\n"
    "ShmemPmdMapped:        0 kB\nSwap:                  8 kB\nLocked:                4 kB\nTHPeligible:           1\n"
    "VmFlags: rd wr mr mw me ac um uw sd \n"
    "7f0000600000-7f0000800000 rw-s 00000000 00:0f 77                         /anon_hugepage (deleted)\n"
    "KernelPageSize:     2048 kB\nVmFlags: rd wr sh mr mw me ms de ht \n";

TEST(PendingFaults, AreCountedOrNotKnown) {
  const std::string before = "pos:\t0\nflags:\t02004000\nmnt_id:\t17\nino:\t3156721\n";
  EXPECT_EQ(parse_pending_faults(before + "pending:\t3\ntotal:\t5\nAPI:\taa:80000000:80000000000001ff\n"), 3u);
  EXPECT_EQ(parse_pending_faults(before + "pending:\t0\ntotal:\t0\n"), 0u);
  for (const char* bad : {"", "pending:\t3\n", "\npending:\t3", "\npending:\t-1\n", "\npending:\tmany\n",
                          "\npending:\n", "\npending:\t99999999999999999999999\n"})
    EXPECT_EQ(parse_pending_faults(bad), std::nullopt) << bad;
}

TEST(ParseMaps, ReadsRangesPermissionsFilesAndNames) {
  const auto maps = parse_maps(kMaps);
  ASSERT_EQ(maps.size(), 7u);
  EXPECT_EQ(maps[0].range, (AddressRange{0x55e8a1f13000, 0x55e8a1f5c000}));
  EXPECT_EQ(maps[0].file, (InodeId{{0xfe, 0}, 2244}));
  EXPECT_TRUE(maps[0].readable && !maps[0].writable && !maps[0].executable && !maps[0].shared);
  EXPECT_EQ(maps[1].path, "[heap]");
  EXPECT_TRUE(maps[2].shared && maps[2].writable && maps[2].is_deleted());
  EXPECT_EQ(maps[3].path, "/dev/shm/x y\\012z (deleted)");
  EXPECT_EQ(maps[4].path, "");
  EXPECT_TRUE(maps[5].is_stack());
  EXPECT_TRUE(maps[6].executable);
  EXPECT_EQ(maps[6].range.size(), 4096u);
}

TEST(ParseMaps, SkipsLinesThatMakeNoSense) {
  for (const char* line :
       {"", " ", "-", "1-2", "2000-1000 rw-p 0 0:0 0", "1000-1000 rw-p 0 0:0 0", "1000-2000 rw 0 0:0 0",
        "1000-2000 rw-p zz 0:0 0", "1000-2000 rw-p 0 0 0", "1000-2000 rw-p 0 0:0 -1", "1000-2000 rw-p 0 0:0",
        "fffffffffffffffff-2 rw-p 0 0:0 0", "1000-2000 rw-p 0 fffffffff:0 0"})
    EXPECT_FALSE(parse_map_line(line)) << line;
  EXPECT_TRUE(parse_map_line("1000-2000 rw-p 0 0:0 0"));
}

TEST(ParseMaps, KeepsBlanksAndLookalikesInNames) {
  const auto map =
      parse_map_line("1000-2000 rw-s 00000000 00:01 9          /memfd:  1000-2000 rw-p 0 0:0 0  (deleted) ");
  ASSERT_TRUE(map);
  EXPECT_EQ(map->path, "/memfd:  1000-2000 rw-p 0 0:0 0  (deleted) ");
  EXPECT_EQ(map->file.inode, 9u);
}

TEST(ParseSmaps, AttachesFiguresAndFlagsToTheirMapping) {
  const auto mappings = parse_smaps(kSmaps);
  ASSERT_EQ(mappings.size(), 2u);
  EXPECT_EQ(mappings[0].resident, Bytes{3072u << 10});
  EXPECT_EQ(mappings[0].proportional, Bytes{1536u << 10});
  EXPECT_EQ(mappings[0].referenced, Bytes{512u << 10});
  EXPECT_EQ(mappings[0].anonymous_huge, Bytes{2048u << 10});
  EXPECT_EQ(mappings[0].swapped, Bytes{8u << 10});
  EXPECT_EQ(mappings[0].locked, Bytes{4u << 10});
  EXPECT_TRUE(mappings[0].has_flag("um") && mappings[0].has_flag("sd"));
  EXPECT_FALSE(mappings[0].has_flag("ht"));
  EXPECT_FALSE(mappings[0].has_flag("m"));
  EXPECT_EQ(mappings[1].kernel_page_size, Bytes{kHugePageSize});
  EXPECT_TRUE(mappings[1].has_flag("ht"));
}

TEST(ParseSmaps, IgnoresFiguresBeforeTheFirstMapping) {
  EXPECT_TRUE(parse_smaps("Rss: 12 kB\nVmFlags: rd\n").empty());
}

TEST(ParseStat, EndsTheNameAtTheLastParenthesis) {
  const auto stat = parse_process_stat(stat_line(71, "a) R 1 (b", 'D', 0x4040, 99, 12));
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->pid, 71);
  EXPECT_EQ(stat->comm, "a) R 1 (b");
  EXPECT_EQ(stat->state, 'D');
  EXPECT_EQ(stat->parent, 1);
  EXPECT_EQ(stat->threads, 12u);
  EXPECT_EQ(stat->start_ticks, 99u);
  EXPECT_TRUE(stat->is_user_worker());
  EXPECT_FALSE(stat->is_kernel_thread());
}

TEST(ParseStat, KnowsKernelThreadsAndZombies) {
  EXPECT_TRUE(parse_process_stat(stat_line(2, "kthreadd", 'S', 0x208040))->is_kernel_thread());
  EXPECT_TRUE(parse_process_stat(stat_line(2, "x", 'Z'))->is_zombie());
  EXPECT_FALSE(parse_process_stat(stat_line(2, "x", 'T'))->is_zombie());
}

TEST(ParseStat, RefusesTruncatedText) {
  const std::string whole = "71 (name) S 1 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 595437";
  ASSERT_TRUE(parse_process_stat(whole));
  for (std::size_t length = 0; length + 6 < whole.size(); ++length)
    EXPECT_FALSE(parse_process_stat(whole.substr(0, length))) << length;
}

TEST(ParseStatus, ReadsIdentityLimitsAndConfinement) {
  const auto status = parse_process_status(
      "Name:\tx\\nUid:\nTgid:\t7\nTracerPid:\t12\nUid:\t1000\t0\t1000\t1000\nGid:\t5\t6\t5\t5\nVmSize:\t 9 kB\n"
      "Groups:\t4 27 \nVmLck:\t       4 kB\nVmPin:\t       8 kB\nVmRSS:\t 100 kB\nRssAnon:\t 60 kB\n"
      "RssFile:\t 30 kB\nRssShmem:\t 10 kB\nVmPTE:\t 16 kB\nVmSwap:\t 3 kB\nThreads:\t4\n"
      "CapEff:\t0000000000080000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n");
  EXPECT_EQ(status.uid, 1000u);
  EXPECT_EQ(status.effective_uid, 0u);
  EXPECT_EQ(status.effective_gid, 6u);
  EXPECT_EQ(status.tracer, 12);
  EXPECT_EQ(status.groups, (std::vector<gid_t>{4, 27}));
  EXPECT_EQ(status.threads, 4u);
  EXPECT_EQ(status.locked, Bytes{4096});
  EXPECT_EQ(status.pinned, Bytes{8192});
  EXPECT_EQ(status.swapped, Bytes{3072});
  EXPECT_EQ(status.resident, Bytes{100 << 10});
  EXPECT_EQ(status.resident_anonymous, Bytes{60 << 10});
  EXPECT_EQ(status.resident_file, Bytes{30 << 10});
  EXPECT_EQ(status.resident_shmem, Bytes{10 << 10});
  EXPECT_EQ(status.page_tables, Bytes{16 << 10});
  EXPECT_TRUE(status.has_capability(19) && !status.has_capability(0) && !status.has_capability(64));
  EXPECT_TRUE(status.no_new_privileges);
  EXPECT_EQ(status.seccomp, SeccompMode::filter);
  EXPECT_TRUE(status.has_memory);
  EXPECT_FALSE(parse_process_status("Name:\tkthreadd\n").has_memory);
}

struct KindCase {
  const char* target;
  DescriptorKind kind;
};

TEST(ParseDescriptor, RecognisesWhatMattersForAdoption) {
  for (const KindCase& test : {KindCase{"anon_inode:[userfaultfd]", DescriptorKind::userfaultfd},
                               {"/dev/userfaultfd", DescriptorKind::other},
                               {"anon_inode:[io_uring]", DescriptorKind::io_uring},
                               {"/dev/vfio/12", DescriptorKind::vfio},
                               {"/dev/vfio/devices/vfio0", DescriptorKind::vfio},
                               {"anon_inode:[vfio-device]", DescriptorKind::vfio},
                               {"anon_inode:kvm-vfio", DescriptorKind::vfio},
                               {"/dev/iommu", DescriptorKind::iommufd},
                               {"/dev/vhost-vdpa-0", DescriptorKind::vhost_vdpa},
                               {"/dev/vhost-net", DescriptorKind::file},
                               {"anon_inode:kvm-vm", DescriptorKind::kvm_vm},
                               {"anon_inode:kvm-vcpu:3", DescriptorKind::kvm_vcpu},
                               {"/memfd:a b\nc (deleted)", DescriptorKind::memfd},
                               {"/var/lib/disk.img", DescriptorKind::file},
                               {"socket:[1]", DescriptorKind::other},
                               {"", DescriptorKind::other}})
    EXPECT_EQ(parse_descriptor(3, test.target, "").kind, test.kind) << test.target;
}

TEST(ParseDescriptor, ReadsFlagsInOctal) {
  const auto info = parse_descriptor(7, "/disk", "pos:\t0\nflags:\t0140002\nmnt_id:\t27\nino:\t10952765\n");
  EXPECT_TRUE(info.is_direct());
  EXPECT_EQ(info.inode, 10952765u);
  EXPECT_EQ(info.mount_id, 27u);
  EXPECT_FALSE(parse_descriptor(7, "/disk", "flags:\t0100002\n").is_direct());
  EXPECT_FALSE(parse_descriptor(7, "/disk", "flags:\t99999999999999999999999\n").is_direct());
}

TEST(ParseDescriptor, CountsFixedBuffersOfARing) {
  const auto buffers = [](std::string_view text) {
    return parse_descriptor(3, "anon_inode:[io_uring]", text).fixed_buffers;
  };
  EXPECT_EQ(buffers("UserFiles:\t0\nUserBufs:\t0\nPollList:\n"), 0u);
  EXPECT_EQ(buffers("UserBufs:\t1\n    0: 0x7f89836af000/8192\nPollList:\n"), 1u);
  EXPECT_EQ(buffers("UserBufs:\t2\n    0: <none>\n    1: <none>\nPollList:\n"), 0u);
  EXPECT_EQ(buffers("UserBufs:\t2\n    0: <none>\n    1: 0x1000/4096\n"), 1u);
  // The ring was busy: a count without its slots is taken at its word, no count at all is no answer.
  EXPECT_EQ(buffers("UserBufs:\t16\nPollList:\n"), 16u);
  EXPECT_EQ(buffers("pos:\t0\nflags:\t02\n"), std::nullopt);
  EXPECT_EQ(buffers("UserBufs:\tmany\n"), std::nullopt);
}

TEST(ParseMounts, ReadsDeviceTypeAndEscapedNames) {
  const auto mounts = parse_mounts(
      "36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 shared:7 - ext4 /dev/root rw\n"
      "30 24 0:27 / /dev/shm rw - tmpfs tmpfs rw\nnonsense\n1 2 x:y / / - a b\n1 2 3:4 / \n");
  ASSERT_EQ(mounts.size(), 2u);
  EXPECT_EQ(mounts[0].id, 36u);
  EXPECT_EQ(mounts[0].device, (DeviceNumber{98, 0}));
  EXPECT_EQ(mounts[0].mount_point, "/mnt two");
  EXPECT_EQ(mounts[0].type, "ext4");
  EXPECT_EQ(mounts[0].source, "/dev/root");
  EXPECT_EQ(mounts[1].type, "tmpfs");
}

TEST(ParseCgroups, KeepsColonsInPaths) {
  const auto groups = parse_cgroups("4:memory:/a:b\n1:name=systemd:/\n0::/x\nbad\n9:\n");
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[0].controllers, "memory");
  EXPECT_EQ(groups[0].path, "/a:b");
  EXPECT_EQ(groups[2].hierarchy, 0u);
  EXPECT_EQ(groups[2].path, "/x");
}

TEST(ParseCommandLine, SplitsAtNulAndIsBounded) {
  EXPECT_EQ(parse_command_line(std::string_view("a\0\0b c\0", 7)), (std::vector<std::string>{"a", "", "b c"}));
  EXPECT_TRUE(parse_command_line("").empty());
  EXPECT_EQ(parse_command_line(std::string(100000, '\0')).size(), kMaxArguments);
}

TEST(ParseElf, TellsWordSizes) {
  EXPECT_EQ(parse_elf_class(std::string_view("\x7f"
                                             "ELF\x01",
                                             5)),
            ElfClass::bits32);
  EXPECT_EQ(parse_elf_class(std::string_view("\x7f"
                                             "ELF\x02",
                                             5)),
            ElfClass::bits64);
  EXPECT_EQ(parse_elf_class("#!/bin/sh"), ElfClass::unknown);
  EXPECT_EQ(parse_elf_class("\x7f"
                            "ELF"),
            ElfClass::unknown);
}

TEST(ParseStackPointer, TakesTheLastButOneWord) {
  EXPECT_EQ(parse_stack_pointer("0 0x3 0x7f 0x1000 0x0 0x0 0x0 0x7ffc11f1ff00 0x7f0011\n"), 0x7ffc11f1ff00u);
  EXPECT_EQ(parse_stack_pointer("-1 0x7ffc11f1ff00 0x7f0011\n"), 0x7ffc11f1ff00u);
  EXPECT_EQ(parse_stack_pointer("running\n"), std::nullopt);
  EXPECT_EQ(parse_stack_pointer(""), std::nullopt);
  EXPECT_EQ(parse_stack_pointer("-1 12 13"), std::nullopt);
}

TEST(ParseAdviceCall, TakesMadviseAndNothingElse) {
  const auto call = parse_advice_call("28 0x7f0000001000 0x2000 0x9 0x0 0x0 0x0 0x7ffc11f1ff00 0x7f0011\n");
  ASSERT_TRUE(call);
  EXPECT_EQ(call->range, (AddressRange{0x7f0000001000, 0x7f0000003000}));
  EXPECT_EQ(call->advice, 9);
  const auto uneven = parse_advice_call("28 0x7f0000001000 0x1001 0x9 0x0 0x0 0x0 0x7ffc11f1ff00 0x7f0011\n");
  ASSERT_TRUE(uneven);
  EXPECT_EQ(uneven->range, (AddressRange{0x7f0000001000, 0x7f0000003000}));
  EXPECT_FALSE(parse_advice_call("running\n"));
  EXPECT_FALSE(parse_advice_call("-1 0x7ffc11f1ff00 0x7f0011\n"));
  EXPECT_FALSE(parse_advice_call("0 0x3 0x7f 0x1000 0x0 0x0 0x0 0x7ffc11f1ff00 0x7f0011\n"));
  EXPECT_FALSE(parse_advice_call("28 0xffffffffffffffff 0x2000 0x9 0x0\n"));
  EXPECT_FALSE(parse_advice_call("28 0x1000"));
}

TEST(ParseVacated, TakesCallsThatTakeMemoryAway) {
  using Ranges = std::vector<AddressRange>;
  EXPECT_EQ(parse_vacated("11 0x10000 0x2000 0x0 0x0 0x0 0x0 0x7ffc 0x7f\n"), (Ranges{{0x10000, 0x12000}}));
  EXPECT_EQ(parse_vacated("25 0x10000 0x2000 0x3000 0x3 0x50000 0x0 0x7ffc 0x7f\n"),
            (Ranges{{0x10000, 0x12000}, {0x50000, 0x53000}}));
  EXPECT_EQ(parse_vacated("25 0x10000 0x2000 0x3000 0x1 0x50000 0x0 0x7ffc 0x7f\n"), (Ranges{{0x10000, 0x12000}}));
  EXPECT_EQ(parse_vacated("9 0x10000 0x1000 0x3 0x32 0x0 0x0 0x7ffc 0x7f\n"), (Ranges{{0x10000, 0x11000}}));
  EXPECT_EQ(parse_vacated("9 0x10000 0x1000 0x3 0x22 0x0 0x0 0x7ffc 0x7f\n"), Ranges{});
  EXPECT_EQ(parse_vacated("12 0x10000 0x0").size(), 1u);
  EXPECT_EQ(parse_vacated("28 0x10000 0x2000 0x4 0x0 0x0 0x0 0x7ffc 0x7f\n"), Ranges{});
  EXPECT_EQ(parse_vacated("running\n"), Ranges{});
  EXPECT_TRUE(parse_fork("56 0x1200011 0x0 0x0 0x0 0x0 0x0 0x7ffc 0x7f\n"));
  EXPECT_TRUE(parse_fork("435 0x7ffc 0x58 0x0 0x0 0x0 0x0 0x7ffc 0x7f\n"));
  EXPECT_FALSE(parse_fork("11 0x10000 0x2000 0x0 0x0 0x0 0x0 0x7ffc 0x7f\n"));
  EXPECT_FALSE(parse_fork("running\n"));
  EXPECT_EQ(parse_vacated("11 0xffffffffffff0000 0xffffffffffffffff"), (Ranges{{0xffffffffffff0000, ~0ull}}));
}

void parse_everything(std::string_view text) {
  for (const MemoryMap& map : parse_maps(text)) EXPECT_LT(map.range.start, map.range.end);
  for (const MappingUsage& mapping : parse_smaps(text)) mapping.has_flag("lo");
  parse_process_stat(text);
  parse_process_status(text);
  parse_descriptor(1, text, text);
  parse_descriptor(1, "anon_inode:[io_uring]", text);
  parse_command_line(text);
  parse_mounts(text);
  parse_cgroups(text);
  parse_elf_class(text);
  parse_stack_pointer(text);
  parse_advice_call(text);
  parse_vacated(text);
  parse_fork(text);
}

TEST(Parsers, SurviveEveryTruncation) {
  for (const std::string_view text : {kMaps, kSmaps}) {
    for (std::size_t length = 0; length <= text.size(); ++length) parse_everything(text.substr(0, length));
  }
}

TEST(Parsers, SurviveRandomBytesAndDamagedText) {
  const unsigned seed = std::random_device{}();
  RecordProperty("seed", static_cast<int>(seed));
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const std::string interesting = "0123456789abcdef-: \t\n()[]/\\,\xff%rwxps";
  for (int round = 0; round < 3000; ++round) {
    std::string text(round % 2 == 0 ? kSmaps : kMaps);
    for (int edits = 0; edits < 20; ++edits) text[random() % text.size()] = static_cast<char>(random());
    parse_everything(text);
    std::string noise(random() % 300, '\0');
    for (char& c : noise) c = interesting[random() % interesting.size()];
    parse_everything(noise);
  }
}

}  // namespace
}  // namespace tidepool::kernel
