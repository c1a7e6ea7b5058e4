// The part of kernel_features.h that needs system calls. Each attempt cleans up after itself.
#include "kmod-interfaces/kernel_features.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/mapping.h"
#include "base/unique_fd.h"
#include "kmod-interfaces/pagemap.h"
#include "kmod-interfaces/process_memory.h"
#include "kmod-interfaces/uapi/userfaultfd.h"

#ifndef UFFD_USER_MODE_ONLY  // 5.11
#define UFFD_USER_MODE_ONLY 1
#endif

namespace tidepool::kernel {
namespace {

struct FeatureName {
  std::uint64_t bit;
  const char* name;
};

// Documentation/admin-guide/mm/userfaultfd.rst; include/uapi/linux/userfaultfd.h of Linux 6.8, and what was announced
// for 7.2.
constexpr std::array kFeatureNames{FeatureName{UFFD_FEATURE_PAGEFAULT_FLAG_WP, "WP"},
                                   FeatureName{UFFD_FEATURE_EVENT_FORK, "EVENT_FORK"},
                                   FeatureName{UFFD_FEATURE_EVENT_REMAP, "EVENT_REMAP"},
                                   FeatureName{UFFD_FEATURE_EVENT_REMOVE, "EVENT_REMOVE"},
                                   FeatureName{UFFD_FEATURE_MISSING_HUGETLBFS, "MISSING_HUGETLBFS"},
                                   FeatureName{UFFD_FEATURE_MISSING_SHMEM, "MISSING_SHMEM"},
                                   FeatureName{UFFD_FEATURE_EVENT_UNMAP, "EVENT_UNMAP"},
                                   FeatureName{UFFD_FEATURE_SIGBUS, "SIGBUS"},
                                   FeatureName{UFFD_FEATURE_THREAD_ID, "THREAD_ID"},
                                   FeatureName{UFFD_FEATURE_MINOR_HUGETLBFS, "MINOR_HUGETLBFS"},
                                   FeatureName{UFFD_FEATURE_MINOR_SHMEM, "MINOR_SHMEM"},
                                   FeatureName{UFFD_FEATURE_EXACT_ADDRESS, "EXACT_ADDRESS"},
                                   FeatureName{UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "WP_HUGETLBFS_SHMEM"},
                                   FeatureName{UFFD_FEATURE_WP_UNPOPULATED, "WP_UNPOPULATED"},
                                   FeatureName{UFFD_FEATURE_POISON, "POISON"},
                                   FeatureName{UFFD_FEATURE_WP_ASYNC, "WP_ASYNC"},
                                   FeatureName{UFFD_FEATURE_MOVE, "MOVE"},
                                   FeatureName{UFFD_FEATURE_RWP, "RWP"},
                                   FeatureName{UFFD_FEATURE_RWP_ASYNC, "RWP_ASYNC"}};

Attempt outcome(bool worked) {
  return Attempt{worked ? 0 : errno};
}

UniqueFd descriptor_of(long result) {
  return UniqueFd{static_cast<int>(result)};
}

UserfaultfdFeatures probe_userfaultfd(const KernelRoots& roots) {
  UserfaultfdFeatures found;
  UniqueFd context = descriptor_of(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  found.syscall = outcome(context.valid());
  UniqueFd confined = descriptor_of(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY));
  found.syscall_user_mode = outcome(confined.valid());
  const UniqueFd device{::open((roots.dev + "/userfaultfd").c_str(), O_RDWR | O_CLOEXEC)};
  found.device = outcome(device.valid());
  if (device.valid()) {
    UniqueFd made{::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)};
    found.device = outcome(made.valid());
    if (!context.valid()) context = std::move(made);
  }
  if (!context.valid()) context = std::move(confined);
  // Asking for nothing is answered with everything there is.
  uffdio_api api{};
  api.api = UFFD_API;
  if (context.valid() && ::ioctl(context.get(), UFFDIO_API, &api) == 0) {
    found.features = api.features;
    found.ioctls = api.ioctls;
  }
  return found;
}

bool ring_knows_madvise(int ring) {
  constexpr std::size_t kOperations = 64;
  alignas(io_uring_probe) std::array<std::byte, sizeof(io_uring_probe) + kOperations * sizeof(io_uring_probe_op)>
      room{};
  auto* probe = reinterpret_cast<io_uring_probe*>(room.data());
  if (::syscall(SYS_io_uring_register, ring, IORING_REGISTER_PROBE, probe, kOperations) != 0) return false;
  if (probe->last_op < IORING_OP_MADVISE) return false;
  return (probe->ops[IORING_OP_MADVISE].flags & IO_URING_OP_SUPPORTED) != 0;
}

void probe_io_uring(SyscallFeatures& found) {
  const auto make_ring = [](unsigned flags) {
    io_uring_params parameters{};
    parameters.flags = flags;
    parameters.sq_thread_idle = 1;
    return descriptor_of(::syscall(SYS_io_uring_setup, 1u, &parameters));
  };
  const UniqueFd ring = make_ring(0);
  found.io_uring = outcome(ring.valid());
  if (!ring.valid()) return;
  found.io_uring_madvise = ring_knows_madvise(ring.get());
  const UniqueFd polled = make_ring(IORING_SETUP_SQPOLL);
  found.io_uring_polled = outcome(polled.valid());
  found.io_uring_restrictions = make_ring(IORING_SETUP_R_DISABLED).valid();
}

Attempt probe_perf_page_faults() {
  perf_event_attr attributes{};
  attributes.size = sizeof attributes;
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.config = PERF_COUNT_SW_PAGE_FAULTS;
  attributes.sample_period = 1;
  attributes.sample_type = PERF_SAMPLE_ADDR | PERF_SAMPLE_TID;
  attributes.disabled = 1;
  // The kernel is not excluded: the faults that it takes for a guest matter most.
  attributes.exclude_hv = 1;
  return outcome(descriptor_of(::syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)).valid());
}

// A page that was just written is soft-dirty wherever the kernel keeps that bit.
// Documentation/admin-guide/mm/soft-dirty.rst.
bool probe_soft_dirty(const std::byte* written_page) {
  const UniqueFd pagemap{::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
  if (!pagemap.valid()) return false;
  std::uint64_t entry = 0;
  const auto page = reinterpret_cast<std::uintptr_t>(written_page) / kPageSize;
  if (::pread(pagemap.get(), &entry, sizeof entry, static_cast<off_t>(page * sizeof entry)) != sizeof entry)
    return false;
  return ((entry >> 55) & 1) != 0;
}

Attempt probe_pagemap_scan(AddressRange range) {
  const auto pagemap = Pagemap::open(::getpid());
  if (!pagemap) return Attempt{pagemap.error().code.value()};
  std::array<uapi::page_region, 1> regions{};
  std::uint64_t scanned_to = 0;
  const auto scanned = pagemap->scan(range, uapi::kPageIsPresent, regions, scanned_to);
  return Attempt{scanned ? 0 : scanned.error().code.value()};
}

SyscallFeatures probe_syscalls() {
  SyscallFeatures found;
  probe_io_uring(found);
  found.perf_page_faults = probe_perf_page_faults();
  const UniqueFd self = descriptor_of(::syscall(SYS_pidfd_open, ::getpid(), 0));
  found.pidfd_open = outcome(self.valid());
  auto page = Mapping::anonymous(Bytes{kPageSize});
  if (!page) return found;
  *page->data() = std::byte{1};
  const auto start = reinterpret_cast<std::uintptr_t>(page->data());
  const AddressRange range{start, start + kPageSize};
  found.soft_dirty = probe_soft_dirty(page->data());
  found.pagemap_scan = probe_pagemap_scan(range);
  if (self.valid()) {
    found.pidfd_getfd = outcome(descriptor_of(::syscall(SYS_pidfd_getfd, self.get(), self.get(), 0)).valid());
    // Saying that a page of our own is cold changes nothing that anybody can see. Locked pages would be refused
    // (EINVAL), and the agent's are locked.
    ::munlock(page->data(), page->size());
    const std::int64_t advised = advise_process_memory(self.get(), std::array{range}, MADV_COLD);
    found.process_madvise.error = advised < 0 ? static_cast<int>(-advised) : 0;
  }
  return found;
}

}  // namespace

std::vector<std::string> UserfaultfdFeatures::names() const {
  std::vector<std::string> names;
  for (unsigned bit = 0; bit < 64; ++bit) {
    const std::uint64_t mask = 1ull << bit;
    if ((features & mask) == 0) continue;
    const char* known = nullptr;
    for (const FeatureName& feature : kFeatureNames) {
      if (feature.bit == mask) known = feature.name;
    }
    names.push_back(known != nullptr ? known : "bit" + std::to_string(bit));
  }
  return names;
}

KernelFeatures probe_kernel_features(const KernelRoots& roots) {
  KernelFeatures features = read_kernel_settings(roots);
  features.userfaultfd = probe_userfaultfd(roots);
  features.syscalls = probe_syscalls();
  return features;
}

}  // namespace tidepool::kernel
