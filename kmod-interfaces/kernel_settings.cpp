// The part of kernel_features.h that is read from files.
#include <algorithm>
#include <charconv>

#include "kmod-interfaces/kernel_features.h"
#include "kmod-interfaces/perf_events.h"
#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

constexpr std::size_t kMaxDevices = 4096;

std::vector<std::string> devices_in(const std::string& path, std::string_view prefix) {
  std::vector<std::string> devices;
  if (auto names = list_directory(path, kMaxDevices)) {
    for (std::string& name : *names) {
      if (name.starts_with(prefix)) devices.push_back(std::move(name));
    }
  }
  return devices;
}

std::vector<std::string> words_of(std::string_view text, char separator) {
  std::vector<std::string> words;
  text = trim(text);
  while (!text.empty()) {
    const std::size_t end = text.find(separator);
    if (end != 0) words.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return words;
}

void read_release(const KernelRoots& roots, KernelFeatures& features) {
  features.release = read_value(roots.proc + "/sys/kernel/osrelease").value_or("");
  const std::string& text = features.release;
  const char* end = text.data() + text.size();
  const auto [dot, error] = std::from_chars(text.data(), end, features.major);
  if (error == std::errc{} && dot != end && *dot == '.') std::from_chars(dot + 1, end, features.minor);
}

DamonFeatures read_damon(const KernelRoots& roots) {
  const std::string admin = roots.sys + "/kernel/mm/damon/admin/kdamonds";
  DamonFeatures damon;
  damon.present = exists(admin);
  damon.kdamonds = read_number(admin + "/nr_kdamonds");
  const std::uint64_t count = std::min<std::uint64_t>(damon.kdamonds.value_or(0), 64);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string kdamond = admin + "/" + std::to_string(i);
    damon.running = damon.running || read_value(kdamond + "/state") == "on";
    const auto operations = read_file(kdamond + "/contexts/0/avail_operations");
    if (operations) damon.virtual_addresses = operations->find("vaddr") != std::string::npos;
  }
  return damon;
}

HardwareSampling read_sampling(const KernelRoots& roots) {
  HardwareSampling sampling;
  sampling.intel_pebs = pebs_source(roots).has_value();
  sampling.amd_ibs = ibs_source(roots).has_value();
  return sampling;
}

MemoryTiers read_tiers(const KernelRoots& roots) {
  const std::string nodes = roots.sys + "/devices/system/node/";
  MemoryTiers tiers;
  tiers.nodes = parse_number_list(read_value(nodes + "online").value_or(""));
  const auto with_cpus = parse_number_list(read_value(nodes + "has_cpu").value_or(""));
  for (const unsigned node : parse_number_list(read_value(nodes + "has_memory").value_or(""))) {
    if (std::ranges::find(with_cpus, node) == with_cpus.end()) tiers.nodes_without_cpus.push_back(node);
  }
  tiers.dax_devices = devices_in(roots.sys + "/bus/dax/devices", "dax");
  tiers.cxl_memories = devices_in(roots.sys + "/bus/cxl/devices", "mem");
  const auto demotion = read_value(roots.sys + "/kernel/mm/numa/demotion_enabled");
  tiers.demotion_enabled = demotion == "true" || demotion == "1";
  return tiers;
}

std::string chosen_in(const std::string& path) {
  const auto text = read_value(path);
  return text ? std::string(parse_bracketed(*text).value_or("")) : std::string();
}

CgroupFeatures read_cgroups(const KernelRoots& roots) {
  CgroupFeatures cgroups;
  if (const auto root = cgroup2_root(roots)) {
    cgroups.v2_mounted = true;
    cgroups.v2_controllers = words_of(read_value(*root + "/cgroup.controllers").value_or(""), ' ');
  }
  const auto& controllers = cgroups.v2_controllers;
  if (std::ranges::find(controllers, "memory") != controllers.end())
    cgroups.memory = CgroupVersion::v2;
  else if (exists(roots.cgroup + "/memory/memory.usage_in_bytes"))
    cgroups.memory = CgroupVersion::v1;
  return cgroups;
}

// "Max locked memory         8388608              8388608              bytes": the soft limit.
std::optional<std::uint64_t> limit_in(std::string_view text, std::string_view name) {
  for (std::string_view line : split_lines(text)) {
    if (!line.starts_with(name)) continue;
    line.remove_prefix(name.size());
    return parse_decimal(next_word(line));  // "unlimited" is no number
  }
  return std::nullopt;
}

OwnLimits read_own(const KernelRoots& roots) {
  OwnLimits own;
  if (const auto status = read_file(roots.proc + "/self/status")) {
    const ProcessStatus parsed = parse_process_status(*status);
    own.capabilities = parsed.effective_capabilities;
    own.effective_uid = parsed.effective_uid;
  }
  if (const auto limits = read_file(roots.proc + "/self/limits")) {
    if (const auto memlock = limit_in(*limits, "Max locked memory")) own.memlock = Bytes{*memlock};
    own.open_files = limit_in(*limits, "Max open files");
  }
  return own;
}

std::optional<bool> read_switch(const std::string& path) {
  const auto text = read_value(path);
  if (!text) return std::nullopt;
  return *text == "Y" || *text == "y" || *text == "1";
}

std::optional<std::int64_t> parse_signed(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::int64_t> read_signed(const std::string& path) {
  const auto text = read_value(path);
  return text ? parse_signed(*text) : std::nullopt;
}

}  // namespace

std::vector<SwapArea> read_swap(const KernelRoots& roots) {
  std::vector<SwapArea> areas;
  const auto text = read_file(roots.proc + "/swaps");
  if (!text) return areas;
  const auto lines = split_lines(*text);
  for (std::size_t i = 1; i < lines.size() && areas.size() < kMaxDevices; ++i) {
    std::string_view rest = lines[i];
    SwapArea area;
    area.device = printable(next_word(rest), 256);
    next_word(rest);
    area.size = parse_kilobytes(next_word(rest)).value_or(Bytes{});
    area.used = std::min(area.size, parse_kilobytes(next_word(rest)).value_or(Bytes{}));
    area.priority = parse_signed(next_word(rest)).value_or(0);
    area.is_zram = zram_number(area.device).has_value();
    if (!area.device.empty()) areas.push_back(std::move(area));
  }
  return areas;
}

KernelFeatures read_kernel_settings(const KernelRoots& roots) {
  const std::string sysctl = roots.proc + "/sys/";
  const std::string mm = roots.sys + "/kernel/mm/";
  KernelFeatures features;
  read_release(roots, features);
  features.idle_page_bitmap = exists(mm + "page_idle/bitmap");
  features.damon = read_damon(roots);
  features.sampling = read_sampling(roots);
  features.perf_paranoid = read_signed(sysctl + "kernel/perf_event_paranoid");
  features.swap = read_swap(roots);
  features.zswap = read_switch(roots.sys + "/module/zswap/parameters/enabled");
  features.kernel_tier = read_kernel_tier(roots);
  features.zram = !devices_in(roots.sys + "/block", "zram").empty();
  features.huge_pages.anonymous = chosen_in(mm + "transparent_hugepage/enabled");
  features.huge_pages.shmem = chosen_in(mm + "transparent_hugepage/shmem_enabled");
  features.tiers = read_tiers(roots);
  features.cgroups = read_cgroups(roots);
  features.pressure = exists(roots.proc + "/pressure/memory");
  // A bit mask, "0x0007"; bit 0 is the main switch. Documentation/admin-guide/mm/multigen_lru.rst.
  if (const auto mglru = read_value(mm + "lru_gen/enabled")) {
    const std::string_view digits = *mglru;
    features.mglru = (parse_hex(digits.starts_with("0x") ? digits.substr(2) : digits).value_or(0) & 1) != 0;
  }
  features.security_modules = words_of(read_value(roots.sys + "/kernel/security/lsm").value_or(""), ',');
  features.own = read_own(roots);
  features.max_map_count = read_number(sysctl + "vm/max_map_count").value_or(0);
  features.unprivileged_userfaultfd = read_number(sysctl + "vm/unprivileged_userfaultfd");
  features.io_uring_disabled = read_number(sysctl + "kernel/io_uring_disabled");
  features.ptrace_scope = read_number(sysctl + "kernel/yama/ptrace_scope");
  features.kvm = exists(roots.dev + "/kvm");
  return features;
}

}  // namespace tidepool::kernel
