// A process as /proc shows it. Kernel source of all of it: Documentation/filesystems/proc.rst.
//
// A Process holds the directory /proc/PID open: when the process dies and its pid is given to another, reads fail with
// ESRCH rather than describe a stranger. Everything is a snapshot: between two reads the process may do anything.
// Nothing stops or disturbs it, except that reading smaps holds its mmap lock for a while (14-17 ms per GiB).
// Thread-safe: no state but the descriptor.
#pragma once

#include <sys/types.h>

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::kernel {

inline constexpr std::size_t kMaxMappings = 4u << 20;
inline constexpr std::size_t kMaxThreads = 64u << 10;
inline constexpr std::size_t kMaxDescriptors = 1u << 20;
inline constexpr std::size_t kMaxArguments = 4096;

// Identity: a pid alone is recycled. Start time in clock ticks since boot.
struct ProcessId {
  pid_t pid = 0;
  std::uint64_t start_ticks = 0;
  auto operator<=>(const ProcessId&) const = default;
};

struct DeviceNumber {
  std::uint32_t major = 0;
  std::uint32_t minor = 0;
  auto operator<=>(const DeviceNumber&) const = default;
};

// A file, whatever its names are.
struct InodeId {
  DeviceNumber device;
  std::uint64_t inode = 0;
  auto operator<=>(const InodeId&) const = default;
};

// /proc/PID/stat and /proc/PID/task/TID/stat.
struct ProcessStat {
  pid_t pid = 0;
  std::string comm;  // as the process chose it, up to 15 bytes (kernel threads: 63)
  char state = '?';  // R S D T t Z X I
  pid_t parent = 0;
  std::uint32_t flags = 0;  // PF_*
  std::uint64_t threads = 0;
  std::uint64_t major_faults = 0;  // of all its threads, those that ended included: waits for a page to be read
  std::uint64_t start_ticks = 0;

  bool is_zombie() const { return state == 'Z' || state == 'X'; }
  bool is_kernel_thread() const { return (flags & 0x00200000u) != 0; }  // PF_KTHREAD
  // io_uring and vhost workers: threads of the process that never run its code. PF_USER_WORKER (6.4), PF_IO_WORKER
  // (5.9).
  bool is_user_worker() const { return (flags & (0x00004000u | 0x00000010u)) != 0; }
};

struct ThreadInfo {
  pid_t tid = 0;
  std::string comm;
  char state = '?';
  std::uint32_t flags = 0;
  bool user_worker = false;
  // Where its stack is; nullopt while it runs or when we may not look. /proc/PID/task/TID/syscall.
  std::optional<std::uint64_t> stack_pointer;
};

enum class SeccompMode : std::uint8_t { none = 0, strict = 1, filter = 2 };

struct ProcessStatus {
  uid_t uid = 0;            // real
  uid_t effective_uid = 0;  // the one that decides what the process may do
  gid_t gid = 0;
  gid_t effective_gid = 0;
  std::uint64_t effective_capabilities = 0;  // CapEff, one bit per CAP_*
  pid_t tracer = 0;
  std::uint64_t threads = 0;
  std::vector<gid_t> groups;  // supplementary
  bool no_new_privileges = false;
  SeccompMode seccomp = SeccompMode::none;
  Bytes locked;    // VmLck: mlock
  Bytes pinned;    // VmPin: pages that a device or ring may write to at any time
  Bytes resident;  // VmRSS: the next three together
  Bytes resident_anonymous;
  Bytes resident_file;  // shared libraries count in every process that maps them
  Bytes resident_shmem;
  Bytes page_tables;        // VmPTE: what the kernel needs to map all of it
  Bytes swapped;            // VmSwap
  bool has_memory = false;  // false for kernel threads and zombies, which have no address space

  bool has_capability(unsigned number) const { return number < 64 && ((effective_capabilities >> number) & 1) != 0; }
};

// One line of /proc/PID/maps. The kernel writes a newline in a path as "\012" and leaves every other byte as it is.
struct MemoryMap {
  AddressRange range;
  bool readable = false;
  bool writable = false;
  bool executable = false;
  bool shared = false;
  std::uint64_t offset = 0;  // bytes into the file
  InodeId file;              // inode 0: no file behind it
  std::string path;          // "[heap]", "/memfd:name (deleted)", "" for anonymous memory

  bool is_stack() const { return path == "[stack]" || path.starts_with("[stack:"); }
  bool is_deleted() const { return path.ends_with(" (deleted)"); }
};

// True when the range begins where a mapping begins and ends where one ends.
bool are_whole_mappings(std::span<const MemoryMap> maps, AddressRange range);

// One mapping of /proc/PID/smaps.
struct MappingUsage {
  MemoryMap map;
  Bytes kernel_page_size{kPageSize};
  Bytes resident;
  Bytes proportional;  // Pss
  Bytes referenced;
  Bytes anonymous;
  Bytes anonymous_huge;  // AnonHugePages
  Bytes shmem_huge;      // ShmemPmdMapped
  Bytes swapped;
  Bytes locked;
  std::string vm_flags;  // "rd wr mr mw me ac ", two letters each

  // `flag` as in proc.rst: "lo" locked, "io" device memory, "ht" hugetlb, "um" userfaultfd missing, "uw" wp, "ui"
  // minor, ...
  bool has_flag(std::string_view flag) const;
};

enum class DescriptorKind : std::uint8_t {
  other,
  file,
  memfd,
  userfaultfd,
  io_uring,
  vfio,        // /dev/vfio/*, vfio devices
  iommufd,     // /dev/iommu
  vhost_vdpa,  // /dev/vhost-vdpa-*: pins guest memory as VFIO does
  kvm_vm,
  kvm_vcpu,
};

struct DescriptorInfo {
  int number = -1;
  std::string target;  // what /proc/PID/fd/N points to
  DescriptorKind kind = DescriptorKind::other;
  std::uint32_t flags = 0;     // open flags (O_DIRECT, ...), 0 when fdinfo could not be read
  std::uint64_t inode = 0;     // 0 before Linux 5.14
  std::uint64_t mount_id = 0;  // see Mount::id; 0 when fdinfo could not be read
  // io_uring: fixed buffers registered. nullopt: the ring was busy and the kernel did not say, which is no proof of
  // none.
  std::optional<std::uint64_t> fixed_buffers;

  bool is_direct() const;  // O_DIRECT
};

enum class RingDetail : std::uint8_t { ask, skip };

enum class ElfClass : std::uint8_t { unknown, bits32, bits64 };

// One line of /proc/PID/mountinfo.
struct Mount {
  std::uint64_t id = 0;
  DeviceNumber device;
  std::string mount_point;
  std::string type;    // "ext4", "tmpfs"
  std::string source;  // "/dev/vda"
};

// One line of /proc/PID/cgroup.
struct CgroupMembership {
  unsigned hierarchy = 0;   // 0: cgroup2
  std::string controllers;  // "memory", "cpu,cpuacct"; empty for cgroup2
  std::string path;         // below the hierarchy's mount point
};

class Process {
 public:
  // ENOENT and ESRCH become ESRCH: no such process.
  static Result<Process> open(const KernelRoots& roots, pid_t pid);

  ProcessId id() const { return id_; }
  // Fails with ESRCH when the process is gone (or is being reaped).
  Result<> check_alive() const;

  Result<ProcessStat> stat() const;
  Result<ProcessStatus> status() const;
  // Path of the executable as the process sees it, with " (deleted)" when it was replaced. EACCES without permission,
  // ENOENT for a kernel thread.
  Result<std::string> executable() const;
  Result<ElfClass> elf_class() const;
  Result<std::vector<std::string>> command_line() const;
  // Threads that end meanwhile are left out.
  Result<std::vector<ThreadInfo>> threads() const;
  Result<std::vector<MemoryMap>> maps() const;
  // Calls `visit` until it returns false; for looking for something without keeping everything.
  Result<> for_each_map(const std::function<bool(const MemoryMap&)>& visit) const;
  Result<std::vector<MappingUsage>> smaps() const;
  // The sum over all mappings; only the byte figures are set.
  Result<MappingUsage> smaps_rollup() const;
  // Descriptors that are closed meanwhile are left out. A ring that is busy is asked again for some milliseconds,
  // unless `rings` says skip: then fixed_buffers stays unset.
  Result<std::vector<DescriptorInfo>> descriptors(RingDetail rings = RingDetail::ask) const;
  Result<std::vector<Mount>> mounts() const;
  Result<std::vector<CgroupMembership>> cgroups() const;

  // The held directory /proc/PID, for *at() calls; owned by this.
  int directory() const { return directory_.get(); }

 private:
  Process(UniqueFd directory, std::string path) : directory_(std::move(directory)), path_(std::move(path)) {}
  std::string name_of(std::string_view file) const;
  Result<std::string> read(const std::string& file) const;
  DescriptorInfo describe(int number, const std::string& target, RingDetail rings) const;

  UniqueFd directory_;
  std::string path_;
  ProcessId id_;
};

// The parsers, total over any text. Lines that make no sense are skipped (or nullopt); values that do not fit are zero.
std::optional<ProcessStat> parse_process_stat(std::string_view text);
ProcessStatus parse_process_status(std::string_view text);
std::optional<MemoryMap> parse_map_line(std::string_view line);
std::vector<MemoryMap> parse_maps(std::string_view text);
std::vector<MappingUsage> parse_smaps(std::string_view text);
DescriptorInfo parse_descriptor(int number, std::string_view target, std::string_view fdinfo);
std::vector<std::string> parse_command_line(std::string_view text);
std::vector<Mount> parse_mounts(std::string_view text);
std::vector<CgroupMembership> parse_cgroups(std::string_view text);
ElfClass parse_elf_class(std::string_view first_bytes);
// The stack pointer in /proc/PID/task/TID/syscall.
std::optional<std::uint64_t> parse_stack_pointer(std::string_view text);

// Adds the lines of smaps one by one: a mapping is complete when the next begins.
class SmapsReader {
 public:
  void add_line(std::string_view line);
  std::vector<MappingUsage> take();

 private:
  std::vector<MappingUsage> mappings_;
};

}  // namespace tidepool::kernel
