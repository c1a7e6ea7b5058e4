// The words around mappings.h: selectors and sizes as people and command lines write them, and reasons as people read
// them.
#include <algorithm>
#include <cctype>

#include "daemon/vm/mappings.h"
#include "kmod-interfaces/proc_text.h"

namespace tidepool::daemon {
namespace {

constexpr std::size_t kLongestGlob = 4096;

std::optional<std::uint64_t> parse_address(std::string_view text) {
  if (!text.starts_with("0x") && !text.starts_with("0X")) return std::nullopt;
  return kernel::parse_hex(text.substr(2));
}

// "512", "2G", "1024M": a number with a unit, or in `unit` bytes without one. Stops at the first other character.
std::optional<Bytes> parse_size(std::string_view text, std::uint64_t unit) {
  std::size_t digits = 0;
  while (digits < text.size() && std::isdigit(static_cast<unsigned char>(text[digits])) != 0) ++digits;
  const auto number = kernel::parse_decimal(text.substr(0, digits));
  if (!number) return std::nullopt;
  if (digits < text.size()) {
    switch (std::toupper(static_cast<unsigned char>(text[digits]))) {
      case 'B':
        unit = 1;
        break;
      case 'K':
        unit = 1ull << 10;
        break;
      case 'M':
        unit = 1ull << 20;
        break;
      case 'G':
        unit = 1ull << 30;
        break;
      case 'T':
        unit = 1ull << 40;
        break;
      default:
        break;
    }
  }
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(*number, unit, &bytes)) return std::nullopt;
  return Bytes{bytes};
}

// The value of "size" in "qom-type=...,size=1G" or {"qom-type":"...","size":1073741824}.
std::optional<Bytes> size_in(std::string_view list) {
  for (const std::string_view key : {std::string_view("\"size\":"), std::string_view("size=")}) {
    const std::size_t at = list.find(key);
    if (at == std::string_view::npos) continue;
    if (at > 0 && std::isalnum(static_cast<unsigned char>(list[at - 1])) != 0) continue;
    std::string_view value = list.substr(at + key.size());
    while (value.starts_with(' ')) value.remove_prefix(1);
    return parse_size(value, 1);
  }
  return std::nullopt;
}

}  // namespace

Result<MemorySelector> parse_memory_selector(std::string_view text) {
  using Kind = MemorySelector::Kind;
  MemorySelector selector;
  if (text.empty() || text == "auto") return selector;
  if (text == "shared") return selector.kind = Kind::shared, selector;
  if (text == "private") return selector.kind = Kind::private_anonymous, selector;
  if (text == "all") return selector.kind = Kind::all, selector;
  const auto refuse = [&](const char* remedy) {
    return failure(std::errc::invalid_argument, "read memory selector", "'" + kernel::printable(text) + "'", remedy);
  };
  if (text.starts_with("path:")) {
    selector.kind = Kind::path;
    selector.glob = std::string(text.substr(5));
    if (selector.glob.empty() || selector.glob.size() > kLongestGlob)
      return refuse("a pattern belongs after path:, such as path:/dev/shm/cache*");
    return selector;
  }
  const std::size_t dash = text.find('-');
  if (dash == std::string_view::npos) return refuse("use auto, shared, private, all, 0xSTART-0xEND or path:GLOB");
  const auto start = parse_address(text.substr(0, dash));
  const auto end = parse_address(text.substr(dash + 1));
  if (!start || !end) return refuse("addresses are hexadecimal: 0xSTART-0xEND");
  selector.kind = Kind::range;
  selector.range = AddressRange{*start, *end};
  if (selector.range.empty()) return refuse("the end must lie behind the start");
  if ((*start | *end) % kPageSize != 0) return refuse("addresses must be multiples of 4096");
  return selector;
}

std::string_view name_of(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::memfd:
      return "memfd";
    case MemoryKind::tmpfs_file:
      return "tmpfs";
    case MemoryKind::shared_anonymous:
      return "shared-anonymous";
    case MemoryKind::private_anonymous:
      return "private";
  }
  return "private";
}

std::string_view reason_of(Exclusion exclusion) {
  switch (exclusion) {
    case Exclusion::hugetlb:
      return "hugetlb pages are reserved for their owner and cannot be given back one by one";
    case Exclusion::locked:
      return "locked in memory by its owner";
    case Exclusion::userfaultfd:
      return "another userfaultfd already watches it";
    case Exclusion::dax:
      return "is a device's own memory, not DRAM";
    case Exclusion::alias_unmanageable:
      return "the same memory is mapped again in a way that cannot be watched";
    case Exclusion::stack:
      return "a thread's stack";
    case Exclusion::special:
      return "the kernel's own";
    case Exclusion::device:
      return "device memory";
    case Exclusion::file_private:
      return "a private copy of a file";
    case Exclusion::file_shared:
      return "a file that is not in memory";
    case Exclusion::no_access:
      return "not accessible to its owner";
    case Exclusion::read_only:
      return "not writable";
    case Exclusion::too_small:
      return "too small to be worth watching";
    case Exclusion::not_selected:
      return "not selected";
  }
  return "not selected";
}

Bytes MappingChoice::total() const {
  Bytes sum;
  for (const ManagedMapping& mapping : chosen) {
    if (!mapping.alias) sum += Bytes{mapping.range.size()};
  }
  return sum;
}

Bytes MappingChoice::blocked_by(Exclusion reason) const {
  Bytes sum;
  for (const ExcludedMapping& mapping : blocked) {
    if (mapping.reason == reason) sum += Bytes{mapping.range.size()};
  }
  return sum;
}

bool MappingChoice::has_private() const {
  return std::ranges::any_of(chosen, [](const ManagedMapping& mapping) { return !is_shared(mapping.kind); });
}

std::vector<kernel::InodeId> MappingChoice::objects() const {
  std::vector<kernel::InodeId> objects;
  for (const ManagedMapping& mapping : chosen) {
    if (is_shared(mapping.kind)) objects.push_back(mapping.object);
  }
  std::ranges::sort(objects);
  objects.erase(std::unique(objects.begin(), objects.end()), objects.end());
  return objects;
}

std::vector<Bytes> guest_memory_sizes(std::span<const std::string> command_line) {
  std::vector<Bytes> sizes;
  const auto add = [&](std::optional<Bytes> size) {
    if (size && size->value >= kPageSize) sizes.push_back(*size);
  };
  for (std::size_t i = 1; i < command_line.size(); ++i) {
    const std::string_view option = command_line[i - 1];
    const std::string_view value = command_line[i];
    if (option == "-m" || option == "--m") {
      const auto named = size_in(value);
      add(named ? parse_size(value.substr(value.find("size=") + 5), 1u << 20) : parse_size(value, 1u << 20));
    } else if (value.find("memory-backend-") != std::string_view::npos || option.starts_with("--memory")) {
      add(size_in(value));
    }
  }
  return sizes;
}

}  // namespace tidepool::daemon
