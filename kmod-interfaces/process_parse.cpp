// The parsers of process.h: text in, values out, no I/O.
#include <fcntl.h>

#include <algorithm>

#include "kmod-interfaces/proc_text.h"
#include "kmod-interfaces/process.h"

namespace tidepool::kernel {
namespace {

// "fe:00"
std::optional<DeviceNumber> parse_device(std::string_view text,
                                         std::optional<std::uint64_t> (*number)(std::string_view)) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const auto major = number(text.substr(0, colon));
  const auto minor = number(text.substr(colon + 1));
  if (!major || !minor || *major > UINT32_MAX || *minor > UINT32_MAX) return std::nullopt;
  return DeviceNumber{static_cast<std::uint32_t>(*major), static_cast<std::uint32_t>(*minor)};
}

// mountinfo writes blanks and backslashes as \ooo.
std::string unescape_octal(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      const auto code = parse_octal(text.substr(i + 1, 3));
      if (code && *code < 256) {
        out.push_back(static_cast<char>(*code));
        i += 3;
        continue;
      }
    }
    out.push_back(text[i]);
  }
  return out;
}

Bytes kilobytes_of(std::string_view text, std::string_view key) {
  const auto value = value_of(text, key);
  return value ? parse_kilobytes(*value).value_or(Bytes{}) : Bytes{};
}

std::uint64_t decimal_of(std::string_view text, std::string_view key) {
  const auto value = value_of(text, key);
  return value ? parse_decimal(*value).value_or(0) : 0;
}

DescriptorKind kind_of_target(std::string_view target) {
  if (target == "anon_inode:[userfaultfd]" || target == "/dev/userfaultfd") {
    // The device alone is not a context; only what it hands out is.
    return target.front() == '/' ? DescriptorKind::other : DescriptorKind::userfaultfd;
  }
  if (target == "anon_inode:[io_uring]") return DescriptorKind::io_uring;
  if (target.starts_with("/dev/vfio/") || target.starts_with("anon_inode:[vfio") || target == "anon_inode:kvm-vfio")
    return DescriptorKind::vfio;
  if (target == "/dev/iommu" || target.starts_with("anon_inode:[iommufd")) return DescriptorKind::iommufd;
  if (target.starts_with("/dev/vhost-vdpa")) return DescriptorKind::vhost_vdpa;
  if (target == "anon_inode:kvm-vm") return DescriptorKind::kvm_vm;
  if (target.starts_with("anon_inode:kvm-vcpu")) return DescriptorKind::kvm_vcpu;
  if (target.starts_with("/memfd:")) return DescriptorKind::memfd;
  return target.starts_with('/') ? DescriptorKind::file : DescriptorKind::other;
}

// "UserBufs: N" followed by one line per slot: "    0: 0x7f.../8192", or "    0: <none>" for a slot of a sparse table
// that is free. When the ring was busy the kernel prints the count without the slots, or (6.16) nothing at all.
std::optional<std::uint64_t> parse_fixed_buffers(std::string_view fdinfo) {
  bool in_table = false;
  std::uint64_t slots = 0;
  std::uint64_t listed = 0;
  std::uint64_t used = 0;
  for (std::string_view line : split_lines(fdinfo)) {
    if (line.starts_with("UserBufs:")) {
      const auto count = parse_decimal(trim(line.substr(9)));
      if (!count) return std::nullopt;
      slots = *count;
      in_table = true;
      continue;
    }
    if (!in_table) continue;
    std::string_view rest = line;
    const std::string_view index = next_word(rest);
    if (!line.starts_with(' ') || !index.ends_with(':')) break;
    ++listed;
    if (trim(rest) != "<none>") ++used;
  }
  if (!in_table) return std::nullopt;
  return listed == slots ? used : slots;
}

}  // namespace

bool MappingUsage::has_flag(std::string_view flag) const {
  std::string_view rest = vm_flags;
  while (!rest.empty()) {
    if (next_word(rest) == flag) return true;
    if (trim(rest).empty()) break;
  }
  return false;
}

bool DescriptorInfo::is_direct() const {
  return (flags & O_DIRECT) != 0;
}

std::optional<ProcessStat> parse_process_stat(std::string_view text) {
  // The name may hold anything, parentheses included: it ends at the last one.
  const std::size_t open = text.find('(');
  const std::size_t close = text.rfind(')');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) return std::nullopt;
  const auto pid = parse_decimal(trim(text.substr(0, open)));
  if (!pid || *pid > INT32_MAX) return std::nullopt;
  ProcessStat stat;
  stat.pid = static_cast<pid_t>(*pid);
  stat.comm = std::string(text.substr(open + 1, close - open - 1));
  std::string_view rest = text.substr(close + 1);
  // Fields of proc_pid_stat(5), counted from 3 (state).
  for (int field = 3; field <= 22; ++field) {
    const std::string_view word = next_word(rest);
    if (word.empty()) return std::nullopt;
    const std::uint64_t number = parse_decimal(word).value_or(0);
    if (field == 3) stat.state = word.front();
    if (field == 4) stat.parent = static_cast<pid_t>(std::min<std::uint64_t>(number, INT32_MAX));
    if (field == 9) stat.flags = static_cast<std::uint32_t>(number);
    if (field == 12) stat.major_faults = number;
    if (field == 20) stat.threads = number;
    if (field == 22) stat.start_ticks = number;
  }
  return stat;
}

ProcessStatus parse_process_status(std::string_view text) {
  ProcessStatus status;
  const auto pair = [&](std::string_view key, auto& real, auto& effective) {
    std::string_view rest = value_of(text, key).value_or("");
    real = static_cast<uid_t>(parse_decimal(next_word(rest)).value_or(0));
    effective = static_cast<uid_t>(parse_decimal(next_word(rest)).value_or(0));
  };
  pair("Uid", status.uid, status.effective_uid);
  pair("Gid", status.gid, status.effective_gid);
  std::string_view groups = value_of(text, "Groups").value_or("");
  while (!trim(groups).empty()) {
    const auto group = parse_decimal(next_word(groups));
    if (group && *group <= UINT32_MAX) status.groups.push_back(static_cast<gid_t>(*group));
  }
  status.effective_capabilities = parse_hex(value_of(text, "CapEff").value_or("")).value_or(0);
  status.tracer = static_cast<pid_t>(std::min<std::uint64_t>(decimal_of(text, "TracerPid"), INT32_MAX));
  status.threads = decimal_of(text, "Threads");
  status.no_new_privileges = decimal_of(text, "NoNewPrivs") != 0;
  const std::uint64_t seccomp = decimal_of(text, "Seccomp");
  status.seccomp = seccomp == 0 ? SeccompMode::none : seccomp == 1 ? SeccompMode::strict : SeccompMode::filter;
  status.locked = kilobytes_of(text, "VmLck");
  status.pinned = kilobytes_of(text, "VmPin");
  status.resident = kilobytes_of(text, "VmRSS");
  status.resident_anonymous = kilobytes_of(text, "RssAnon");
  status.resident_file = kilobytes_of(text, "RssFile");
  status.resident_shmem = kilobytes_of(text, "RssShmem");
  status.page_tables = kilobytes_of(text, "VmPTE");
  status.swapped = kilobytes_of(text, "VmSwap");
  status.has_memory = value_of(text, "VmSize").has_value();
  return status;
}

std::optional<MemoryMap> parse_map_line(std::string_view line) {
  std::string_view rest = line;
  const std::string_view addresses = next_word(rest);
  const std::size_t dash = addresses.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto start = parse_hex(addresses.substr(0, dash));
  const auto end = parse_hex(addresses.substr(dash + 1));
  const std::string_view permissions = next_word(rest);
  const auto offset = parse_hex(next_word(rest));
  const auto device = parse_device(next_word(rest), parse_hex);
  const auto inode = parse_decimal(next_word(rest));
  if (!start || !end || *end <= *start || permissions.size() != 4 || !offset || !device || !inode) return std::nullopt;
  MemoryMap map;
  map.range = AddressRange{*start, *end};
  map.readable = permissions[0] == 'r';
  map.writable = permissions[1] == 'w';
  map.executable = permissions[2] == 'x';
  map.shared = permissions[3] == 's' || permissions[3] == 'S';
  map.offset = *offset;
  map.file = InodeId{*device, *inode};
  // Padding, then the name; a name may end in blanks, so only the front is trimmed.
  const std::size_t name = rest.find_first_not_of(" \t");
  if (name != std::string_view::npos) map.path = std::string(rest.substr(name));
  return map;
}

std::vector<MemoryMap> parse_maps(std::string_view text) {
  std::vector<MemoryMap> maps;
  for (const std::string_view line : split_lines(text)) {
    if (auto map = parse_map_line(line)) maps.push_back(std::move(*map));
  }
  return maps;
}

void SmapsReader::add_line(std::string_view line) {
  // A figure is "Name:   123 kB" and begins with a capital letter; a mapping begins with a (lower-case) hexadecimal
  // address.
  if (line.empty() || line.front() < 'A' || line.front() > 'Z') {
    if (auto map = parse_map_line(line)) mappings_.emplace_back().map = std::move(*map);
    return;
  }
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos || mappings_.empty()) return;
  const std::string_view key = line.substr(0, colon);
  const std::string_view value = trim(line.substr(colon + 1));
  MappingUsage& mapping = mappings_.back();
  if (key == "VmFlags") {
    mapping.vm_flags = std::string(value);
    return;
  }
  const auto size = parse_kilobytes(value);
  if (!size) return;
  if (key == "KernelPageSize") mapping.kernel_page_size = *size;
  if (key == "Rss") mapping.resident = *size;
  if (key == "Pss") mapping.proportional = *size;
  if (key == "Referenced") mapping.referenced = *size;
  if (key == "Anonymous") mapping.anonymous = *size;
  if (key == "AnonHugePages") mapping.anonymous_huge = *size;
  if (key == "ShmemPmdMapped") mapping.shmem_huge = *size;
  if (key == "Swap") mapping.swapped = *size;
  if (key == "Locked") mapping.locked = *size;
}

std::vector<MappingUsage> SmapsReader::take() {
  return std::exchange(mappings_, {});
}

std::vector<MappingUsage> parse_smaps(std::string_view text) {
  SmapsReader reader;
  for (const std::string_view line : split_lines(text)) reader.add_line(line);
  return reader.take();
}

DescriptorInfo parse_descriptor(int number, std::string_view target, std::string_view fdinfo) {
  DescriptorInfo info;
  info.number = number;
  info.target = std::string(target);
  info.kind = kind_of_target(target);
  info.flags = static_cast<std::uint32_t>(parse_octal(value_of(fdinfo, "flags").value_or("")).value_or(0));
  info.inode = decimal_of(fdinfo, "ino");
  info.mount_id = decimal_of(fdinfo, "mnt_id");
  if (info.kind == DescriptorKind::io_uring) info.fixed_buffers = parse_fixed_buffers(fdinfo);
  return info;
}

std::vector<std::string> parse_command_line(std::string_view text) {
  std::vector<std::string> arguments;
  while (!text.empty() && arguments.size() < kMaxArguments) {
    const std::size_t end = text.find('\0');
    arguments.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return arguments;
}

std::vector<Mount> parse_mounts(std::string_view text) {
  std::vector<Mount> mounts;
  for (std::string_view line : split_lines(text)) {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
    const std::size_t separator = line.find(" - ");
    if (separator == std::string_view::npos) continue;
    std::string_view front = line.substr(0, separator);
    std::string_view back = line.substr(separator + 3);
    const std::uint64_t id = parse_decimal(next_word(front)).value_or(0);
    next_word(front);
    const auto device = parse_device(next_word(front), parse_decimal);
    next_word(front);
    const std::string_view mount_point = next_word(front);
    const std::string_view type = next_word(back);
    if (!device || mount_point.empty() || type.empty()) continue;
    mounts.push_back(
        Mount{id, *device, unescape_octal(mount_point), std::string(type), unescape_octal(next_word(back))});
  }
  return mounts;
}

std::vector<CgroupMembership> parse_cgroups(std::string_view text) {
  std::vector<CgroupMembership> memberships;
  for (const std::string_view line : split_lines(text)) {
    const std::size_t first = line.find(':');
    if (first == std::string_view::npos) continue;
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const auto hierarchy = parse_decimal(line.substr(0, first));
    if (!hierarchy || *hierarchy > UINT32_MAX) continue;
    memberships.push_back(CgroupMembership{static_cast<unsigned>(*hierarchy),
                                           std::string(line.substr(first + 1, second - first - 1)),
                                           std::string(line.substr(second + 1))});
  }
  return memberships;
}

ElfClass parse_elf_class(std::string_view first_bytes) {
  if (first_bytes.size() < 5 || !first_bytes.starts_with("\x7f"
                                                         "ELF"))
    return ElfClass::unknown;
  if (first_bytes[4] == 1) return ElfClass::bits32;
  return first_bytes[4] == 2 ? ElfClass::bits64 : ElfClass::unknown;
}

std::optional<std::uint64_t> parse_stack_pointer(std::string_view text) {
  // "running", or "-1 SP PC" (blocked outside a system call), or "NR ARG1..ARG6 SP PC".
  std::vector<std::string_view> words;
  std::string_view rest = trim(text);
  while (!rest.empty() && words.size() < 16) words.push_back(next_word(rest));
  if (words.size() < 3) return std::nullopt;
  std::string_view pointer = words[words.size() - 2];
  if (!pointer.starts_with("0x")) return std::nullopt;
  pointer.remove_prefix(2);
  return parse_hex(pointer);
}

}  // namespace tidepool::kernel
