#include "kmod-interfaces/dax_device.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/unique_fd.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"

namespace tidepool::kernel {
namespace {

// /dev/null, which is on every host, and what /sys could say of it.
class DaxDeviceTest : public ::testing::Test {
 protected:
  void describe(const std::string& subsystem, const std::string& size, const std::string& align) {
    tree_.link("sys/dev/char/1:3/subsystem", subsystem);
    tree_.write("sys/dev/char/1:3/size", size);
    tree_.write("sys/dev/char/1:3/align", align);
  }
  std::string refusal() const {
    const auto device = inspect_dax_device(tree_.roots(), device_.get());
    return device ? "none" : device.error().message();
  }

  KernelTree tree_;
  const UniqueFd device_{::open("/dev/null", O_RDWR | O_CLOEXEC)};
};

TEST_F(DaxDeviceTest, HasTheSizeAndAlignmentThatSysSays) {
  describe("../../../bus/dax", "17179869184\n", "2097152\n");
  const auto device = inspect_dax_device(tree_.roots(), device_.get());
  ASSERT_TRUE(device.has_value()) << device.error().message();
  EXPECT_EQ(device->size, Bytes{16ull << 30});
  EXPECT_EQ(device->align, Bytes{2ull << 20});
}

TEST_F(DaxDeviceTest, IsNoneOfAnotherSubsystem) {
  EXPECT_NE(refusal().find("it is not a device of the dax subsystem"), std::string::npos) << "/sys does not know it";
  describe("../../../class/mem", "17179869184\n", "2097152\n");
  EXPECT_NE(refusal().find("it is not a device of the dax subsystem"), std::string::npos);
  const auto real = inspect_dax_device(KernelRoots{}, device_.get());
  ASSERT_FALSE(real.has_value());
  EXPECT_EQ(real.error().code, std::errc::no_such_device);
}

TEST_F(DaxDeviceTest, IsNoFile) {
  describe("../../../bus/dax", "17179869184\n", "2097152\n");
  const UniqueFd file{::open(tree_.path_of("sys/dev/char/1:3/size").c_str(), O_RDONLY | O_CLOEXEC)};
  const auto device = inspect_dax_device(tree_.roots(), file.get());
  ASSERT_FALSE(device.has_value());
  EXPECT_EQ(device.error().code, std::errc::no_such_device);
  EXPECT_FALSE(inspect_dax_device(tree_.roots(), -1)) << "nothing is open";
}

TEST_F(DaxDeviceTest, MustSayHowLargeItIs) {
  describe("../../../bus/dax", "", "2097152\n");
  EXPECT_NE(refusal().find("char/1:3/size"), std::string::npos) << refusal();
  describe("../../../bus/dax", "large\n", "2097152\n");
  EXPECT_NE(refusal().find("char/1:3/size"), std::string::npos) << refusal();
  describe("../../../bus/dax", "17179869184\n", "");
  EXPECT_NE(refusal().find("char/1:3/align"), std::string::npos) << refusal();
}

}  // namespace
}  // namespace tidepool::kernel
