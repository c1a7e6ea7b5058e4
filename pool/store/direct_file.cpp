#include "pool/store/direct_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "base/mapping.h"

namespace tidepool::pool {
namespace {

constexpr std::uint64_t kLookedAt = 1ull << 20;

Failure direct_failure(const std::string& path) {
  if (errno == EINVAL)
    return errno_failure("open", path, "its file system has no O_DIRECT: use a block device, or a file on ext4 or XFS");
  if (errno == EBUSY) return errno_failure("open", path, "somebody uses the device: unmount it first");
  return errno_failure("open", path);
}

// What a file system, a partition table or another program left would be overwritten.
Result<> holds_nothing(int fd, const std::string& path, bool device) {
  const auto refused = [&] {
    return failure(std::errc::file_exists, "use", path,
                   device ? "it holds data: wipe it (blkdiscard --zeroout), or name another device"
                          : "it holds data: name another file");
  };
  if (!device) {
    if (::lseek(fd, 0, SEEK_DATA) >= 0) return refused();
    return errno == ENXIO ? Result<>{} : errno_failure("look for data in", path);
  }
  auto memory = Mapping::anonymous(Bytes{kLookedAt});
  if (!memory) return Failure{memory.error()};
  const ssize_t got = ::pread(fd, memory->data(), kLookedAt, 0);
  if (got < 0) return errno_failure("read", path);
  const auto looked_at = memory->bytes().first(static_cast<std::size_t>(got));
  if (std::ranges::any_of(looked_at, [](std::byte byte) { return byte != std::byte{0}; })) return refused();
  return {};
}

}  // namespace

Result<Bytes> measure_direct(const std::string& path) {
  struct stat status {};
  const bool exists = ::stat(path.c_str(), &status) == 0;
  if (!exists && errno != ENOENT) return errno_failure("inspect", path);
  if (exists && S_ISREG(status.st_mode) && status.st_size != 0)
    return Bytes{static_cast<std::uint64_t>(status.st_size)};
  if (exists && S_ISBLK(status.st_mode)) {
    const UniqueFd device{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    Bytes size;
    if (!device.valid()) return errno_failure("open", path);
    if (::ioctl(device.get(), BLKGETSIZE64, &size.value) != 0) return errno_failure("measure", path);
    return size;
  }
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  struct statvfs room {};
  if (::statvfs(folder.c_str(), &room) != 0) return errno_failure("inspect", folder.string());
  return Bytes{static_cast<std::uint64_t>(room.f_bavail) * room.f_frsize};
}

Result<DirectFile> open_direct(const std::string& path, Bytes size) {
  struct stat status {};
  const bool exists = ::stat(path.c_str(), &status) == 0;
  if (!exists && errno != ENOENT) return errno_failure("inspect", path);
  const bool device = exists && S_ISBLK(status.st_mode);
  if (exists && !device && !S_ISREG(status.st_mode))
    return failure(std::errc::invalid_argument, "use", path, "it is neither a file nor a block device");
  // Of a block device, O_EXCL without O_CREAT means: unless it is mounted or otherwise in use.
  const int how = !exists ? O_CREAT | O_EXCL : device ? O_EXCL : 0;
  DirectFile file;
  file.fd = UniqueFd{::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC | O_NOFOLLOW | how, 0600)};
  if (!file.fd.valid()) {
    const Failure why = direct_failure(path);
    // Some file systems create the file first and refuse then.
    if (!exists && why.value().code == std::errc::invalid_argument) ::unlink(path.c_str());
    return why;
  }
  if (!exists && ::unlink(path.c_str()) != 0) return errno_failure("unlink", path);
  if (::flock(file.fd.get(), LOCK_EX | LOCK_NB) != 0)
    return errno_failure("lock", path, "another program uses it: name another file");
  if (exists) {
    if (auto empty = holds_nothing(file.fd.get(), path, device); !empty) return Failure{empty.error()};
  }
  if (device) {
    if (::ioctl(file.fd.get(), BLKGETSIZE64, &file.size.value) != 0) return errno_failure("measure", path);
  } else {
    file.size = exists && status.st_size != 0 ? Bytes{static_cast<std::uint64_t>(status.st_size)} : size;
    if ((!exists || status.st_size == 0) && ::ftruncate(file.fd.get(), static_cast<off_t>(size.value)) != 0)
      return errno_failure("size", path);
  }
  if (whole_pages(file.size) == PageCount{})
    return failure(std::errc::invalid_argument, "use", path, "it is smaller than a page");
  return file;
}

}  // namespace tidepool::pool
