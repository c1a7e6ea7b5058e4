#include "pool/store/medium.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "kmod-interfaces/dax_device.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14
#endif

namespace tidepool::pool {
namespace {

Bytes round_down(Bytes value, Bytes unit) {
  return unit.value == 0 ? value : Bytes{value.value / unit.value * unit.value};
}

Bytes block_size(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? Bytes{static_cast<std::uint64_t>(status.st_blksize)} : Bytes{kPageSize};
}

bool is_hugetlb(int fd) {
  struct statfs status {};
  return ::fstatfs(fd, &status) == 0 && status.f_type == HUGETLBFS_MAGIC;
}

Result<> seal(int fd) {
  if (::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return errno_failure("seal", "page store data");
  return {};
}

Result<UniqueFd> create_memfd(Bytes size) {
  UniqueFd fd{::memfd_create("tidepool-store-data", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!fd.valid()) return errno_failure("create", "page store data");
  if (::ftruncate(fd.get(), static_cast<off_t>(size.value)) != 0) return errno_failure("size", "page store data");
  if (auto sealed = seal(fd.get()); !sealed) return Failure{sealed.error()};
  return fd;
}

struct OpenedFile {
  UniqueFd fd;
  bool created = false;
};

Result<OpenedFile> open_path(const std::string& path) {
  OpenedFile opened;
  opened.fd = UniqueFd{::open(path.c_str(), O_RDWR | O_CLOEXEC)};
  if (!opened.fd.valid() && errno == ENOENT && path.starts_with("/dev/dax"))
    return errno_failure("open", path, "there is no such DAX device: see daxctl list");
  if (!opened.fd.valid() && errno == ENOENT) {
    opened.fd = UniqueFd{::open(path.c_str(), O_RDWR | O_CLOEXEC | O_CREAT | O_EXCL, 0600)};
    opened.created = opened.fd.valid();
  }
  if (!opened.fd.valid()) return errno_failure("open", path, "it must be readable and writable");
  // The lock belongs to the open file, so it lasts as long as anyone, the keeper included, holds the descriptor.
  if (::flock(opened.fd.get(), LOCK_EX | LOCK_NB) != 0) return errno_failure("lock", path, "another store uses it");
  return opened;
}

// The size that a regular file offers, after making it if it has none.
Result<Bytes> prepare_file(const OpenedFile& opened, const std::string& path, MediumSize wanted) {
  if (opened.created && ::unlink(path.c_str()) != 0) return errno_failure("unlink", path);
  struct stat status {};
  if (::fstat(opened.fd.get(), &status) != 0) return errno_failure("inspect", path);
  if (!S_ISREG(status.st_mode))
    return failure(std::errc::not_supported, "use", path, "it must be a DAX device or a file");
  if (status.st_blocks != 0)
    return failure(std::errc::file_exists, "use", path, "it holds data: name another path, or remove it");
  const Bytes unit = block_size(opened.fd.get());
  if (status.st_size != 0) return round_down(Bytes{static_cast<std::uint64_t>(status.st_size)}, unit);
  const Bytes least = is_hugetlb(opened.fd.get()) ? wanted.needed : wanted.most;
  const Bytes size = round_down(least + Bytes{unit.value - 1}, unit);
  if (::ftruncate(opened.fd.get(), static_cast<off_t>(size.value)) != 0) return errno_failure("size", path);
  return size;
}

Result<MediumKind> kind_of(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return errno_failure("inspect", "page store data");
  if (S_ISCHR(status.st_mode)) return MediumKind::kDax;
  if (!S_ISREG(status.st_mode))
    return failure(std::errc::not_supported, "use", "page store data", "it is neither a DAX device nor a file");
  if (is_hugetlb(fd)) return MediumKind::kHugetlb;
  // Only memfds and other shmem files answer; only those that were sealed by us cannot shrink.
  const int seals = ::fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 ? MediumKind::kMemfd : MediumKind::kFile;
}

}  // namespace

Result<Mapping> map_for_store(int fd, Bytes length) {
  // Under mlockall(MCL_FUTURE) a mapping that can be accessed is populated by mmap itself, all of it; one that cannot
  // is left alone, and mprotect populates private mappings only (mm/gup.c populate_vma_page_range, mm/mprotect.c
  // mprotect_fixup).
  auto mapping = Mapping::of_file(fd, length, Bytes{}, PROT_NONE, MAP_SHARED);
  if (!mapping) return mapping;
  if (::mprotect(mapping->data(), mapping->size(), PROT_READ | PROT_WRITE) != 0)
    return errno_failure("map", "page store", "writable");
  ::madvise(mapping->data(), mapping->size(), MADV_DONTDUMP);
  // A huge page could be given back only whole. Refused where huge pages are all there is, or none are known: then
  // there is nothing to forbid.
  ::madvise(mapping->data(), mapping->size(), MADV_NOHUGEPAGE);
  return mapping;
}

void for_each_extent(int fd, Bytes length, const std::function<void(Bytes first, Bytes end)>& visit) {
  std::uint64_t at = 0;
  while (at < length.value) {
    const off_t first = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (first < 0 && errno == ENXIO) return;  // nothing but holes from here on
    const off_t end = first < 0 ? -1 : ::lseek(fd, first, SEEK_HOLE);
    if (end < 0) return visit(Bytes{at}, length);
    visit(Bytes{static_cast<std::uint64_t>(first)}, std::min(Bytes{static_cast<std::uint64_t>(end)}, length));
    at = static_cast<std::uint64_t>(end);
  }
}

Result<Bytes> medium_size(const std::string& path, const kernel::KernelRoots& roots) {
  const Bytes host{static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * kPageSize};
  if (path.empty()) return host;
  const UniqueFd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!fd.valid() && errno == ENOENT && !path.starts_with("/dev/")) return host;
  if (!fd.valid()) return errno_failure("open", path);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return errno_failure("inspect", path);
  if (!S_ISCHR(status.st_mode)) return status.st_size > 0 ? Bytes{static_cast<std::uint64_t>(status.st_size)} : host;
  const auto device = kernel::inspect_dax_device(roots, fd.get());
  if (!device) return Failure{device.error()};
  return round_down(device->size, device->align);
}

Result<> Medium::map(Bytes size) {
  auto mapping = map_for_store(fd_.get(), size);
  if (!mapping) {
    Error error = mapping.error();
    if (kind_ == MediumKind::kHugetlb) error.remedy = "there are not enough free huge pages: raise vm.nr_hugepages";
    return Failure{std::move(error)};
  }
  mapping_ = std::move(*mapping);
  return {};
}

Result<Medium> Medium::create(const std::string& path, MediumSize wanted, const kernel::KernelRoots& roots) {
  Medium medium;
  Bytes size = wanted.most;
  if (path.empty()) {
    auto fd = create_memfd(size);
    if (!fd) return Failure{fd.error()};
    medium.fd_ = std::move(*fd);
  } else {
    auto opened = open_path(path);
    if (!opened) return Failure{opened.error()};
    struct stat status {};
    if (::fstat(opened->fd.get(), &status) != 0) return errno_failure("inspect", path);
    if (S_ISCHR(status.st_mode)) {
      const auto device = kernel::inspect_dax_device(roots, opened->fd.get());
      if (!device) return Failure{device.error()};
      size = round_down(device->size, device->align);
    } else {
      const auto offered = prepare_file(*opened, path, wanted);
      if (!offered) return Failure{offered.error()};
      size = *offered;
    }
    medium.fd_ = std::move(opened->fd);
  }
  const auto kind = kind_of(medium.fd_.get());
  if (!kind) return Failure{kind.error()};
  medium.kind_ = *kind;
  if (auto mapped = medium.map(size); !mapped) return Failure{mapped.error()};
  return medium;
}

Result<Medium> Medium::adopt(UniqueFd fd, Bytes size, const kernel::KernelRoots& roots) {
  Medium medium;
  medium.fd_ = std::move(fd);
  const auto kind = kind_of(medium.fd_.get());
  if (!kind) return Failure{kind.error()};
  medium.kind_ = *kind;
  Bytes offered;
  if (*kind == MediumKind::kDax) {
    const auto device = kernel::inspect_dax_device(roots, medium.fd_.get());
    if (!device) return Failure{device.error()};
    offered = device->size;
  } else {
    struct stat status {};
    if (::fstat(medium.fd_.get(), &status) != 0) return errno_failure("inspect", "page store data");
    offered = Bytes{static_cast<std::uint64_t>(status.st_size)};
  }
  if (offered < size)
    return failure(std::errc::invalid_argument, "open", "page store data", "it is smaller than its table says");
  if (auto mapped = medium.map(size); !mapped) return Failure{mapped.error()};
  return medium;
}

Result<> Medium::populate(Bytes offset, Bytes length) const {
  if (!can_punch()) return {};
  if (::madvise(data() + offset.value, length.value, MADV_POPULATE_WRITE) == 0) return {};
  if (errno != EINVAL) return errno_failure("populate", "page store data");
  // Before Linux 5.14.
  if (::fallocate(fd_.get(), 0, static_cast<off_t>(offset.value), static_cast<off_t>(length.value)) == 0) return {};
  return errno_failure("populate", "page store data");
}

Result<> Medium::punch(Bytes offset, Bytes length) const {
  if (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset.value),
                  static_cast<off_t>(length.value)) == 0)
    return {};
  return errno_failure("punch", "page store data");
}

Bytes Medium::populated() const {
  struct stat status {};
  if (kind_ == MediumKind::kDax || ::fstat(fd_.get(), &status) != 0) return size();
  return Bytes{static_cast<std::uint64_t>(status.st_blocks) * 512};
}

}  // namespace tidepool::pool
