#include "kmod-interfaces/dax_device.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cstdint>
#include <filesystem>
#include <fstream>

namespace tidepool::kernel {
namespace {

Result<Bytes> read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  if (!(file >> value)) return failure(std::errc::io_error, "read", path.string());
  return Bytes{value};
}

}  // namespace

Result<DaxDevice> inspect_dax_device(const KernelRoots& roots, int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return errno_failure("inspect", "DAX device");
  const std::filesystem::path device =
      std::filesystem::path(roots.sys) / "dev/char" /
      (std::to_string(major(status.st_rdev)) + ":" + std::to_string(minor(status.st_rdev)));
  std::error_code ignored;
  const auto subsystem = std::filesystem::read_symlink(device / "subsystem", ignored);
  if (!S_ISCHR(status.st_mode) || subsystem.filename() != "dax")
    return failure(std::errc::no_such_device, "inspect", "DAX device", "it is not a device of the dax subsystem");
  const auto size = read_bytes(device / "size");
  if (!size) return Failure{size.error()};
  const auto align = read_bytes(device / "align");
  if (!align) return Failure{align.error()};
  return DaxDevice{*size, *align};
}

}  // namespace tidepool::kernel
