#include "kmod-interfaces/memcg.h"

#include <algorithm>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

// Version 1 writes "no limit" as the largest multiple of the page size that a signed number holds.
constexpr std::uint64_t kNoLimit = 1ull << 62;

bool lists(std::string_view controllers, std::string_view wanted) {
  while (!controllers.empty()) {
    const std::size_t comma = controllers.find(',');
    if (controllers.substr(0, comma) == wanted) return true;
    if (comma == std::string_view::npos) break;
    controllers.remove_prefix(comma + 1);
  }
  return false;
}

// A process outside our cgroup namespace shows as "/../..": following that would leave the tree.
bool is_inside(std::string_view path) {
  return path.starts_with('/') && path.find("/../") == std::string_view::npos && !path.ends_with("/..");
}

Failure not_visible(const std::string& path) {
  return failure(std::errc::no_such_file_or_directory, "find control group", printable(path));
}

std::uint64_t stat_value(std::string_view text, std::string_view key) {
  for (std::string_view line : split_lines(text)) {
    if (next_word(line) == key) return parse_decimal(trim(line)).value_or(0);
  }
  return 0;
}

Result<std::uint64_t> required_number(const std::string& path) {
  const auto text = read_file(path);
  if (!text) return tl::unexpected(text.error());
  const auto number = parse_decimal(trim(*text));
  if (!number) return failure(std::errc::bad_message, "parse", path);
  return *number;
}

}  // namespace

std::optional<std::string> cgroup2_root(const KernelRoots& roots) {
  for (const std::string& root : {roots.cgroup, roots.cgroup + "/unified"}) {
    if (exists(root + "/cgroup.controllers")) return root;
  }
  return std::nullopt;
}

Result<MemoryGroup> memory_group_of(const KernelRoots& roots, const Process& process) {
  const auto memberships = process.cgroups();
  if (!memberships) return tl::unexpected(memberships.error());
  for (const CgroupMembership& membership : *memberships) {
    if (membership.hierarchy == 0 || !lists(membership.controllers, "memory")) continue;
    if (!is_inside(membership.path)) return not_visible(membership.path);
    const std::string directory = roots.cgroup + "/memory" + membership.path;
    if (!exists(directory)) return not_visible(directory);
    return MemoryGroup{CgroupVersion::v1, directory};
  }
  auto directory = cgroup2_directory_of(roots, process);
  if (!directory) return tl::unexpected(directory.error());
  // Without the controller the group has no figures; the root group has none in any case.
  if (!exists(*directory + "/memory.current")) return not_visible(*directory + "/memory.current");
  return MemoryGroup{CgroupVersion::v2, std::move(*directory)};
}

Result<MemoryGroupUsage> read_memory_group(const MemoryGroup& group) {
  const bool v1 = group.version == CgroupVersion::v1;
  MemoryGroupUsage usage;
  const auto current = required_number(group.directory + (v1 ? "/memory.usage_in_bytes" : "/memory.current"));
  if (!current) return tl::unexpected(current.error());
  usage.current = Bytes{*current};
  const auto limit =
      read_number(group.directory + (v1 ? "/memory.limit_in_bytes" : "/memory.max"));  // "max" is no number
  if (limit && *limit < kNoLimit) usage.limit = Bytes{*limit};
  if (const auto stat = read_file(group.directory + "/memory.stat")) {
    usage.anonymous = Bytes{stat_value(*stat, v1 ? "rss" : "anon")};
    usage.shmem = Bytes{stat_value(*stat, "shmem")};
    usage.swapped = Bytes{stat_value(*stat, "swap")};
  }
  if (!v1) usage.swapped = Bytes{read_number(group.directory + "/memory.swap.current").value_or(0)};
  return usage;
}

std::optional<MemoryGroupRoom> memory_group_room(const KernelRoots& roots, const MemoryGroup& group) {
  const bool v1 = group.version == CgroupVersion::v1;
  const std::string root = v1 ? roots.cgroup + "/memory" : cgroup2_root(roots).value_or(roots.cgroup);
  std::optional<MemoryGroupRoom> least;
  for (std::string directory = group.directory; directory.size() >= root.size();
       directory.erase(std::min(directory.rfind('/'), directory.size() - 1))) {
    const auto limit = read_number(directory + (v1 ? "/memory.limit_in_bytes" : "/memory.max"));
    if (!limit || *limit >= kNoLimit) continue;
    const auto current = read_number(directory + (v1 ? "/memory.usage_in_bytes" : "/memory.current"));
    if (!current) continue;
    const std::string stat = read_file(directory + "/memory.stat").value_or(std::string());
    const std::uint64_t files = stat_value(stat, v1 ? "total_active_file" : "active_file") +
                                stat_value(stat, v1 ? "total_inactive_file" : "inactive_file");
    const MemoryGroupRoom room{saturating_sub(Bytes{*limit} + Bytes{files}, Bytes{*current}), Bytes{*limit}};
    if (!least || room.left < least->left) least = room;
  }
  return least;
}

Result<std::string> cgroup2_directory_of(const KernelRoots& roots, const Process& process) {
  const auto root = cgroup2_root(roots);
  if (!root) return not_visible(roots.cgroup + "/cgroup.controllers");
  const auto memberships = process.cgroups();
  if (!memberships) return tl::unexpected(memberships.error());
  const auto unified = std::ranges::find(*memberships, 0u, &CgroupMembership::hierarchy);
  if (unified == memberships->end() || !is_inside(unified->path)) return not_visible(*root);
  std::string directory = *root + unified->path;
  if (!exists(directory)) return not_visible(directory);
  return directory;
}

}  // namespace tidepool::kernel
