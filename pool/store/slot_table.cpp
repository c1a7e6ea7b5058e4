#include "pool/store/slot_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "pool/store/crc32c.h"
#include "pool/store/medium.h"

namespace tidepool::pool {
namespace {

constexpr char kMagic[8] = {'T', 'D', 'P', 'S', 'T', 'O', 'R', 'E'};
constexpr std::uint32_t kByteOrder = 0x01020304;
constexpr const char* kSubject = "page store table";

std::uint32_t header_checksum(const StoreHeader& header) {
  return crc32c(std::as_bytes(std::span(&header, 1)).first(offsetof(StoreHeader, header_crc)));
}

std::uint64_t table_bytes(const StoreHeader& header) {
  return (kStoreHeaderBytes + header.slots * header.entry_bytes + kPageSize - 1) / kPageSize * kPageSize;
}

Result<> identify(int data_fd, StoreHeader& header) {
  struct stat status {};
  if (::fstat(data_fd, &status) != 0) return errno_failure("inspect", "page store data");
  header.data_device = S_ISCHR(status.st_mode) ? status.st_rdev : status.st_dev;
  header.data_inode = S_ISCHR(status.st_mode) ? 0 : status.st_ino;
  return {};
}

Failure refused(const char* why) {
  return failure(std::errc::invalid_argument, "open", kSubject, why);
}

Result<> check(const StoreHeader& header, StoreLayoutKind kind) {
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) return refused("it is not a page store's table");
  if (header.byte_order != kByteOrder) return refused("it was written by a machine of the other byte order");
  if (header.header_crc != header_checksum(header)) return refused("its header is damaged");
  if (header.layout_version != kStoreLayoutVersion)
    return refused("its layout version is another one: use the program that wrote it");
  if (header.kind != kind) return refused("it belongs to another kind of store");
  const std::uint32_t entry = kind == StoreLayoutKind::kMapped ? 8 : kind == StoreLayoutKind::kFile ? 32 : 16;
  if (header.header_bytes != kStoreHeaderBytes || header.entry_bytes != entry || header.slots == 0 ||
      header.slots > kMaxSlots)
    return refused("its geometry makes no sense");
  return {};
}

}  // namespace

Result<SlotTable> SlotTable::map(UniqueFd fd, const StoreHeader& header) {
  auto mapping = map_for_store(fd.get(), Bytes{table_bytes(header)});
  if (!mapping) return Failure{mapping.error()};
  SlotTable table;
  table.header_ = header;
  table.fd_ = std::move(fd);
  table.mapping_ = std::move(*mapping);
  table.entries_ = reinterpret_cast<std::uint64_t*>(table.mapping_.data() + kStoreHeaderBytes);
  table.entry_words_ = header.entry_bytes / sizeof(std::uint64_t);
  return table;
}

Result<SlotTable> SlotTable::create(const SlotTableSpec& spec, int data_fd) {
  StoreHeader header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.byte_order = kByteOrder;
  header.layout_version = kStoreLayoutVersion;
  header.header_bytes = kStoreHeaderBytes;
  header.kind = spec.kind;
  header.entry_bytes = spec.entry_words * 8;
  header.unit_bytes = spec.unit_bytes;
  header.slots = spec.slots;
  header.data_bytes = spec.data_bytes.value;
  header.codec = spec.codec;
  if (auto known = identify(data_fd, header); !known) return Failure{known.error()};
  header.header_crc = header_checksum(header);

  UniqueFd fd{::memfd_create("tidepool-store-table", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!fd.valid()) return errno_failure("create", kSubject);
  if (::ftruncate(fd.get(), static_cast<off_t>(table_bytes(header))) != 0) return errno_failure("size", kSubject);
  // Nobody who gets hold of the descriptor can make our accesses fault by cutting the file short.
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return errno_failure("seal", kSubject);
  auto table = map(std::move(fd), header);
  if (table) std::memcpy(table->mapping_.data(), &header, sizeof(header));
  return table;
}

Result<SlotTable> SlotTable::open(StoreLayoutKind kind, UniqueFd table_fd, int data_fd) {
  struct stat status {};
  if (::fstat(table_fd.get(), &status) != 0) return errno_failure("inspect", kSubject);
  const int seals = ::fcntl(table_fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return refused("it is not a sealed memfd");
  StoreHeader header{};
  const ssize_t got = ::pread(table_fd.get(), &header, sizeof(header), 0);
  if (got < 0) return errno_failure("read", kSubject);
  if (static_cast<std::size_t>(got) != sizeof(header)) return refused("it is too short");
  if (auto sound = check(header, kind); !sound) return Failure{sound.error()};
  if (static_cast<std::uint64_t>(status.st_size) != table_bytes(header))
    return refused("its size does not match its header");
  StoreHeader given{};
  if (auto known = identify(data_fd, given); !known) return Failure{known.error()};
  if (given.data_device != header.data_device || given.data_inode != header.data_inode)
    return refused("the data beside it belongs to another store");
  return map(std::move(table_fd), header);
}

Bytes SlotTable::populated() const {
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) return Bytes{mapping_.size()};
  return Bytes{static_cast<std::uint64_t>(status.st_blocks) * 512};
}

void SlotTable::for_each_touched(const std::function<void(std::uint64_t, std::uint64_t)>& visit) const {
  const auto slot_at = [this](std::uint64_t offset) {
    const std::uint64_t past_header = offset < kStoreHeaderBytes ? 0 : offset - kStoreHeaderBytes;
    return std::min(past_header / header_.entry_bytes, slots());
  };
  for_each_extent(fd_.get(), Bytes{mapping_.size()}, [&](Bytes first, Bytes end) {
    if (slot_at(first.value) < slot_at(end.value)) visit(slot_at(first.value), slot_at(end.value));
  });
}

bool SlotTable::find_live(Location location, SlotWord& found) const {
  if (!well_formed(location) || slot_of(location) >= slots()) return false;
  found = load(slot_of(location));
  return found.state == SlotState::kLive && found.generation == generation_of(location);
}

Result<> SlotTable::retain(Location location) {
  SlotWord live;
  while (find_live(location, live)) {
    if (live.references >= SlotWord::kMaxReferences) return failure(std::errc::too_many_links, "retain", "stored page");
    std::uint64_t expected = live.pack();
    SlotWord next = live;
    ++next.references;
    if (word(slot_of(location)).compare_exchange_weak(expected, next.pack(), std::memory_order_acq_rel)) return {};
  }
  return failure(std::errc::invalid_argument, "retain", "stored page", "the location is not live");
}

DropResult SlotTable::drop(Location location, SlotState next_state) {
  SlotWord live;
  while (find_live(location, live)) {
    const bool last = live.references == 1;
    SlotWord next = live;
    next.references = last ? 0 : live.references - 1;
    if (last) {
      next.state = next_state;
      next.crc = 0;
      ++next.generation;
    }
    std::uint64_t expected = live.pack();
    if (word(slot_of(location)).compare_exchange_weak(expected, next.pack(), std::memory_order_acq_rel))
      return last ? DropResult::kLast : DropResult::kStillHeld;
  }
  return DropResult::kRefused;
}

}  // namespace tidepool::pool
