#include "kmod-interfaces/process_holders.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

bool contains(std::span<const InodeId> objects, const InodeId& file) {
  return std::ranges::find(objects, file) != objects.end();
}

void sort_unique(std::vector<InodeId>& files) {
  std::ranges::sort(files);
  files.erase(std::unique(files.begin(), files.end()), files.end());
}

// The file behind a descriptor. Asked only where the inode number already fits: stat(2) of a file on a dead network
// mount would hang.
std::optional<InodeId> file_of(const Process& process, const DescriptorInfo& descriptor) {
  struct stat info {};
  const std::string link = "fd/" + std::to_string(descriptor.number);
  if (::fstatat(process.directory(), link.c_str(), &info, 0) != 0) return std::nullopt;
  return InodeId{{major(info.st_dev), minor(info.st_dev)}, info.st_ino};
}

bool may_be_one_of(std::span<const InodeId> objects, const DescriptorInfo& descriptor) {
  if (descriptor.kind != DescriptorKind::memfd && descriptor.kind != DescriptorKind::file) return false;
  // Before Linux 5.14 fdinfo has no inode: then only what looks like memory is asked.
  if (descriptor.inode == 0) return descriptor.kind == DescriptorKind::memfd || descriptor.target.starts_with("/dev/");
  return std::ranges::any_of(objects, [&](const InodeId& object) { return object.inode == descriptor.inode; });
}

}  // namespace

Result<HolderScan> find_memory_holders(const KernelRoots& roots, std::span<const InodeId> objects) {
  auto pids = list_numbers_at(AT_FDCWD, roots.proc, roots.proc, kMaxProcesses);
  if (!pids) return tl::unexpected(pids.error());
  HolderScan scan;
  if (objects.empty()) return scan;
  for (const std::uint64_t number : *pids) {
    if (number > INT32_MAX) continue;
    const auto pid = static_cast<pid_t>(number);
    const auto process = Process::open(roots, pid);
    if (!process) continue;  // ended meanwhile
    const auto stat = process->stat();
    if (!stat || stat->is_kernel_thread()) continue;
    if (stat->is_zombie()) {
      // When only the first thread has ended, its files look empty while the others live on.
      if (stat->threads > 1) scan.unreadable.push_back(pid);
      continue;
    }
    MemoryHolder holder{process->id(), stat->comm, stat->parent, 0, {}, {}};
    const auto maps = process->for_each_map([&](const MemoryMap& map) {
      if (map.file.inode != 0 && contains(objects, map.file)) holder.mapped.push_back(map.file);
      return true;
    });
    const auto descriptors = process->descriptors(RingDetail::skip);
    if (!maps || !descriptors) {
      // A process that ends in the middle has nothing left to show.
      const auto now = process->stat();
      if (now && !now->is_zombie()) scan.unreadable.push_back(pid);
      if (holder.mapped.empty()) continue;
    }
    if (descriptors) {
      for (const DescriptorInfo& descriptor : *descriptors) {
        if (!may_be_one_of(objects, descriptor)) continue;
        const auto file = file_of(*process, descriptor);
        if (file && contains(objects, *file)) holder.opened.push_back(*file);
      }
    }
    if (holder.mapped.empty() && holder.opened.empty()) continue;
    if (const auto status = process->status()) holder.uid = status->uid;
    sort_unique(holder.mapped);
    sort_unique(holder.opened);
    scan.holders.push_back(std::move(holder));
  }
  return scan;
}

}  // namespace tidepool::kernel
