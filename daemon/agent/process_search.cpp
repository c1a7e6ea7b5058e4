#include "daemon/agent/process_search.h"

#include <fcntl.h>

#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "daemon/vm/vm_name.h"
#include "kmod-interfaces/proc_text.h"
#include "kmod-interfaces/process.h"

namespace tidepool::daemon {
namespace {

bool is_below(const std::string& path, const std::string& group) {
  return path == group || (path.starts_with(group) && path[group.size()] == '/');
}

// In the hierarchy of version 2, or in any of version 1.
bool is_mounted_group(const kernel::KernelRoots& roots, const std::string& path) {
  if (kernel::exists(roots.cgroup + path + "/cgroup.procs")) return true;
  std::error_code error;
  for (std::filesystem::directory_iterator it(roots.cgroup, error), end; !error && it != end; it.increment(error)) {
    if (kernel::exists(it->path().string() + path + "/cgroup.procs")) return true;
  }
  return false;
}

}  // namespace

Result<std::string> cgroup_path(const kernel::KernelRoots& roots, std::string path) {
  if (is_below(path, roots.cgroup)) {
    path.erase(0, roots.cgroup.size());
    // Version 2 is mounted there itself; the hierarchies of version 1 are mounted one level below.
    if (!kernel::exists(roots.cgroup + "/cgroup.procs")) path.erase(0, path.find('/', 1));
  }
  while (path.ends_with('/')) path.pop_back();
  if (path.empty()) {
    return failure(std::errc::invalid_argument, "search control group", "/",
                   "name a group: all processes are in this one");
  }
  if (!path.starts_with('/')) path.insert(0, "/");
  for (const char* dots : {"/../", "/./"}) {
    if ((path + '/').find(dots) != std::string::npos)
      return failure(std::errc::invalid_argument, "search control group", path, "give its path without '.' and '..'");
  }
  return path;
}

namespace {

Result<pid_t> find_domain(const kernel::KernelRoots& roots, const std::string& domain) {
  const auto pids = all_processes(roots);
  if (!pids) return Failure{pids.error()};
  const std::string uuid = is_uuid(domain) ? lower_case(domain) : std::string();
  std::vector<pid_t> matches;
  for (const pid_t pid : *pids) {
    auto process = kernel::Process::open(roots, pid);
    if (!process) continue;
    const auto exe = process->executable();
    if (!exe || !is_hypervisor(*exe)) continue;
    const auto arguments = process->command_line();
    const auto stat = process->stat();
    if (!arguments || !stat) continue;
    const bool named = vm_name(*exe, *arguments, stat->comm, pid) == domain;
    if (named || (!uuid.empty() && vm_uuid(*exe, *arguments) == uuid)) matches.push_back(pid);
  }
  if (matches.size() == 1) return matches.front();
  if (matches.empty())
    return failure(std::errc::no_such_process, "find domain", domain, "name a running VM, or use --pid");
  return failure(std::errc::invalid_argument, "find domain", domain, "several processes carry that name: use --pid");
}

}  // namespace

Result<std::vector<pid_t>> all_processes(const kernel::KernelRoots& roots) {
  auto folder = kernel::open_at(AT_FDCWD, roots.proc, O_RDONLY | O_DIRECTORY, roots.proc);
  if (!folder) return Failure{folder.error()};
  const auto numbers = kernel::list_numbers_at(folder->get(), ".", roots.proc, kMaxProcessesSearched);
  if (!numbers) return Failure{numbers.error()};
  std::vector<pid_t> pids;
  pids.reserve(numbers->size());
  for (const std::uint64_t number : *numbers) pids.push_back(static_cast<pid_t>(number));
  return pids;
}

Result<std::vector<pid_t>> processes_of_cgroup(const kernel::KernelRoots& roots, const std::string& path) {
  const auto group = cgroup_path(roots, path);
  if (!group) return Failure{group.error()};
  const auto pids = all_processes(roots);
  if (!pids) return Failure{pids.error()};
  std::vector<pid_t> members;
  for (const pid_t pid : *pids) {
    const auto process = kernel::Process::open(roots, pid);
    if (!process) continue;
    const auto memberships = process->cgroups();
    if (!memberships) continue;
    const auto is_member = [&](const kernel::CgroupMembership& membership) {
      return is_below(membership.path, *group);
    };
    if (std::ranges::any_of(*memberships, is_member)) members.push_back(pid);
  }
  if (members.empty() && !is_mounted_group(roots, *group))
    return failure(std::errc::invalid_argument, "search control group", path,
                   "there is none of that name: give the group's path as in /proc/PID/cgroup");
  return members;
}

Result<pid_t> find_process(const kernel::KernelRoots& roots, const AdoptRequest& request) {
  if (request.pid > 0) return request.pid;
  if (request.cgroup.empty()) return find_domain(roots, request.domain);
  const auto members = processes_of_cgroup(roots, request.cgroup);
  if (!members) return Failure{members.error()};
  pid_t largest = 0;
  Bytes most;
  for (const pid_t pid : *members) {
    const auto process = kernel::Process::open(roots, pid);
    const auto status = process ? process->status() : Result<kernel::ProcessStatus>(Failure{process.error()});
    if (!status || !status->has_memory || status->resident <= most) continue;
    largest = pid;
    most = status->resident;
  }
  if (largest != 0) return largest;
  return failure(std::errc::no_such_process, "find a process in control group", request.cgroup,
                 "no process with memory of its own is in it");
}

}  // namespace tidepool::daemon
