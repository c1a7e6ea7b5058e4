// The kernel's text files, recorded on Linux 6.18 and then damaged: /proc/PID, the host's figures, DAMON's sysfs.
#include <gtest/gtest.h>

#include <filesystem>

#include "kmod-interfaces/advice_calls.h"
#include "kmod-interfaces/damon_sysfs.h"
#include "kmod-interfaces/kernel_tier.h"
#include "kmod-interfaces/meminfo.h"
#include "kmod-interfaces/proc_text.h"
#include "kmod-interfaces/process.h"
#include "kmod-interfaces/psi.h"
#include "kmod-interfaces/ptrace_requests.h"
#include "tests/fuzz/fuzz_driver.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"

namespace tidepool::kernel {
namespace {

using fuzz::Corpus;
using fuzz::Mutator;

using namespace std::string_literals;

constexpr const char* kSmaps =
    "56357830b000-56357830d000 r--p 00000000 fe:00 247134                     /usr/bin/cat\n"
    "Size:                  8 kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n"
    "Rss:                   8 kB\nPss:                   8 kB\nReferenced:            8 kB\n"
    "Anonymous:             0 kB\nAnonHugePages:         0 kB\nShmemPmdMapped:        0 kB\n"
    "Swap:                  0 kB\nLocked:                0 kB\nTHPeligible:           0\nVmFlags: rd mr mw me \n"
    "7f0000000000-7f0080000000 rw-s 00000000 00:01 1025           /memfd:memory-backend-memfd (deleted)\n"
    "Rss:             2097152 kB\nReferenced:          512 kB\nVmFlags: rd wr sh mr mw me ms um uw sd \n";
constexpr const char* kMaps =
    "55e8a3000000-55e8a3400000 rw-p 00000000 00:00 0                          [heap]\n"
    "7f0080000000-7f0080001000 rw-s 00000000 00:1b 2                          /dev/shm/x y\\012z (deleted)\n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
constexpr const char* kStat =
    "24952 (cat) R 24910 24910 6065 0 -1 4194304 100 0 0 0 0 0 0 0 20 0 1 0 192598 3133440 394 18446744073709551615 "
    "94268932755456 94268932775337 140727723530192 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0\n";
constexpr const char* kStatus =
    "Name:\tcat\nUmask:\t0022\nState:\tR (running)\nTgid:\t24948\nPid:\t24948\nTracerPid:\t0\n"
    "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t4 24 27\nVmPeak:\t    3060 kB\nVmLck:\t       0 kB\n"
    "VmPin:\t       0 kB\nVmRSS:\t    1760 kB\nRssAnon:\t     116 kB\nRssFile:\t    1644 kB\nVmPTE:\t      48 kB\n"
    "VmSwap:\t       0 kB\nThreads:\t1\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n"
    "SigIgn:\t0000000000001000\nSigCgt:\t0000000180004a03\nCapEff:\t000001fffeffffff\nNoNewPrivs:\t0\nSeccomp:\t2\n";
constexpr const char* kMounts =
    "22 27 0:21 / /proc rw,relatime shared:7 - proc proc rw\n"
    "24 27 8:6 / /mnt/a\\040b rw,relatime - ext4 /dev/sda6 rw,errors=remount-ro\n";
constexpr const char* kMemInfo =
    "MemTotal:       24684092 kB\nMemFree:        20994048 kB\nMemAvailable:   23884940 kB\n"
    "SwapTotal:             0 kB\nHugePages_Total:       4\nHugepagesize:       2048 kB\nZswap: 12 kB\n";

const Corpus kProcess{
    .inputs = {kSmaps, kMaps, kStat, kStatus, kMounts,
               "28 0x7f4aa96bb000 0x20000 0x4 0x7f4aa974bb60 0xffffffff 0x0 0x7fff5b2312c8 0x7f4aa98342ad\n",
               "25 0x10000 0x2000 0x3000 0x3 0x50000 0x0 0x7ffc 0x7f\n",
               "pos:\t0\nflags:\t0140002\nmnt_id:\t24\nino:\t3\nSqMask:\t0x3\nUserFiles:\t0\nUserBufs:\t2\n",
               "9:name=systemd:/\n8:pids:/\n4:cpu,cpuacct:/machine.slice/a:b\n0::/user.slice\n",
               "qemu-system-x86_64\0-m\0004096\0-name\0guest=web-3\0"s,
               "\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\3\0\76\0\1\0\0\0"s, "running\n"},
    .tokens = {"\n", "\t", " kB\n", "VmFlags:", "-", ":", "(", ")", " - ", "\\040", "\\0", "0x", "[stack]",
               "Rss:", "\0"s, "rw-p ", "/memfd:"}};

TEST(FuzzKernelText, OfProcesses) {
  fuzz::fuzz(kProcess, 15000, [](std::string_view text, Mutator&) {
    for (const MemoryMap& map : parse_maps(text)) ASSERT_LT(map.range.start, map.range.end);
    for (const MappingUsage& mapping : parse_smaps(text)) {
      ASSERT_LT(mapping.map.range.start, mapping.map.range.end);
      static_cast<void>(mapping.has_flag("lo"));
    }
    if (const auto stat = parse_process_stat(text)) {
      ASSERT_GT(stat->pid, 0);
    }
    static_cast<void>(parse_process_status(text).has_capability(63));
    static_cast<void>(parse_descriptor(1, text, text));
    static_cast<void>(parse_descriptor(1, "anon_inode:[io_uring]", text));
    ASSERT_LE(parse_command_line(text).size(), kMaxArguments);
    static_cast<void>(parse_mounts(text));
    static_cast<void>(parse_cgroups(text));
    static_cast<void>(parse_elf_class(text));
    static_cast<void>(parse_stack_pointer(text));
    static_cast<void>(parse_signal_state(text));
    if (const auto advice = parse_advice_call(text)) {
      ASSERT_LE(advice->range.start, advice->range.end);
    }
    const auto vacated = parse_vacated(text);
    ASSERT_LE(vacated.size(), 2u);
    for (const AddressRange& range : vacated) ASSERT_LE(range.start, range.end);
  });
}

// smaps is read line by line as it comes: the same, however it is cut.
TEST(FuzzKernelText, OfSmapsLineByLine) {
  fuzz::fuzz(kProcess, 3000, [](std::string_view text, Mutator&) {
    SmapsReader reader;
    for (const std::string_view line : split_lines(text)) reader.add_line(line);
    const auto one_by_one = reader.take();
    const auto whole = parse_smaps(text);
    ASSERT_EQ(one_by_one.size(), whole.size());
    for (std::size_t i = 0; i < whole.size(); ++i) {
      ASSERT_EQ(one_by_one[i].map.range, whole[i].map.range);
      ASSERT_EQ(one_by_one[i].referenced, whole[i].referenced);
    }
  });
}

TEST(FuzzKernelText, OfTheHost) {
  const Corpus corpus{
      .inputs =
          {kMemInfo,
           "some avg10=0.00 avg60=1.25 avg300=99.99 total=8123\nfull avg10=0.00 avg60=0.10 avg300=0.00 total=77\n",
           "268435456 60000000 67108864        0 67108864    0    0    0    0\n", "0-3,8,10-11\n",
           "always [madvise] never\n", "  1234 kB\n"},
      .tokens = {"\n", "=", "avg10", "total=", "-", ",", "[", "]", " kB", "."}};
  fuzz::fuzz(corpus, 15000, [](std::string_view text, Mutator&) {
    static_cast<void>(parse_meminfo(text));
    if (const auto pressure = parse_pressure(text)) {
      for (const PressureLine& line : {pressure->some, pressure->full}) {
        for (const double share : {line.average_10s, line.average_60s, line.average_300s}) {
          ASSERT_GE(share, 0);
          ASSERT_LE(share, 1);
        }
        ASSERT_GE(line.total.count(), 0);
      }
    }
    ASSERT_LE(parse_number_list(text, 100).size(), 100u);
    if (const auto chosen = parse_bracketed(text)) {
      ASSERT_LE(chosen->size(), text.size());
    }
    static_cast<void>(parse_kilobytes(text));
    if (const auto use = parse_zram_use(text)) {
      ASSERT_LE((use->stored + use->dram + use->limit).value, 3ull << 52);
    }
    static_cast<void>(zram_number(text));
    for (const char c : printable(text)) ASSERT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
  });
}

TEST(FuzzKernelText, OfNumbers) {
  const Corpus corpus{.inputs = {"0", "4096", "18446744073709551615", "ffffffffffffffff", "0777"},
                      .tokens = {"0x", "-", "+", " ", "e", "0"},
                      .longest = 40};
  fuzz::fuzz(corpus, 15000, [](std::string_view text, Mutator&) {
    const auto decimal = parse_decimal(text);
    if (decimal && text.front() != '0') {
      ASSERT_EQ(std::to_string(*decimal), text);
    }
    if (const auto hex = parse_hex(text)) {
      ASSERT_EQ(text.find_first_of("gGxX-+ "), std::string_view::npos);
    }
    static_cast<void>(parse_octal(text));
  });
}

// Of what DAMON is said to have found.
class FuzzDamon : public testing::Test {
 protected:
  void write(const std::string& file, std::string_view text) { tree_.write(kFolder + file, text); }
  void SetUp() override {
    write("nr_kdamonds", "0\n");
    for (const char* file : {"0/contexts/nr_contexts",
                             "0/contexts/0/operations",
                             "0/contexts/0/targets/nr_targets",
                             "0/contexts/0/schemes/nr_schemes",
                             "0/contexts/0/monitoring_attrs/nr_regions/min",
                             "0/contexts/0/monitoring_attrs/nr_regions/max",
                             "0/contexts/0/monitoring_attrs/intervals/sample_us",
                             "0/contexts/0/monitoring_attrs/intervals/aggr_us",
                             "0/contexts/0/monitoring_attrs/intervals/update_us",
                             "0/contexts/0/targets/0/pid_target",
                             "0/contexts/0/targets/0/regions/nr_regions",
                             "0/contexts/0/targets/0/regions/0/start",
                             "0/contexts/0/targets/0/regions/0/end",
                             "0/contexts/0/schemes/0/action",
                             "0/contexts/0/schemes/0/access_pattern/sz/max",
                             "0/contexts/0/schemes/0/access_pattern/nr_accesses/max",
                             "0/contexts/0/schemes/0/access_pattern/age/max",
                             "0/contexts/0/schemes/0/filters/nr_filters",
                             "0/contexts/0/schemes/0/filters/0/type",
                             "0/contexts/0/schemes/0/filters/0/damon_target_idx",
                             "0/contexts/0/schemes/0/filters/0/matching",
                             "0/contexts/0/schemes/0/tried_regions/total_bytes"})
      write(file, "0\n");
    write("0/state", "off\n");
    write("0/pid", "77\n");
    tree_.write("proc/77/schedstat", "12345678 90 12\n");
  }

  const std::string kFolder = "sys/kernel/mm/damon/admin/kdamonds/";
  const std::string kRegions = "0/contexts/0/schemes/0/tried_regions/";
  KernelTree tree_;
};

TEST_F(FuzzDamon, RegionsAreSoundAndInOrder) {
  DamonSettings settings;
  settings.targets = {{4711, {{0x200000, 0x600000}}}};
  auto session = DamonSession::start(tree_.roots(), settings);
  ASSERT_TRUE(session) << session.error().message();
  const Corpus corpus{.inputs = {"2097152\n4194304\n3\n7\n", "4194304\n6291456\n20\n0\n", "6291456\n8388608\n0\n99\n"},
                      .tokens = {"\n", "0", "-", " ", "0x", "4096"},
                      .longest = 200};
  std::uint64_t left_out = 0;
  std::uint64_t believed = 0;
  fuzz::fuzz(corpus, 250, [&](std::string_view text, Mutator& mutator) {
    // Four lines, of a region among five; the others are those of the inputs before.
    const std::string region = kRegions + std::to_string(mutator.number(5)) + "/";
    const auto lines = split_lines(text);
    const char* const files[] = {"start", "end", "nr_accesses", "age"};
    for (std::size_t i = 0; i < std::size(files); ++i)
      write(region + files[i], i < lines.size() ? std::string(lines[i]) + "\n" : "");
    tree_.write("proc/77/schedstat", text);
    const std::uint64_t before = session->malformed();
    const auto found = session->regions(0);
    ASSERT_TRUE(found) << found.error().message();
    std::uint64_t end = 0;
    for (const DamonRegion& each : *found) {
      ASSERT_LT(each.range.start, each.range.end);
      ASSERT_GE(each.range.start, end) << "overlapping";
      ASSERT_LE(each.accesses, session->intervals().looks());
      end = each.range.end;
    }
    if (const auto cpu = session->cpu()) {
      ASSERT_GE(cpu->count(), 0);
    }
    left_out += session->malformed() - before;
    believed += found->size();
  });
  EXPECT_GT(left_out, 0u);
  EXPECT_GT(believed, 0u);
}

TEST_F(FuzzDamon, OfAnybodyIsNeverTakenOver) {
  const Corpus corpus{.inputs = {"1\n", "0\n", "7\n"}, .tokens = {"\n", "0", "-", " "}, .longest = 24};
  fuzz::fuzz(corpus, 250, [&](std::string_view text, Mutator&) {
    write("nr_kdamonds", text);
    if (!damon_unavailable(tree_.roots())) {
      ASSERT_EQ(parse_decimal(trim(text.substr(0, text.find('\n')))), 0u) << "the file is one line";
    }
  });
}

}  // namespace
}  // namespace tidepool::kernel
