#include "daemon/vm/mappings.h"

#include <algorithm>
#include <array>
#include <map>

#include "daemon/vm/vm_name.h"
#include "kmod-interfaces/proc_text.h"

namespace tidepool::daemon {
namespace {

using kernel::MappingUsage;
using kernel::MemoryMap;

// A thread's stack is small; what is larger and looks like one is something else.
constexpr std::uint64_t kLargestThreadStack = 64u << 20;

// A mapping under consideration, or a part of one: what it would be, and what forbids it, if anything.
struct Item {
  const MappingUsage* usage = nullptr;
  MemoryKind kind = MemoryKind::private_anonymous;
  std::optional<Exclusion> forbidden;
  bool selected = false;
  bool alias = false;
  AddressRange range;  // what of it is selected
  AddressRange whole;  // all that it stands for

  const MemoryMap& map() const { return usage->map; }
  bool possible() const { return !forbidden || blocks(*forbidden); }
};

bool is_kernel_memory_file(const MemoryMap& map, std::span<const kernel::Mount> mounts) {
  // memfd, shared anonymous and System V memory live on a mount inside the kernel that no mount table shows; a file of
  // the same name on a real filesystem has a device that one does show, or a major number.
  if (map.file.device.major != 0) return false;
  const auto here = [&](const kernel::Mount& mount) { return mount.device == map.file.device; };
  if (std::ranges::any_of(mounts, here)) return false;
  return map.path.starts_with("/memfd:") || map.path == "/dev/zero (deleted)" || map.path.starts_with("/SYSV") ||
         map.path.starts_with("[anon_shmem");
}

std::optional<MemoryKind> kind_of(const MemoryMap& map, std::span<const kernel::Mount> mounts) {
  if (!map.shared) {
    const bool anonymous =
        map.file.inode == 0 && (map.path.empty() || map.path == "[heap]" || map.path.starts_with("[anon"));
    return anonymous ? std::optional(MemoryKind::private_anonymous) : std::nullopt;
  }
  if (is_kernel_memory_file(map, mounts)) {
    if (map.path.starts_with("/memfd:")) return MemoryKind::memfd;
    return map.path.starts_with("/SYSV") ? MemoryKind::tmpfs_file : MemoryKind::shared_anonymous;
  }
  const auto tmpfs = [&](const kernel::Mount& mount) {
    return mount.device == map.file.device && mount.type == "tmpfs";
  };
  if (map.file.inode != 0 && std::ranges::any_of(mounts, tmpfs)) return MemoryKind::tmpfs_file;
  return std::nullopt;
}

bool is_hugetlb(const MappingUsage& usage) {
  return usage.has_flag("ht") || usage.kernel_page_size > Bytes{kPageSize} ||
         usage.map.path.starts_with("/anon_hugepage");
}

bool is_stack(const MappingUsage& usage, const MappingUsage* before, const MappingInputs& inputs) {
  const MemoryMap& map = usage.map;
  if (map.is_stack() || usage.has_flag("gd") || usage.has_flag("ss")) return true;
  if (map.shared || map.file.inode != 0) return false;
  const auto inside = [&](std::uint64_t pointer) { return map.range.contains(pointer); };
  if (std::ranges::any_of(inputs.stack_pointers, inside)) return true;
  // A thread that runs does not say where its stack is. MAP_STACK forbids huge pages ("nh", Linux 6.7), and libraries
  // keep the lowest part of what they mapped so as a guard. What lies below without "nh", as address space that malloc
  // has reserved, is none.
  const bool guarded = before != nullptr && before->map.range.end == map.range.start && !before->map.readable &&
                       !before->map.writable && before->map.file.inode == 0 && before->has_flag("nh");
  return guarded && usage.has_flag("nh") && map.range.size() <= kLargestThreadStack;
}

bool is_special(const MemoryMap& map) {
  static constexpr std::array<std::string_view, 5> kNames{"[vdso]", "[vsyscall]", "[uprobes]", "[sigpage]",
                                                          "[vectors]"};
  return map.path.starts_with("[vvar") || std::ranges::find(kNames, map.path) != kNames.end();
}

Item classify(const MappingUsage& usage, const MappingUsage* before, const MappingInputs& inputs, bool may_be_watched) {
  const MemoryMap& map = usage.map;
  Item item{&usage, MemoryKind::private_anonymous, std::nullopt, false, false, map.range, map.range};
  if (is_special(map)) return item.forbidden = Exclusion::special, item;
  if (is_hugetlb(usage)) {
    item.kind = map.shared ? MemoryKind::tmpfs_file : MemoryKind::private_anonymous;
    return item.forbidden = Exclusion::hugetlb, item;
  }
  if (map.path.starts_with("/dev/dax")) {
    item.kind = MemoryKind::tmpfs_file;
    return item.forbidden = Exclusion::dax, item;
  }
  if (usage.has_flag("io") || usage.has_flag("pf") || usage.has_flag("mm"))
    return item.forbidden = Exclusion::device, item;
  const auto kind = kind_of(map, inputs.mounts);
  if (!kind) {
    item.forbidden = map.shared ? Exclusion::file_shared : Exclusion::file_private;
    return item;
  }
  item.kind = *kind;
  if (may_be_watched ? map.is_stack() : is_stack(usage, before, inputs)) return item.forbidden = Exclusion::stack, item;
  // A private guard page that is locked along with everything else is still just a guard page; a shared one shows
  // memory that is locked.
  const bool idle = !map.writable && !map.shared;
  if (!idle && !may_be_watched && (usage.has_flag("um") || usage.has_flag("uw") || usage.has_flag("ui")))
    item.forbidden = Exclusion::userfaultfd;
  // VmFlags says what will be locked, Locked what is.
  else if (!idle && (usage.has_flag("lo") || usage.locked > Bytes{}))
    item.forbidden = Exclusion::locked;
  else if (!map.readable && !map.writable)
    item.forbidden = Exclusion::no_access;
  else if (!map.writable)
    item.forbidden = Exclusion::read_only;
  return item;
}

// Neighbours that the kernel lists apart only because their flags differ: a guest's RAM may be in several pieces.
struct Run {
  std::vector<Item*> items;
  std::uint64_t size = 0;
};

bool continues(const Item& before, const Item& next) {
  const MemoryMap& a = before.map();
  const MemoryMap& b = next.map();
  return a.range.end == b.range.start && before.kind == next.kind && a.file == b.file && a.path == b.path &&
         a.executable == b.executable && (!is_shared(next.kind) || a.offset + a.range.size() == b.offset);
}

std::vector<Run> runs_of(std::vector<Item>& items) {
  std::vector<Run> runs;
  const Item* previous = nullptr;
  for (Item& item : items) {
    const bool goes_on = previous != nullptr && previous->possible() && continues(*previous, item);
    previous = &item;
    if (!item.possible()) continue;
    if (!goes_on || runs.empty()) runs.emplace_back();
    runs.back().items.push_back(&item);
    runs.back().size += item.map().range.size();
  }
  return runs;
}

void select_run(Run& run) {
  for (Item* item : run.items) item->selected = true;
}

// What QEMU translates guest code into: as large as the guest's RAM, and not the guest's.
bool holds_code(const Run& run) {
  const MemoryMap& map = run.items.front()->map();
  return map.executable || map.path.starts_with("/memfd:tcg-jit");
}

void select_guest_memory(std::vector<Run>& runs, const MappingInputs& inputs, Bytes at_least) {
  const std::vector<Bytes> sizes = guest_memory_sizes(inputs.command_line);
  const auto is_named = [&](const Run& run) { return std::ranges::find(sizes, Bytes{run.size}) != sizes.end(); };
  std::uint64_t largest = 0;
  std::uint64_t largest_named = 0;
  for (const Run& run : runs) {
    if (holds_code(run)) continue;
    largest = std::max(largest, run.size);
    if (is_named(run)) largest_named = std::max(largest_named, run.size);
  }
  // Memory that was plugged in later is on no command line, but of the same order.
  const std::uint64_t scale = largest_named > 0 ? largest_named : largest;
  for (Run& run : runs) {
    if (run.size < at_least.value || holds_code(run)) continue;
    if (is_named(run) || run.size >= scale - scale / 2) select_run(run);
  }
}

void select_kinds(std::vector<Run>& runs, bool shared, bool private_memory, Bytes at_least) {
  for (Run& run : runs) {
    if (run.size < at_least.value) continue;
    if (is_shared(run.items.front()->kind) ? shared : private_memory) select_run(run);
  }
}

void select_automatically(std::vector<Run>& runs, const MappingInputs& inputs, Bytes at_least) {
  if (is_hypervisor(inputs.executable)) return select_guest_memory(runs, inputs, at_least);
  std::uint64_t shared = 0;
  std::uint64_t private_resident = 0;
  for (const Run& run : runs) {
    if (run.size < at_least.value) continue;
    if (is_shared(run.items.front()->kind)) {
      shared += run.size;
      continue;
    }
    for (const Item* item : run.items) private_resident += item->usage->resident.value;
  }
  const bool take_shared = shared > 0 && shared >= private_resident;
  select_kinds(runs, take_shared, !take_shared, at_least);
}

void select_items(std::vector<Item>& items, const MappingInputs& inputs, const MemorySelector& selector) {
  std::vector<Run> runs = runs_of(items);
  switch (selector.kind) {
    case MemorySelector::Kind::automatic:
      return select_automatically(runs, inputs, selector.at_least);
    case MemorySelector::Kind::shared:
      return select_kinds(runs, true, false, selector.at_least);
    case MemorySelector::Kind::private_anonymous:
      return select_kinds(runs, false, true, selector.at_least);
    case MemorySelector::Kind::all:
      return select_kinds(runs, true, true, selector.at_least);
    case MemorySelector::Kind::range:
      for (Item& item : items) {
        if (!item.possible() || !item.range.overlaps(selector.range)) continue;
        item.selected = true;
        item.range.start = std::max(item.range.start, selector.range.start);
        item.range.end = std::min(item.range.end, selector.range.end);
      }
      return;
    case MemorySelector::Kind::handed_off:
      for (Item& item : items) {
        const auto is_inside = [&](const AddressRange& region) { return region.contains(item.whole); };
        if (item.possible() && std::ranges::any_of(selector.regions, is_inside)) item.selected = true;
      }
      return;
    case MemorySelector::Kind::path:
      for (Item& item : items) {
        if (item.possible() && kernel::matches_glob(selector.glob, item.map().path)) item.selected = true;
      }
      return;
  }
}

// Where the file has what [range) of the item's mapping shows.
AddressRange object_range(const Item& item, AddressRange range) {
  const std::uint64_t start = item.map().offset + (range.start - item.map().range.start);
  return {start, start + range.size()};
}

// The kernel joins neighbours into one mapping: regions that were handed off, and what lies between them, are apart
// again after this.
std::vector<Item> cut_at(const std::vector<Item>& items, std::span<const AddressRange> regions) {
  std::vector<std::uint64_t> edges;
  for (const AddressRange& region : regions) edges.insert(edges.end(), {region.start, region.end});
  std::vector<Item> pieces;
  for (const Item& item : items) {
    std::uint64_t start = item.whole.start;
    for (auto edge = std::ranges::upper_bound(edges, start); start < item.whole.end; ++edge) {
      Item piece = item;
      const std::uint64_t end = edge == edges.end() ? item.whole.end : std::min(*edge, item.whole.end);
      piece.range = piece.whole = {start, end};
      if (!piece.whole.empty()) pieces.push_back(piece);
      start = end;
      if (edge == edges.end()) break;
    }
  }
  return pieces;
}

// Sorted and merged.
std::vector<AddressRange> merged(std::vector<AddressRange> ranges) {
  std::ranges::sort(ranges);
  std::vector<AddressRange> out;
  for (const AddressRange& range : ranges) {
    if (!out.empty() && range.start <= out.back().end)
      out.back().end = std::max(out.back().end, range.end);
    else
      out.push_back(range);
  }
  return out;
}

// From the first to the last byte of `range` that lies in one of `ranges` (sorted, apart).
AddressRange common_hull(const std::vector<AddressRange>& ranges, AddressRange range) {
  const auto ends_behind = [](const AddressRange& r, std::uint64_t at) { return r.end <= at; };
  const auto starts_before = [](const AddressRange& r, std::uint64_t at) { return r.start < at; };
  const auto first = std::lower_bound(ranges.begin(), ranges.end(), range.start, ends_behind);
  const auto last = std::lower_bound(ranges.begin(), ranges.end(), range.end, starts_before);
  if (first >= last) return {};
  return {std::max(first->start, range.start), std::min((last - 1)->end, range.end)};
}

// Memory that is dropped through one mapping reads as zeros through every other: all mappings of it are taken, or none.
// `items` are those of one file.
void take_aliases(const std::vector<Item*>& items) {
  std::vector<AddressRange> wanted;
  for (const Item* item : items) {
    if (item->selected && !item->forbidden) wanted.push_back(object_range(*item, item->range));
  }
  wanted = merged(std::move(wanted));
  bool manageable = true;
  for (Item* item : items) {
    const AddressRange whole = object_range(*item, item->whole);
    const AddressRange shown = common_hull(wanted, whole);
    if (shown.empty()) continue;
    if (item->forbidden && *item->forbidden != Exclusion::no_access && *item->forbidden != Exclusion::read_only) {
      manageable = false;
      continue;
    }
    item->alias = !item->selected;
    const std::uint64_t address = item->whole.start - whole.start;
    item->range = {address + shown.start, address + shown.end};
  }
  if (manageable) return;
  for (Item* item : items) {
    if (item->selected && !item->forbidden) item->forbidden = Exclusion::alias_unmanageable;
    item->alias = false;
  }
}

void take_all_aliases(std::vector<Item>& items) {
  std::map<kernel::InodeId, std::vector<Item*>> by_file;
  for (Item& item : items) {
    if (item.map().file.inode != 0) by_file[item.map().file].push_back(&item);
  }
  for (const auto& [file, same] : by_file) {
    if (same.size() > 1) take_aliases(same);
  }
}

Exclusion exclusion_of(const Item& item, const MemorySelector& selector) {
  if (item.forbidden) return *item.forbidden;
  const bool sized = selector.kind != MemorySelector::Kind::range && selector.kind != MemorySelector::Kind::path &&
                     selector.kind != MemorySelector::Kind::handed_off;
  return sized && item.map().range.size() < selector.at_least.value ? Exclusion::too_small : Exclusion::not_selected;
}

}  // namespace

MappingChoice choose_mappings(const MappingInputs& inputs, const MemorySelector& selector) {
  std::vector<Item> items;
  items.reserve(inputs.mappings.size());
  const bool handed_off = selector.kind == MemorySelector::Kind::handed_off;
  for (std::size_t i = 0; i < inputs.mappings.size(); ++i)
    items.push_back(classify(inputs.mappings[i], i > 0 ? &inputs.mappings[i - 1] : nullptr, inputs, handed_off));
  if (handed_off) items = cut_at(items, selector.regions);
  select_items(items, inputs, selector);
  take_all_aliases(items);
  MappingChoice choice;
  for (const Item& item : items) {
    const MappingUsage& usage = *item.usage;
    const bool wanted = item.selected || item.alias;
    if (wanted && (!item.forbidden || (item.alias && !blocks(*item.forbidden)))) {
      const std::uint64_t offset = is_shared(item.kind) ? object_range(item, item.range).start : 0;
      choice.chosen.push_back(ManagedMapping{item.range, item.kind, usage.map.file, offset, usage.map.path,
                                             usage.resident, usage.anonymous_huge + usage.shmem_huge,
                                             usage.map.writable, item.alias, usage.map.range});
      continue;
    }
    const ExcludedMapping excluded{item.range, usage.map.path, exclusion_of(item, selector), usage.resident};
    (wanted && blocks(excluded.reason) ? choice.blocked : choice.excluded).push_back(excluded);
  }
  return choice;
}

}  // namespace tidepool::daemon
