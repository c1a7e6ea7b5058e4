#include "daemon/agent/memory_plan.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>
#include <thread>

namespace tidepool::daemon {
namespace {

// A descriptor of a shared mapping's file, by the mapping itself: it needs no name and crosses mount namespaces.
Result<UniqueFd> open_backing(const kernel::KernelRoots& roots, pid_t pid, AddressRange part) {
  const auto process = kernel::Process::open(roots, pid);
  if (!process) return Failure{process.error()};
  AddressRange whole = part;
  const auto look = [&](const kernel::MemoryMap& map) {
    if (map.range.contains(part)) whole = map.range;
    return whole == part && map.range.start <= part.start;
  };
  if (auto searched = process->for_each_map(look); !searched) return Failure{searched.error()};
  std::array<char, 96> path{};
  std::snprintf(path.data(), path.size(), "%s/%d/map_files/%lx-%lx", roots.proc.c_str(), pid, whole.start, whole.end);
  UniqueFd fd{::open(path.data(), O_RDWR | O_CLOEXEC)};
  if (!fd.valid()) {
    return errno_failure("open", path.data(),
                         "the mapping may have changed meanwhile: try again; CAP_SYS_ADMIN is needed");
  }
  return fd;
}

// Of the files that were handed over, the one behind `object`.
UniqueFd take_handed(std::vector<UniqueFd>& handed, const kernel::InodeId& object) {
  for (UniqueFd& file : handed) {
    struct stat info {};
    if (!file.valid() || ::fstat(file.get(), &info) != 0) continue;
    const kernel::InodeId id{{major(info.st_dev), minor(info.st_dev)}, info.st_ino};
    if (id == object) return std::move(file);
  }
  return {};
}

bool is_writable(const UniqueFd& file) {
  return file.valid() && (::fcntl(file.get(), F_GETFL) & O_ACCMODE) == O_RDWR;
}

}  // namespace

Result<MemoryPlan> plan_memory(const kernel::KernelRoots& roots, const ProcessFacts& facts,
                               std::vector<UniqueFd> handed) {
  MemoryPlan plan;
  std::optional<std::size_t> private_object;
  for (const ManagedMapping& mapping : facts.mappings.chosen) {
    if (!is_shared(mapping.kind)) {
      if (!private_object) {
        private_object = plan.objects.size();
        plan.objects.push_back({});
        plan.files.push_back({});
      }
      plan.mappings.push_back({mapping.range, *private_object, 0});
      continue;
    }
    auto known = std::find(plan.files.begin(), plan.files.end(), mapping.object);
    if (known == plan.files.end()) {
      UniqueFd file = take_handed(handed, mapping.object);
      if (!is_writable(file)) {
        auto opened = open_backing(roots, facts.id.pid, mapping.range);
        if (!opened) return Failure{opened.error()};
        file = std::move(*opened);
      }
      plan.objects.push_back({true, std::move(file)});
      plan.files.push_back(mapping.object);
      known = std::prev(plan.files.end());
    }
    plan.mappings.push_back(
        {mapping.range, static_cast<std::size_t>(known - plan.files.begin()), mapping.object_offset});
  }
  if (std::ranges::any_of(handed, &UniqueFd::valid)) {
    return failure(std::errc::bad_file_descriptor, "read", "the hand-off: a file that is behind none of its memory",
                   "send the userfaultfd, and for shared memory the memfd or file behind it");
  }
  // The longest first: smaller views of the same file then lie within what is known.
  std::ranges::stable_sort(plan.mappings, [](const MappingSpec& a, const MappingSpec& b) {
    return a.addresses.size() > b.addresses.size();
  });
  plan.has_private = private_object.has_value();
  return plan;
}

std::vector<MappingSpec> shown_in(const kernel::Process& member, const MemoryPlan& plan) {
  std::vector<MappingSpec> shown;
  const auto maps = member.maps();
  if (!maps) return shown;
  for (const kernel::MemoryMap& map : *maps) {
    const auto known = std::find(plan.files.begin(), plan.files.end(), map.file);
    if (!map.shared || map.file.inode == 0 || known == plan.files.end()) continue;
    shown.push_back({map.range, static_cast<std::size_t>(known - plan.files.begin()), map.offset});
  }
  return shown;
}

std::vector<VmMappingStatus> mapping_status(const std::vector<ManagedMapping>& chosen) {
  std::vector<VmMappingStatus> list;
  for (const ManagedMapping& mapping : chosen) {
    const bool shared = is_shared(mapping.kind);
    list.push_back({mapping.range, shared ? "shared" : "private",
                    mapping.path.empty() ? std::string(name_of(mapping.kind)) : mapping.path, shared ? "punch" : "ring",
                    Bytes{kPageSize}});
  }
  return list;
}

unsigned fault_threads_of(const kernel::KernelRoots& roots, const ProcessFacts& facts) {
  const unsigned cpus = std::max(1u, std::thread::hardware_concurrency());
  auto process = kernel::Process::open(roots, facts.id.pid);
  if (!process) return 1;
  const auto threads = process->threads();
  if (!threads) return 1;
  // QEMU's, Firecracker's and Cloud Hypervisor's names for them.
  const auto is_vcpu = [](const kernel::ThreadInfo& thread) {
    return thread.comm.starts_with("CPU ") || thread.comm.starts_with("fc_vcpu") || thread.comm.starts_with("vcpu");
  };
  const auto vcpus = static_cast<unsigned>(std::ranges::count_if(*threads, is_vcpu));
  if (vcpus != 0) return vcpus;
  return std::clamp(static_cast<unsigned>(threads->size()), 1u, cpus);
}

}  // namespace tidepool::daemon
