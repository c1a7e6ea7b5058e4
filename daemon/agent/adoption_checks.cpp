#include "daemon/agent/adoption_checks.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdio>
#include <span>

#include "kmod-interfaces/pidfd.h"
#include "kmod-interfaces/process.h"

namespace tidepool::daemon {
namespace {

kernel::InodeId inode_of(int fd) {
  struct stat about {};
  if (::fstat(fd, &about) != 0) return {};
  return {{::major(about.st_dev), ::minor(about.st_dev)}, about.st_ino};
}

bool shows(const kernel::MemoryMap& map, const Segment& segment, const kernel::InodeId& file) {
  if (!segment.object->shared) return !map.shared && map.file.inode == 0;
  // Offsets agree when both begin the same distance before the file's start.
  return map.shared && map.file == file &&
         map.offset - map.range.start == segment.file_offset - segment.addresses.start;
}

// Mappings may have been split: the parts must follow one another without a gap. `maps` is in the order of addresses.
bool is_shown(std::span<const kernel::MemoryMap> maps, const Segment& segment, const kernel::InodeId& file) {
  std::uint64_t reached = segment.addresses.start;
  for (const kernel::MemoryMap& map : maps) {
    if (map.range.end <= reached) continue;
    if (map.range.start > reached || !shows(map, segment, file)) return false;
    reached = map.range.end;
    if (reached >= segment.addresses.end) return true;
  }
  return false;
}

}  // namespace

Failure memory_changed(pid_t pid, AddressRange range) {
  char text[96];
  std::snprintf(text, sizeof text, "process %d: its memory at 0x%llx-0x%llx", pid,
                static_cast<unsigned long long>(range.start), static_cast<unsigned long long>(range.end));
  return failure(std::errc::device_or_resource_busy, "adopt", text, "it changed meanwhile: try again");
}

Result<> check_processes_alive(const PagedVm& vm) {
  for (const auto& space : vm.spaces()) {
    if (space->pidfd.valid() && !kernel::pidfd_alive(space->pidfd.get()))
      return failure(std::errc::no_such_process, "adopt",
                     "process " + std::to_string(space->pid) + ": it ended meanwhile");
  }
  return {};
}

Result<> check_mappings_unchanged(const kernel::KernelRoots& roots, const PagedVm& vm) {
  for (const auto& space : vm.spaces()) {
    if (space->pid <= 0) continue;  // a child forked meanwhile shows what its parent shows
    const auto process = kernel::Process::open(roots, space->pid);
    if (!process) return Failure{process.error()};
    const auto maps = process->maps();
    if (!maps) return Failure{maps.error()};
    const auto table = space->segments();
    for (const Segment& segment : table->all()) {
      const kernel::InodeId file = segment.object->shared ? inode_of(segment.object->file.get()) : kernel::InodeId{};
      if (!is_shown(*maps, segment, file)) return memory_changed(space->pid, segment.addresses);
    }
  }
  return check_processes_alive(vm);
}

}  // namespace tidepool::daemon
