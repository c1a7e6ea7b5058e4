// What this kernel and this process's permissions offer. Probed once at start-up and passed by value.
//
// Probing is harmless: it opens, asks and closes; nothing of the machine's settings is changed. DAMON is only ever
// read: a kdamond belongs to whoever configured it. Works without root; what is missing then is part of the answer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "kmod-interfaces/kernel_roots.h"
#include "kmod-interfaces/kernel_tier.h"
#include "kmod-interfaces/memcg.h"

namespace tidepool::kernel {

// Of one attempt: 0 = works, else the errno of the refusal.
struct Attempt {
  int error = -1;  // -1: not tried
  bool works() const { return error == 0; }
};

struct UserfaultfdFeatures {
  Attempt syscall;             // for faults of the kernel too, which KVM needs
  Attempt syscall_user_mode;   // UFFD_USER_MODE_ONLY
  Attempt device;              // /dev/userfaultfd (Linux 6.1)
  std::uint64_t features = 0;  // UFFD_FEATURE_*
  std::uint64_t ioctls = 0;
  bool usable() const { return syscall.works() || device.works(); }
  bool has(std::uint64_t feature) const { return (features & feature) == feature; }
  // Names of the features, those newer than this program as "bit17".
  std::vector<std::string> names() const;
};

struct SyscallFeatures {
  Attempt pidfd_open;
  Attempt pidfd_getfd;
  Attempt process_madvise;
  Attempt pagemap_scan;
  Attempt io_uring;
  Attempt io_uring_polled;  // IORING_SETUP_SQPOLL
  bool io_uring_madvise = false;
  bool io_uring_restrictions = false;  // IORING_SETUP_R_DISABLED
  Attempt
      perf_page_faults;  // software event with addresses, for another process's faults the same permission is needed
  bool soft_dirty = false;
};

struct DamonFeatures {
  bool present = false;                   // the sysfs interface
  std::optional<std::uint64_t> kdamonds;  // configured by somebody
  bool running = false;
  std::optional<bool> virtual_addresses;  // known only where a context exists
};

struct HardwareSampling {
  bool intel_pebs = false;
  bool amd_ibs = false;
};

struct MemoryTiers {
  std::vector<unsigned> nodes;               // online
  std::vector<unsigned> nodes_without_cpus;  // with memory: CXL, or another far tier
  std::vector<std::string> dax_devices;
  std::vector<std::string> cxl_memories;
  bool demotion_enabled = false;
};

struct SwapArea {
  std::string device;
  Bytes size;
  Bytes used;
  std::int64_t priority = 0;  // the kernel fills the highest first
  bool is_zram = false;
};

struct ThpSettings {
  std::string anonymous;  // always | madvise | never; empty: the kernel has none
  std::string shmem;      // always | within_size | advise | never | deny | force
};

struct CgroupFeatures {
  CgroupVersion memory = CgroupVersion::none;  // which version accounts memory
  bool v2_mounted = false;
  std::vector<std::string> v2_controllers;
};

struct OwnLimits {
  std::uint64_t capabilities = 0;  // effective
  std::uint32_t effective_uid = 0;
  std::optional<Bytes> memlock;  // nullopt: unlimited
  std::optional<std::uint64_t> open_files;
  bool has(unsigned capability) const { return capability < 64 && ((capabilities >> capability) & 1) != 0; }
};

struct KernelFeatures {
  std::string release;
  unsigned major = 0;
  unsigned minor = 0;
  UserfaultfdFeatures userfaultfd;
  SyscallFeatures syscalls;
  bool idle_page_bitmap = false;
  DamonFeatures damon;
  HardwareSampling sampling;
  std::optional<std::int64_t> perf_paranoid;
  std::vector<SwapArea> swap;
  std::optional<bool> zswap;  // enabled; nullopt: not built in
  KernelTier kernel_tier;     // where the kernel would put pages now
  bool zram = false;          // there is at least one device
  ThpSettings huge_pages;
  MemoryTiers tiers;
  CgroupFeatures cgroups;
  bool pressure = false;      // PSI
  std::optional<bool> mglru;  // enabled; nullopt: not built in
  std::vector<std::string> security_modules;
  OwnLimits own;
  std::uint64_t max_map_count = 0;
  std::optional<std::uint64_t> unprivileged_userfaultfd;
  std::optional<std::uint64_t> io_uring_disabled;
  std::optional<std::uint64_t> ptrace_scope;
  bool kvm = false;

  bool at_least(unsigned want_major, unsigned want_minor) const {
    return major != want_major ? major > want_major : minor >= want_minor;
  }
};

// Files only: everything but userfaultfd and syscalls.
KernelFeatures read_kernel_settings(const KernelRoots& roots);
// Files and system calls. `roots` other than the machine's own make sense for the files alone.
KernelFeatures probe_kernel_features(const KernelRoots& roots);

// Swap areas in use now. /proc/swaps
std::vector<SwapArea> read_swap(const KernelRoots& roots);

}  // namespace tidepool::kernel
