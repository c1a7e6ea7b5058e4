#include "kmod-interfaces/meminfo.h"

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {

MemInfo parse_meminfo(std::string_view text) {
  MemInfo info;
  for (const std::string_view line : split_lines(text)) {
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view key = line.substr(0, colon);
    const std::string_view value = trim(line.substr(colon + 1));
    const Bytes size = parse_kilobytes(value).value_or(Bytes{});
    const std::uint64_t count = parse_decimal(value).value_or(0);
    if (key == "MemTotal") info.total = size;
    if (key == "MemFree") info.free = size;
    if (key == "MemAvailable") info.available = size;
    if (key == "Buffers") info.buffers = size;
    if (key == "Cached") info.cached = size;
    if (key == "Shmem") info.shmem = size;
    if (key == "AnonPages") info.anonymous = size;
    if (key == "AnonHugePages") info.anonymous_huge = size;
    if (key == "ShmemHugePages") info.shmem_huge = size;
    if (key == "Mlocked") info.locked = size;
    if (key == "SwapTotal") info.swap_total = size;
    if (key == "SwapFree") info.swap_free = size;
    if (key == "SwapCached") info.swap_cached = size;
    if (key == "Zswap") info.zswap = size;
    if (key == "Zswapped") info.zswapped = size;
    if (key == "Slab") info.slab = size;
    if (key == "PageTables") info.page_tables = size;
    if (key == "HugePages_Total") info.huge_pages_total = count;
    if (key == "HugePages_Free") info.huge_pages_free = count;
    if (key == "Hugepagesize") info.huge_page_size = size;
  }
  return info;
}

Result<MemInfo> read_meminfo(const KernelRoots& roots) {
  const std::string path = roots.proc + "/meminfo";
  const auto text = read_file(path);
  if (!text) return tl::unexpected(text.error());
  const MemInfo info = parse_meminfo(*text);
  if (info.total == Bytes{}) return failure(std::errc::bad_message, "parse", path);
  return info;
}

}  // namespace tidepool::kernel
