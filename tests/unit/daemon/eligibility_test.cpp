// Every rule over facts as a table, the facts over trees of files, and docs/eligibility.md against the rules.
#include "daemon/vm/eligibility.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>

#include "tests/unit/kmod-interfaces/kernel_tree.h"

namespace tidepool::daemon {
namespace {

using kernel::KernelTree;
using kernel::StorageSpeed;

ManagedMapping shared_mapping() {
  return {{0x7f0000000000, 0x7f0040000000}, MemoryKind::memfd, {{0, 1}, 5}, 0, "/memfd:ram (deleted)", {}, {}};
}

ManagedMapping private_mapping() {
  return {{0x7f0000000000, 0x7f0040000000}, MemoryKind::private_anonymous, {}, 0, "", {}, {}};
}

ProcessFacts good_facts() {
  ProcessFacts facts;
  facts.id = {71, 4711};
  facts.name = "web-3";
  facts.comm = "qemu-system-x86";
  facts.executable = "/usr/bin/qemu-system-x86_64";
  facts.elf_class = kernel::ElfClass::bits64;
  facts.hypervisor = true;
  facts.mappings.chosen = {shared_mapping()};
  return facts;
}

AdoptionRules good_rules() {
  AdoptionRules rules;
  rules.allow_executables = {"/usr/bin/qemu-system-*"};
  return rules;
}

kernel::MemoryHolder holder(pid_t pid, bool maps, pid_t parent = 1) {
  kernel::MemoryHolder holder{{pid, 5}, "virtiofsd", parent, 0, {}, {}};
  (maps ? holder.mapped : holder.opened).push_back({{0, 1}, 5});
  return holder;
}

std::set<std::string> codes_of(const Eligibility& eligibility) {
  std::set<std::string> codes;
  for (const Finding& finding : eligibility.findings) codes.insert(finding.code);
  return codes;
}

struct RuleCase {
  std::string code;
  std::string expected_text;  // a part of the message
  std::function<void(ProcessFacts&, AdoptionRules&)> spoil;
};

ExcludedMapping blocked(Exclusion reason, std::uint64_t size = 1ull << 30) {
  return {{0, size}, "", reason, {}};
}

void only(ProcessFacts& facts, Exclusion reason) {
  facts.mappings.chosen.clear();
  facts.mappings.blocked = {blocked(reason)};
}

std::vector<RuleCase> cases_of_the_process() {
  return {
      {"self", "", [](auto& f, auto&) { f.is_self = true; }},
      {"self", "", [](auto&, auto& r) { r.own_processes = {71}; }},
      {"kernel-thread", "kswapd0",
       [](auto& f, auto&) {
         f = ProcessFacts{};
         f.kernel_thread = true;
         f.comm = "kswapd0";
       }},
      {"zombie", "",
       [](auto& f, auto&) {
         f.zombie = true;
         f.mappings = {};
       }},
      {"32-bit", "", [](auto& f, auto&) { f.elf_class = kernel::ElfClass::bits32; }},
      {"traced", "gdb (pid 12)",
       [](auto& f, auto&) {
         f.tracer = 12;
         f.tracer_comm = "gdb";
       }},
      {"not-permitted", "/proc/71/smaps",
       [](auto& f, auto&) {
         f.denied = {"/proc/71/smaps"};
         f.mappings = {};
       }},
      {"ptrace-forbidden", "allow_ptrace", [](auto&, auto& r) { r.allow_ptrace = false; }},
      {"ptrace-forbidden", "yama", [](auto& f, auto&) { f.ptrace_scope = 3; }},
      {"not-allow-listed", "/usr/bin/sshd", [](auto& f, auto&) { f.executable = "/usr/bin/sshd"; }},
      {"not-allow-listed", "qemu", [](auto&, auto& r) { r.allow_executables.clear(); }},
      {"vfio", "/dev/vfio/12", [](auto& f, auto&) { f.passthrough = {"/dev/vfio/12"}; }},
      {"iommufd", "/dev/iommu", [](auto& f, auto&) { f.iommufd = {"/dev/iommu"}; }},
      {"vdpa", "/dev/vhost-vdpa-0", [](auto& f, auto&) { f.vdpa = {"/dev/vhost-vdpa-0"}; }},
      {"io-uring-buffers", "descriptor 9", [](auto& f, auto&) { f.rings_with_fixed_buffers = {9}; }},
      {"io-uring-busy", "descriptor 9", [](auto& f, auto&) { f.rings_unknown = {9}; }},
      {"pinned", "8 KiB", [](auto& f, auto&) { f.pinned = Bytes{8192}; }},
      {"direct-io-slow", "/disk (nfs4)",
       [](auto& f, auto&) {
         f.direct = {{7, "/disk", {StorageSpeed::network, "nfs4"}}};
       }},
      {"direct-io-slow", "",
       [](auto& f, auto&) {
         f.direct = {{7, "/d", {StorageSpeed::rotational, "sda"}}};
       }},
      {"direct-io-slow", "",
       [](auto& f, auto&) {
         f.direct = {{7, "/d", {StorageSpeed::unknown, "btrfs"}}};
       }},
      {"direct-io", "/d",
       [](auto& f, auto&) {
         f.direct = {{7, "/d", {StorageSpeed::fast, "nvme"}}};
       }},
  };
}

std::vector<RuleCase> cases_of_its_memory() {
  return {
      {"locked", "1024 MiB", [](auto& f, auto&) { only(f, Exclusion::locked); }},
      {"locked-partly", "1 MiB", [](auto& f, auto&) { f.mappings.blocked = {blocked(Exclusion::locked, 1u << 20)}; }},
      {"locked-partly", "4 KiB", [](auto& f, auto&) { f.locked = Bytes{4096}; }},
      {"hugetlb", "1024 MiB", [](auto& f, auto&) { only(f, Exclusion::hugetlb); }},
      {"hugetlb-partly", "2 MiB", [](auto& f, auto&) { f.mappings.blocked = {blocked(Exclusion::hugetlb, 2u << 20)}; }},
      {"dax", "1024 MiB", [](auto& f, auto&) { only(f, Exclusion::dax); }},
      {"userfaultfd", "1024 MiB", [](auto& f, auto&) { only(f, Exclusion::userfaultfd); }},
      {"userfaultfd", "descriptor 5", [](auto& f, auto&) { f.userfaultfds = {5}; }},
      {"mapped-twice", "1024 MiB", [](auto& f, auto&) { only(f, Exclusion::alias_unmanageable); }},
      {"foreign-mapper", "virtiofsd (pid 80)", [](auto& f, auto&) { f.holders = {holder(80, true)}; }},
      {"family-member", "postgres (pid 81, vfio)",
       [](auto& f, auto&) {
         f.unfit_members = {{81, "postgres", "vfio"}};
       }},
      {"foreign-descriptor", "virtiofsd (pid 80)", [](auto& f, auto&) { f.holders = {holder(80, false)}; }},
      {"holders-unknown", "pid 80", [](auto& f, auto&) { f.holders_unknown = {80}; }},
      {"io-uring-forbidden", "",
       [](auto& f, auto&) {
         f.mappings.chosen = {private_mapping()};
         f.may_use_io_uring = false;
       }},
      {"nothing-to-manage", "", [](auto& f, auto&) { f.mappings = {}; }},
      {"nothing-to-manage", "64 MiB: a thread's stack, 2 MiB ([heap]): too small",
       [](auto& f, auto&) {
         f.mappings = {};
         f.mappings.excluded = {{{}, "[heap]", Exclusion::too_small, Bytes{2u << 20}},
                                {{}, "/usr/lib/libc.so", Exclusion::file_private, Bytes{40u << 10}},
                                {{}, "", Exclusion::stack, Bytes{64u << 20}}};
       }},
      {"private-may-move", "1024 MiB",
       [](auto& f, auto&) {
         f.hypervisor = false;
         f.mappings.chosen = {private_mapping()};
       }},
      {"swapped", "4 KiB", [](auto& f, auto&) { f.swapped = Bytes{4096}; }},
  };
}

std::vector<RuleCase> cases_of_a_handoff() {
  return {
      {"no-ring", "it is traced",
       [](auto& f, auto&) {
         f.mappings.chosen = {private_mapping()};
         f.handed_off = HandoffFacts{.ring_error = "it is traced"};
       }},
      {"discards-unseen", "", [](auto& f, auto&) { f.handed_off = HandoffFacts{.announces_discards = false}; }},
      {"changes-unseen", "", [](auto& f, auto&) { f.handed_off = HandoffFacts{.announces_changes = false}; }},
      {"user-mode-only", "",
       [](auto& f, auto&) { f.handed_off = HandoffFacts{.kernel_faults = HandoffFacts::KernelFaults::refused}; }},
      {"user-mode-only", "could not be tried",
       [](auto& f, auto&) { f.handed_off = HandoffFacts{.kernel_faults = HandoffFacts::KernelFaults::untried}; }},
      {"snapshot-unknown", "", [](auto& f, auto&) { f.handed_off = HandoffFacts{.restores_snapshot = true}; }},
      {"ptrace-forbidden", "allow_ptrace",
       [](auto& f, auto& r) {
         f.mappings.chosen = {private_mapping()};
         f.handed_off = HandoffFacts{};
         r.allow_ptrace = false;
       }},
  };
}

TEST(CheckEligibility, AcceptsAProcessWithNothingAgainstIt) {
  const Eligibility verdict = check_eligibility(good_facts(), good_rules());
  EXPECT_TRUE(verdict.eligible());
  EXPECT_TRUE(verdict.findings.empty());
}

TEST(CheckEligibility, NamesEachReasonAloneWithItsRemedy) {
  std::set<std::string_view> seen;
  for (const auto& cases : {cases_of_the_process(), cases_of_its_memory(), cases_of_a_handoff()}) {
    for (const RuleCase& test : cases) {
      ProcessFacts facts = good_facts();
      AdoptionRules rules = good_rules();
      test.spoil(facts, rules);
      const Eligibility verdict = check_eligibility(facts, rules);
      ASSERT_EQ(codes_of(verdict), std::set<std::string>{test.code});
      const Finding& finding = verdict.findings.front();
      const auto table = eligibility_rules();
      const auto rule = std::ranges::find(table, test.code, &EligibilityRule::code);
      ASSERT_NE(rule, table.end()) << test.code;
      seen.insert(rule->code);
      EXPECT_EQ(finding.kind, rule->kind) << test.code;
      EXPECT_EQ(verdict.eligible(), rule->kind != FindingKind::kRefusal) << test.code;
      EXPECT_NE(finding.message.find(test.expected_text), std::string::npos) << finding.message;
      if (finding.kind == FindingKind::kRefusal) {
        EXPECT_FALSE(finding.remedy.empty()) << test.code;
      }
    }
  }
  EXPECT_EQ(seen.size(), eligibility_rules().size()) << "a rule has no case here";
}

TEST(CheckEligibility, EntersNoProcessThatHandsOffSharedMemory) {
  ProcessFacts facts = good_facts();
  facts.handed_off = HandoffFacts{.restores_snapshot = true};
  facts.userfaultfds = {5};
  facts.elf_class = kernel::ElfClass::bits32;
  facts.tracer = 12;
  facts.ptrace_scope = 3;
  AdoptionRules rules = good_rules();
  rules.allow_ptrace = false;
  rules.memory_file_known = true;
  EXPECT_EQ(codes_of(check_eligibility(facts, rules)), std::set<std::string>{});
}

// It waits for somebody to answer its faults: what speaks against moving its memory is no reason to let it wait.
TEST(CheckEligibility, ServesAProcessThatHandedItselfOffWhereItMayNotMoveIt) {
  ProcessFacts facts = good_facts();
  facts.handed_off = HandoffFacts{};
  facts.passthrough = {"/dev/vfio/1"};
  Eligibility verdict = check_eligibility(facts, good_rules());
  EXPECT_FALSE(verdict.eligible());
  EXPECT_TRUE(verdict.servable());
  ASSERT_NE(verdict.first_refusal(), nullptr);
  EXPECT_EQ(verdict.first_refusal()->code, "vfio");
  facts.executable = "/usr/bin/sshd";
  EXPECT_FALSE(check_eligibility(facts, good_rules()).servable());
}

TEST(CheckEligibility, ReportsEverythingAtOnceRefusalsFirst) {
  ProcessFacts facts = good_facts();
  facts.swapped = Bytes{4096};
  facts.locked = Bytes{4096};
  facts.passthrough = {"/dev/vfio/1"};
  facts.holders = {holder(80, true)};
  const Eligibility verdict = check_eligibility(facts, good_rules());
  ASSERT_EQ(verdict.findings.size(), 4u);
  EXPECT_EQ(verdict.findings[0].kind, FindingKind::kRefusal);
  EXPECT_EQ(verdict.findings[1].kind, FindingKind::kRefusal);
  EXPECT_EQ(verdict.findings[3].kind, FindingKind::kWarning);
  EXPECT_FALSE(verdict.eligible());
}

TEST(CheckEligibility, LetsForceableFindingsBeForcedAndNoOthers) {
  ProcessFacts facts = good_facts();
  facts.direct = {{7, "/disk", {StorageSpeed::network, "nfs4"}}};
  AdoptionRules rules = good_rules();
  rules.force = {"direct-io-slow"};
  const Eligibility forced = check_eligibility(facts, rules);
  EXPECT_TRUE(forced.eligible());
  EXPECT_EQ(codes_of(forced), std::set<std::string>{"direct-io-slow"});
  facts.passthrough = {"/dev/vfio/1"};
  rules.force = {"direct-io-slow", "vfio"};
  EXPECT_FALSE(check_eligibility(facts, rules).eligible());
}

TEST(CheckEligibility, KnowsWhoMayShareTheMemory) {
  ProcessFacts facts = good_facts();
  facts.holders = {holder(80, true), holder(81, true), holder(82, false)};
  AdoptionRules rules = good_rules();
  rules.own_processes = {82};
  rules.enrolled = {{80, 5}, {81, 5}};
  EXPECT_TRUE(check_eligibility(facts, rules).findings.empty());
  // The same pid with another start time is another process.
  rules.enrolled = {{80, 5}, {81, 6}};
  EXPECT_EQ(codes_of(check_eligibility(facts, rules)), std::set<std::string>{"foreign-mapper"});
}

TEST(CheckEligibility, AcceptsAnExecutableThatWasReplacedMeanwhile) {
  ProcessFacts facts = good_facts();
  facts.executable += " (deleted)";
  EXPECT_TRUE(check_eligibility(facts, good_rules()).eligible());
}

TEST(CheckEligibility, NeedsNoRingForSharedMemory) {
  ProcessFacts facts = good_facts();
  facts.may_use_io_uring = false;
  EXPECT_TRUE(check_eligibility(facts, good_rules()).eligible());
}

TEST(CheckEligibility, ShowsHostileNamesAsOneBoundedLine) {
  ProcessFacts facts = good_facts();
  facts.executable = "/tmp/\x1b[31m\n" + std::string(5000, 'x');
  facts.passthrough.assign(500, "/dev/vfio/" + std::string(4000, '\n'));
  for (const Finding& finding : check_eligibility(facts, good_rules()).findings) {
    EXPECT_LT(finding.message.size(), 1000u);
    EXPECT_EQ(finding.message.find_first_of("\n\x1b"), std::string::npos);
  }
}

TEST(FamilyOf, IsTheServerAndItsChildren) {
  const std::vector<kernel::MemoryHolder> holders{holder(100, true), holder(101, true, 100), holder(102, true, 100),
                                                  holder(103, true, 102), holder(200, true)};
  const auto pids = [](const std::vector<kernel::MemoryHolder>& list) {
    std::set<pid_t> out;
    for (const auto& item : list) out.insert(item.id.pid);
    return out;
  };
  EXPECT_EQ(pids(family_of(100, 1, holders)), (std::set<pid_t>{101, 102, 103}));
  EXPECT_EQ(pids(family_of(103, 102, holders)), (std::set<pid_t>{100, 101, 102}));
  EXPECT_EQ(pids(family_of(200, 1, holders)), std::set<pid_t>{});
  // Not among the holders itself, and a cycle that a recycled pid can fake.
  EXPECT_EQ(pids(family_of(300, 100, holders)), (std::set<pid_t>{100, 101, 102, 103}));
  EXPECT_LE(pids(family_of(1, 2, std::vector{holder(2, true, 1)})).size(), 1u);
}

class CollectFacts : public ::testing::Test {
 protected:
  void SetUp() override {
    tree_.add_process(71, "qemu-system-x86", tree_.path_of("dev/qemu"));
    tree_.write("dev/qemu", std::string("\x7f"
                                        "ELF\x02\x01\x01",
                                        7));
    tree_.write("proc/71/cmdline", std::string("qemu\0-name\0guest=web-3\0", 23));
    tree_.write("proc/71/smaps",
                "7f0000000000-7f0040000000 rw-s 00000000 00:01 1025    /memfd:ram (deleted)\nRss: 8 kB\n"
                "VmFlags: rd wr sh mr mw me ms\n7f0050000000-7f0060000000 rw-p 00000000 00:00 0 \nRss: 4 kB\n"
                "VmFlags: rd wr mr mw me ac\n");
  }
  ProcessFacts facts(const std::string& selector = "auto") {
    auto collected = collect_facts(71, tree_.roots(), *parse_memory_selector(selector));
    EXPECT_TRUE(collected);
    return collected ? std::move(*collected) : ProcessFacts{};
  }
  KernelTree tree_;
};

TEST_F(CollectFacts, ReadsWhatAProcessIs) {
  const ProcessFacts found = facts("shared");
  EXPECT_EQ(found.id, (kernel::ProcessId{71, 4711}));
  EXPECT_EQ(found.comm, "qemu-system-x86");
  EXPECT_EQ(found.elf_class, kernel::ElfClass::bits64);
  EXPECT_EQ(found.uid, 1000u);
  EXPECT_TRUE(found.denied.empty());
  EXPECT_FALSE(found.is_self || found.kernel_thread || found.zombie);
  ASSERT_EQ(found.mappings.chosen.size(), 1u);
  EXPECT_EQ(found.mappings.chosen[0].object, (kernel::InodeId{{0, 1}, 1025}));
}

TEST_F(CollectFacts, FindsDescriptorsThatMatter) {
  tree_.add_descriptor(71, 3, "/dev/vfio/12", "flags:\t02\n");
  tree_.add_descriptor(71, 4, "/dev/iommu", "flags:\t02\n");
  tree_.add_descriptor(71, 5, "/dev/vhost-vdpa-1", "flags:\t02\n");
  tree_.add_descriptor(71, 6, "anon_inode:[userfaultfd]", "flags:\t02\n");
  tree_.add_descriptor(71, 7, "anon_inode:[io_uring]", "UserBufs:\t1\n    0: 0x1000/4096\n");
  tree_.add_descriptor(71, 8, "anon_inode:[io_uring]", "UserBufs:\t0\n");
  tree_.add_descriptor(71, 9, "anon_inode:[io_uring]", "flags:\t02\n");
  tree_.add_descriptor(71, 10, "anon_inode:kvm-vm", "flags:\t02\n");
  tree_.add_descriptor(71, 11, "/var/disk.img", "flags:\t0140002\nmnt_id:\t24\nino:\t7\n");
  const ProcessFacts found = facts();
  EXPECT_EQ(found.passthrough, std::vector<std::string>{"/dev/vfio/12"});
  EXPECT_EQ(found.iommufd, std::vector<std::string>{"/dev/iommu"});
  EXPECT_EQ(found.vdpa, std::vector<std::string>{"/dev/vhost-vdpa-1"});
  EXPECT_EQ(found.userfaultfds, std::vector<int>{6});
  EXPECT_EQ(found.rings_with_fixed_buffers, std::vector<int>{7});
  EXPECT_EQ(found.rings_unknown, std::vector<int>{9});
  EXPECT_TRUE(found.hypervisor);
  ASSERT_EQ(found.direct.size(), 1u);
  EXPECT_EQ(found.direct[0].number, 11);
}

struct StorageCase {
  const char* mount;
  const char* rotational;  // nullptr: no such device
  StorageSpeed speed;
};

TEST_F(CollectFacts, TellsSlowStorageFromFast) {
  tree_.add_descriptor(71, 11, "/var/disk.img", "flags:\t0140002\nmnt_id:\t40\nino:\t7\n");
  for (const StorageCase& test : {StorageCase{"40 1 8:0 / /var rw - ext4 /dev/sda rw\n", "0", StorageSpeed::fast},
                                  {"40 1 8:0 / /var rw - ext4 /dev/sda rw\n", "1", StorageSpeed::rotational},
                                  {"40 1 8:9 / /var rw - ext4 /dev/sda rw\n", nullptr, StorageSpeed::unknown},
                                  {"40 1 0:40 / /var rw - nfs4 host:/x rw\n", nullptr, StorageSpeed::network},
                                  {"40 1 0:40 / /var rw - fuse.sshfs host:/x rw\n", nullptr, StorageSpeed::network},
                                  {"40 1 0:40 / /var rw - tmpfs tmpfs rw\n", nullptr, StorageSpeed::fast},
                                  {"40 1 0:40 / /var rw - btrfs /dev/sda rw\n", nullptr, StorageSpeed::unknown},
                                  {"41 1 8:0 / /var rw - ext4 /dev/sda rw\n", "0", StorageSpeed::unknown}}) {
    tree_.write("proc/71/mountinfo", test.mount);
    if (test.rotational != nullptr) tree_.write("sys/dev/block/8:0/queue/rotational", test.rotational);
    const ProcessFacts found = facts();
    ASSERT_EQ(found.direct.size(), 1u);
    EXPECT_EQ(found.direct[0].storage.speed, test.speed) << test.mount;
  }
}

TEST_F(CollectFacts, AsksThePartitionsDiskAndKnowsRemoteDisks) {
  tree_.write("sys/devices/pci0/block/sda/queue/rotational", "0\n");
  tree_.write("sys/devices/pci0/block/sda/sda1/partition", "1\n");
  tree_.link("sys/dev/block/8:1", "../../devices/pci0/block/sda/sda1");
  EXPECT_EQ(kernel::block_device_speed(tree_.roots(), {8, 1}), StorageSpeed::fast);
  tree_.write("sys/devices/host3/session1/block/sdb/queue/rotational", "0\n");
  tree_.link("sys/dev/block/8:16", "../../devices/host3/session1/block/sdb");
  EXPECT_EQ(kernel::block_device_speed(tree_.roots(), {8, 16}), StorageSpeed::network);
}

TEST_F(CollectFacts, FindsOthersWithTheSameMemory) {
  tree_.add_process(80, "virtiofsd", "/bin/x");
  tree_.write("proc/80/maps", "7f0000000000-7f0040000000 rw-s 00000000 00:01 1025    /memfd:ram (deleted)\n");
  tree_.write("proc/71/maps", "7f0000000000-7f0040000000 rw-s 00000000 00:01 1025    /memfd:ram (deleted)\n");
  const ProcessFacts found = facts("shared");
  ASSERT_EQ(found.holders.size(), 1u);
  EXPECT_EQ(found.holders[0].id.pid, 80);
}

TEST_F(CollectFacts, AppliesTheIoUringSettingToThisProcess) {
  const auto allowed = [&](const char* disabled, const char* group) {
    tree_.write("proc/sys/kernel/io_uring_disabled", disabled);
    tree_.write("proc/sys/kernel/io_uring_group", group);
    return facts().may_use_io_uring;
  };
  EXPECT_TRUE(allowed("0\n", "-1\n"));
  EXPECT_FALSE(allowed("1\n", "-1\n"));
  EXPECT_TRUE(allowed("1\n", "1000\n"));
  EXPECT_FALSE(allowed("1\n", "1001\n"));
  EXPECT_FALSE(allowed("2\n", "1000\n"));
}

TEST_F(CollectFacts, SeesKernelThreadsZombiesAndTracers) {
  tree_.write("proc/71/stat", kernel::stat_line(71, "kswapd0", 'S', 0x200000));
  EXPECT_TRUE(facts().kernel_thread);
  tree_.write("proc/71/stat", kernel::stat_line(71, "x", 'Z'));
  EXPECT_TRUE(facts().zombie);
  tree_.write("proc/71/stat", kernel::stat_line(71, "x"));
  tree_.write("proc/71/status", "Tgid:\t71\nTracerPid:\t12\nVmPin:\t8 kB\nVmLck:\t4 kB\n");
  tree_.add_process(12, "gdb", "/bin/gdb");
  const ProcessFacts found = facts();
  EXPECT_EQ(found.tracer_comm, "gdb");
  EXPECT_EQ(found.pinned, Bytes{8192});
  EXPECT_EQ(found.locked, Bytes{4096});
}

TEST_F(CollectFacts, FailsOnlyWhenThereIsNoSuchProcess) {
  EXPECT_EQ(collect_facts(99, tree_.roots()).error().code, std::errc::no_such_process);
  for (const char* file : {"status", "smaps", "cmdline", "mountinfo", "exe"})
    std::filesystem::remove(tree_.path_of(std::string("proc/71/") + file));
  std::filesystem::remove_all(tree_.path_of("proc/71/fd"));
  EXPECT_TRUE(facts().mappings.chosen.empty());
}

std::string documented_row(const EligibilityRule& rule) {
  const std::string verdict = rule.kind != FindingKind::kRefusal ? "warning"
                              : rule.forceable                   ? "refusal, can be forced"
                                                                 : "refusal";
  return "| `" + std::string(rule.code) + "` | " + verdict + " | " + std::string(rule.meaning) + " | " +
         std::string(rule.remedy.empty() ? "-" : rule.remedy) + " |";
}

TEST(EligibilityPage, ListsEveryCodeWithMeaningAndRemedyAndNoOther) {
  std::ifstream page(std::string(TIDEPOOL_SOURCE_DIR) + "/docs/eligibility.md");
  ASSERT_TRUE(page) << "docs/eligibility.md is missing";
  std::vector<std::string> documented;
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with("| `")) documented.push_back(line);
  }
  std::vector<std::string> expected;
  for (const EligibilityRule& rule : eligibility_rules()) expected.push_back(documented_row(rule));
  EXPECT_EQ(documented, expected);
}

TEST(EligibilityRules, HaveOneStableWordEach) {
  std::set<std::string_view> codes;
  for (const EligibilityRule& rule : eligibility_rules()) {
    EXPECT_TRUE(codes.insert(rule.code).second) << rule.code;
    EXPECT_EQ(rule.code.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-"), std::string_view::npos);
    EXPECT_TRUE(rule.meaning.ends_with('.')) << rule.code;
  }
}

}  // namespace
}  // namespace tidepool::daemon
