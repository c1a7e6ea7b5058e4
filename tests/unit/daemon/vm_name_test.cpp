#include "daemon/vm/vm_name.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace tidepool::daemon {
namespace {

constexpr const char* kQemu = "/usr/bin/qemu-system-x86_64";
using Arguments = std::vector<std::string>;

std::string qemu_name(const std::string& option, const std::string& value) {
  return vm_name(kQemu, Arguments{"qemu", "-m", "1G", option, value, "-nographic"}, "qemu-system-x86", 71);
}

TEST(VmName, IsTheGuestNameThatQemuWasGiven) {
  EXPECT_EQ(qemu_name("-name", "web-3"), "web-3");
  EXPECT_EQ(qemu_name("--name", "web-3,debug-threads=on"), "web-3");
  EXPECT_EQ(qemu_name("-name", "guest=web-3,debug-threads=on"), "web-3");
  EXPECT_EQ(qemu_name("-name", "debug-threads=on,guest=web-3"), "web-3");
  EXPECT_EQ(qemu_name("-name", "guest=a,,b,process=x"), "a-b");
  EXPECT_EQ(vm_name("/usr/libexec/qemu-kvm", Arguments{"q", "-name", "guest=db"}, "qemu-kvm", 1), "db");
}

TEST(VmName, FallsBackWhenQemuHasNoName) {
  EXPECT_EQ(qemu_name("-name", "debug-threads=on"), "qemu-system-x86-71");
  EXPECT_EQ(qemu_name("-name", ""), "qemu-system-x86-71");
  EXPECT_EQ(vm_name(kQemu, Arguments{"qemu", "-name"}, "qemu", 9), "qemu-9");
  EXPECT_EQ(vm_name(kQemu, Arguments{}, "qemu", 9), "qemu-9");
}

TEST(VmName, KnowsFirecrackerAndCloudHypervisor) {
  EXPECT_EQ(vm_name("/usr/bin/firecracker", Arguments{"fc", "--id", "f-1"}, "firecracker", 2), "f-1");
  EXPECT_EQ(vm_name("/usr/bin/firecracker", Arguments{"fc", "--id=f-1"}, "firecracker", 2), "f-1");
  EXPECT_EQ(vm_name("/x/cloud-hypervisor", Arguments{"ch", "--api-socket", "path=/run/ch/web.1.sock,fd=3"}, "c", 2),
            "web.1");
  EXPECT_EQ(vm_name("/x/cloud-hypervisor", Arguments{"ch", "--api-socket=/run/web.sock"}, "ch", 2), "web");
}

TEST(VmName, TakesNoOtherProgramsOptions) {
  EXPECT_EQ(vm_name("/usr/bin/redis-server", Arguments{"redis", "-name", "x"}, "redis-server", 12), "redis-server-12");
  EXPECT_EQ(vm_name("", Arguments{}, "", 12), "process-12");
}

TEST(VmName, IsFoundForAnExecutableThatWasReplaced) {
  EXPECT_EQ(vm_name("/usr/bin/qemu-system-x86_64 (deleted)", Arguments{"q", "-name", "web"}, "q", 1), "web");
}

TEST(SanitizeVmName, LeavesWhatALabelAndAPathCanHold) {
  EXPECT_EQ(sanitize_vm_name("web-3.example_x"), "web-3.example_x");
  EXPECT_EQ(sanitize_vm_name("../../etc/passwd"), "etc-passwd");
  EXPECT_EQ(sanitize_vm_name("a b\n\"{}\\c"), "a-b-----c");
  EXPECT_EQ(sanitize_vm_name("\xc3\xa4x"), "x");
  EXPECT_EQ(sanitize_vm_name("..."), "");
  EXPECT_EQ(sanitize_vm_name(""), "");
  EXPECT_EQ(sanitize_vm_name(std::string(500, 'x')).size(), kMaxVmName);
}

TEST(VmName, IsAlwaysBoundedAndPlain) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 2000; ++round) {
    std::string noise(random() % 100, '\0');
    for (char& c : noise) c = static_cast<char>(random());
    for (const char* exe : {kQemu, "/usr/bin/firecracker", "/usr/bin/cloud-hypervisor", "/bin/x"}) {
      const std::string name = vm_name(exe, Arguments{"x", "-name", noise, "--id", noise, "--api-socket", noise}, noise,
                                       static_cast<pid_t>(random() % 4194304));
      ASSERT_FALSE(name.empty());
      ASSERT_LE(name.size(), kMaxVmName);
      ASSERT_EQ(sanitize_vm_name(name), name);
    }
  }
}

TEST(VmUuid, IsWhatTheVmWasGiven) {
  const std::string uuid = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";
  EXPECT_EQ(vm_uuid(kQemu, Arguments{"qemu", "-uuid", "6F9619FF-8B86-D011-B42D-00CF4FC964FF"}), uuid);
  EXPECT_EQ(
      vm_uuid("/usr/bin/cloud-hypervisor", Arguments{"ch", "--platform", "num_pci_segments=1,uuid=" + uuid + ",x=1"}),
      uuid);
  EXPECT_EQ(vm_uuid("/usr/bin/cloud-hypervisor", Arguments{"ch", "--platform", "uuid=" + uuid}), uuid);
  EXPECT_EQ(vm_uuid(kQemu, Arguments{"qemu", "-uuid", "6f9619ff-8b86-d011-b42d-00cf4fc964f"}), "");
  EXPECT_EQ(vm_uuid(kQemu, Arguments{"qemu", "-uuid", "6f9619ff-8b86-d011-b42d-00cf4fc964f\n"}), "");
  EXPECT_EQ(vm_uuid(kQemu, Arguments{"qemu", "-uuid"}), "");
  EXPECT_EQ(vm_uuid("/usr/bin/redis-server", Arguments{"redis", "-uuid", uuid}), "");
}

}  // namespace
}  // namespace tidepool::daemon
