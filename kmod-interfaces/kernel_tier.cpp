#include "kmod-interfaces/kernel_tier.h"

#include <algorithm>
#include <array>

#include "kmod-interfaces/kernel_features.h"
#include "kmod-interfaces/meminfo.h"
#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

constexpr Bytes kEnoughToTell{1u << 20};

struct Area {
  SwapArea swap;
  SwapKind kind = SwapKind::kDisk;
  ZramUse zram;
};

Area look_at(const KernelRoots& roots, SwapArea swap, bool zswap) {
  Area area{std::move(swap), zswap ? SwapKind::kZswap : SwapKind::kDisk, {}};
  const auto number = zram_number(area.swap.device);
  if (!number) return area;
  const auto text = read_file(roots.sys + "/block/zram" + std::to_string(*number) + "/mm_stat");
  const auto use = text ? parse_zram_use(*text) : std::nullopt;
  if (!use) return area;  // what only bears the name of one
  area.kind = SwapKind::kZram;
  area.zram = *use;
  return area;
}

// Page bytes that still fit into a zram device: swap slots, and memory for them where that is limited.
Bytes zram_free(const Area& area) {
  const Bytes slots = saturating_sub(area.swap.size, area.swap.used);
  if (area.zram.limit == Bytes{}) return slots;
  const auto left = static_cast<double>(saturating_sub(area.zram.limit, area.zram.dram).value);
  const double ratio = area.zram.stored >= kEnoughToTell && area.zram.dram != Bytes{}
                           ? static_cast<double>(area.zram.dram.value) / static_cast<double>(area.zram.stored.value)
                           : 1;
  return std::min(slots, saturating_bytes(left / ratio));
}

}  // namespace

std::string_view name_of(SwapKind kind) {
  constexpr std::array<std::string_view, 4> kNames{"none", "zram", "zswap", "disk"};
  return kNames[static_cast<std::size_t>(kind)];
}

double KernelTier::ratio() const {
  if (stored < kEnoughToTell) return kind == SwapKind::kDisk || kind == SwapKind::kNone ? 0 : 1;
  // A zram device's tables alone may be larger than what they describe: more than a page for a page is no far memory.
  return std::clamp(static_cast<double>(dram.value) / static_cast<double>(stored.value), 0.0, 1.0);
}

std::optional<ZramUse> parse_zram_use(std::string_view text) {
  std::array<std::uint64_t, 4> values{};
  for (std::uint64_t& value : values) {
    const auto number = parse_decimal(next_word(text = trim(text)));
    // Pages of one device, and their bytes: no host has more than 2^52.
    if (!number || *number > (1ull << 52)) return std::nullopt;
    value = *number;
  }
  return ZramUse{Bytes{values[0]}, Bytes{values[2]}, Bytes{values[3]}};
}

std::optional<std::uint64_t> zram_number(std::string_view device) {
  constexpr std::string_view kPrefix = "/dev/zram";
  return device.starts_with(kPrefix) ? parse_decimal(device.substr(kPrefix.size())) : std::nullopt;
}

KernelTier read_kernel_tier(const KernelRoots& roots) {
  KernelTier tier;
  const auto enabled = read_value(roots.sys + "/module/zswap/parameters/enabled");
  const bool zswap = enabled && (*enabled == "Y" || *enabled == "y" || *enabled == "1");
  std::vector<Area> areas;
  for (SwapArea& swap : read_swap(roots)) areas.push_back(look_at(roots, std::move(swap), zswap));
  std::ranges::stable_sort(areas, [](const Area& a, const Area& b) { return a.swap.priority > b.swap.priority; });
  const auto full = [](const Area& area) { return area.swap.used >= area.swap.size; };
  const auto first = std::ranges::find_if_not(areas, full);
  if (areas.empty()) return tier;
  // Where all are full the kind is still that of the first: what is stored there takes what it takes.
  tier.kind = (first == areas.end() ? areas.front() : *first).kind;
  const auto memory = zswap ? read_meminfo(roots) : Result<MemInfo>(Failure{Error{}});
  if (memory) tier.stored = memory->zswapped, tier.dram = memory->zswap;
  for (const Area& area : areas) {
    if (area.kind == SwapKind::kZram) tier.stored += area.zram.stored, tier.dram += area.zram.dram;
    if (area.kind == SwapKind::kDisk) tier.stored += area.swap.used;
  }
  for (const Area& area : areas) {
    if (area.kind == tier.kind) {
      tier.devices.push_back(area.swap.device);
      tier.size += area.swap.size;
      tier.free += area.kind == SwapKind::kZram ? zram_free(area) : saturating_sub(area.swap.size, area.swap.used);
      continue;
    }
    if (full(area)) continue;
    // Areas of one priority are filled in turn: with a slower one among them, none can be counted on.
    if (first != areas.end() && area.swap.priority == first->swap.priority && area.kind == SwapKind::kDisk)
      tier.kind = SwapKind::kDisk, tier.devices.clear(), tier.size = tier.free = Bytes{};
    break;
  }
  return tier;
}

}  // namespace tidepool::kernel
