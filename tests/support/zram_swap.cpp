#include "tests/support/zram_swap.h"

#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "kmod-interfaces/kernel_features.h"

namespace tidepool::tests {
namespace {

constexpr const char* kControl = "/sys/class/zram-control/";

bool write(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  return file.good();
}

std::string read(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  std::getline(file, text);
  return text;
}

}  // namespace

ZramSwap::ZramSwap(Bytes size) : missing_(set_up(size)) {}

std::string ZramSwap::set_up(Bytes size) {
  if (!kernel::read_swap({}).empty()) return "this host has swap already";
  const std::string add = std::string(kControl) + "hot_add";
  if (::access(add.c_str(), F_OK) != 0 && std::system("modprobe zram 2>/dev/null") != 0)
    return "no zram in this kernel";
  const std::string number = read(add);
  if (number.empty()) return "no zram device to be had";
  number_ = static_cast<unsigned>(std::strtoul(number.c_str(), nullptr, 10));
  static_cast<void>(write(folder() + "/comp_algorithm", "lz4"));
  if (!write(folder() + "/disksize", std::to_string(size.value))) return "the zram device takes no size";
  if (::access(device().c_str(), F_OK) != 0) {
    const std::string id = read(folder() + "/dev");
    const auto major_number = static_cast<unsigned>(std::strtoul(id.c_str(), nullptr, 10));
    const auto minor_number = static_cast<unsigned>(std::strtoul(id.c_str() + id.find(':') + 1, nullptr, 10));
    made_node_ = ::mknod(device().c_str(), S_IFBLK | 0600, makedev(major_number, minor_number)) == 0;
  }
  if (std::system(("mkswap " + device() + " >/dev/null 2>&1").c_str()) != 0) return "mkswap failed";
  if (::swapon(device().c_str(), 0) != 0) return std::string("swapon: ") + std::strerror(errno);
  on_ = true;
  return {};
}

ZramSwap::~ZramSwap() {
  if (!number_) return;
  if (on_) static_cast<void>(::swapoff(device().c_str()));
  static_cast<void>(write(std::string(kControl) + "hot_remove", std::to_string(*number_)));
  if (made_node_) static_cast<void>(::unlink(device().c_str()));
}

void ZramSwap::limit(Bytes dram) const {
  static_cast<void>(write(folder() + "/mem_limit", std::to_string(dram.value)));
}

}  // namespace tidepool::tests
