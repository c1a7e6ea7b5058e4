#include "tests/integration/agent/far_reader.h"

#include <lz4.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>

#include "pool/keeper/keeper_holder.h"
#include "pool/store/crc32c.h"

namespace tidepool::tests {
namespace {

constexpr std::uint64_t kMapHeader = std::uint64_t{256} * 1024;
constexpr std::uint64_t kListBytes = 16 + 3000 * 40;
constexpr std::uint64_t kTableHeader = 4096;

template <class T>
T number_at(const std::vector<std::byte>& bytes, std::uint64_t offset) {
  T value{};
  if (offset + sizeof value <= bytes.size()) std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

bool decompress(std::uint32_t codec, const std::vector<std::byte>& from, FarReader::Page& to) {
  if (codec == 1) {
    return LZ4_decompress_safe(reinterpret_cast<const char*>(from.data()), reinterpret_cast<char*>(to.data()),
                               static_cast<int>(from.size()),
                               static_cast<int>(to.size())) == static_cast<int>(to.size());
  }
  return codec == 2 && ZSTD_decompress(to.data(), to.size(), from.data(), from.size()) == to.size();
}

}  // namespace

FarReader::FarReader(const std::string& keeper_socket) {
  auto holder = pool::KeeperHolder::connect({.socket = keeper_socket});
  if (!holder) {
    problem_ = holder.error().message();
    return;
  }
  auto all = (*holder)->fetch_all();
  if (!all) {
    problem_ = all.error().message();
    return;
  }
  for (pool::HeldFd& held : *all) held_[held.name] = std::move(held.fd);
  table_ = bytes_of("store/table");
  if (table_.size() < kTableHeader || std::memcmp(table_.data(), "TDPSTORE", 8) != 0 ||
      number_at<std::uint32_t>(table_, 12) != 1)
    problem_ = "no store table of version 1 is held";
}

std::vector<std::byte> FarReader::bytes_of(const std::string& name) const {
  const auto held = held_.find(name);
  struct stat status {};
  if (held == held_.end() || ::fstat(held->second.get(), &status) != 0) return {};
  // Sparse and large: only as far as anything was ever written.
  std::uint64_t end = 0;
  for (off_t at = 0; (at = ::lseek(held->second.get(), at, SEEK_DATA)) >= 0;) {
    at = ::lseek(held->second.get(), at, SEEK_HOLE);
    end = static_cast<std::uint64_t>(at);
  }
  std::vector<std::byte> bytes(end);
  if (::pread(held->second.get(), bytes.data(), end, 0) != static_cast<ssize_t>(end)) return {};
  return bytes;
}

std::optional<FarReader::Page> FarReader::stored(std::uint64_t location) const {
  const std::uint64_t slot = location & 0xffffffff;
  const std::uint64_t generation = (location >> 32) & 0xff;
  const auto kind = number_at<std::uint32_t>(table_, 20);
  const auto entry_bytes = number_at<std::uint32_t>(table_, 24);
  const std::uint64_t entry = kTableHeader + slot * entry_bytes;
  const auto word = number_at<std::uint64_t>(table_, entry);
  if (slot >= number_at<std::uint64_t>(table_, 32) || word >> 60 != 2 || ((word >> 52) & 0xff) != generation)
    return std::nullopt;
  const auto data = held_.find("store/data");
  if (data == held_.end()) return std::nullopt;
  Page page{};
  if (kind == 1) {
    if (::pread(data->second.get(), page.data(), page.size(), static_cast<off_t>(slot * 4096)) != 4096)
      return std::nullopt;
  } else {
    const auto place = number_at<std::uint64_t>(table_, entry + 8);
    std::vector<std::byte> compressed((place >> 34) & 0xfff);
    const std::uint64_t offset = (place & ((1ull << 34) - 1)) * 64;
    if (::pread(data->second.get(), compressed.data(), compressed.size(), static_cast<off_t>(offset)) !=
        static_cast<ssize_t>(compressed.size()))
      return std::nullopt;
    if (!decompress(number_at<std::uint32_t>(table_, 64), compressed, page)) return std::nullopt;
  }
  const std::uint32_t seed = static_cast<std::uint32_t>(slot) * 0x9e3779b1u ^ static_cast<std::uint32_t>(generation);
  if (pool::crc32c(page, seed) != static_cast<std::uint32_t>(word)) return std::nullopt;
  return page;
}

void FarReader::read_object(const std::vector<std::byte>& map, std::vector<FarPage>& found) {
  if (number_at<std::uint64_t>(map, 0) != 0x70616d2d65646974 || number_at<std::uint32_t>(map, 8) != 1) {
    problem_ = "a page map is none of version 1";
    return;
  }
  const std::uint64_t list = 64 + kListBytes * number_at<std::uint32_t>(map, 28);
  for (std::uint64_t i = 0; i < number_at<std::uint64_t>(map, list); ++i) {
    const std::uint64_t segment = list + 16 + i * 40;
    const auto address = number_at<std::uint64_t>(map, segment);
    const auto pages = number_at<std::uint64_t>(map, segment + 8);
    const auto first = number_at<std::uint64_t>(map, segment + 16);
    for (std::uint64_t k = 0; k < pages; ++k) {
      const auto entry = number_at<std::uint64_t>(map, kMapHeader + (first + k) * 8);
      const std::uint64_t state = entry & 0xf;
      if (state < 4 || state > 6 || (entry & 0x20) != 0) continue;
      FarPage page{address + k * 4096, number_at<std::uint64_t>(map, segment + 32), {}};
      const std::uint64_t payload = (entry >> 8) & ((1ull << 40) - 1);
      if ((entry & 0x10) != 0) {
        const auto value = static_cast<std::uint32_t>(payload);
        for (std::size_t at = 0; at < page.content.size(); at += 4)
          std::memcpy(page.content.data() + at, &value, sizeof value);
      } else if (const auto content = stored(payload)) {
        page.content = *content;
      } else {
        problem_ = "page " + std::to_string(first + k) + " cannot be read from the store";
        return;
      }
      found.push_back(page);
    }
  }
}

std::vector<FarReader::FarPage> FarReader::far_pages(const std::string& vm) {
  std::vector<FarPage> found;
  const std::string prefix = "vm/" + vm + "/pages/";
  for (const auto& [name, fd] : held_) {
    if (name.starts_with(prefix)) read_object(bytes_of(name), found);
  }
  return found;
}

}  // namespace tidepool::tests
