#include "pool/client/slice_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <utility>

#include "pool/store/crc32c.h"
#include "pool/store/medium.h"
#include "pool/store/slot_word.h"

namespace tidepool::pool {
namespace {

constexpr char kSliceMagic[8] = {'T', 'D', 'S', 'L', 'I', 'C', 'E', 'S'};
constexpr std::uint32_t kSliceByteOrder = 0x01020304;
constexpr const char* kSliceTable = "table of slices";
constexpr std::uint64_t kHeaderBytes = 4096;
constexpr std::uint64_t kNameBytes = 128;
constexpr std::uint64_t kEntriesAt = kHeaderBytes + kNameBytes * kMostServers;
constexpr std::uint64_t kEntryWords = 8;
constexpr std::uint64_t kLeased = 1;  // first word of an entry

struct SliceHeader {
  char magic[8];
  std::uint32_t byte_order;
  std::uint32_t layout_version;
  std::uint32_t header_bytes;
  std::uint32_t entry_bytes;
  std::uint64_t slices;
  std::uint32_t slots_per_slice;
  protocol::HolderId holder;
  std::uint32_t crc;  // CRC32C of everything before it
};
static_assert(sizeof(SliceHeader) == 56);

struct ServerName {
  char text[120];
  std::uint32_t length;  // 0: free; written last
  std::uint32_t crc;     // CRC32C of the text
};
static_assert(sizeof(ServerName) == kNameBytes);

std::uint32_t checksum(const SliceHeader& header) {
  return crc32c(std::as_bytes(std::span(&header, 1)).first(offsetof(SliceHeader, crc)));
}
std::uint32_t checksum(const ServerName& name) {
  return crc32c(std::as_bytes(std::span(name.text)));
}

std::uint64_t size_of(const SliceTableSpec& spec) {
  return (kEntriesAt + spec.slices * kEntryWords * 8 + kPageSize - 1) / kPageSize * kPageSize;
}

bool makes_sense(const SliceTableSpec& spec) {
  return spec.slices != 0 && spec.slots_per_slice != 0 && spec.slices <= kMaxSlots / spec.slots_per_slice;
}

Failure table_refused(const char* why) {
  return failure(std::errc::invalid_argument, "open", kSliceTable, why);
}

void put(std::uint64_t* word, std::uint64_t value) {
  std::atomic_ref(*word).store(value, std::memory_order_release);
}

}  // namespace

Result<SliceTable> SliceTable::map(UniqueFd fd, const SliceTableSpec& spec) {
  auto mapping = map_for_store(fd.get(), Bytes{size_of(spec)});
  if (!mapping) return Failure{mapping.error()};
  SliceTable table;
  table.fd_ = std::move(fd);
  table.mapping_ = std::move(*mapping);
  table.spec_ = spec;
  return table;
}

Result<SliceTable> SliceTable::create(const SliceTableSpec& spec) {
  if (!makes_sense(spec))
    return failure(std::errc::invalid_argument, "create", kSliceTable, "its geometry makes no sense");
  UniqueFd fd{::memfd_create("tidepool-slices", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!fd.valid()) return errno_failure("create", kSliceTable);
  if (::ftruncate(fd.get(), static_cast<off_t>(size_of(spec))) != 0) return errno_failure("size", kSliceTable);
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return errno_failure("seal", kSliceTable);
  auto table = map(std::move(fd), spec);
  if (!table) return table;
  SliceHeader header{};
  std::memcpy(header.magic, kSliceMagic, sizeof(kSliceMagic));
  header.byte_order = kSliceByteOrder;
  header.layout_version = kSliceLayoutVersion;
  header.header_bytes = kHeaderBytes;
  header.entry_bytes = kEntryWords * 8;
  header.slices = spec.slices;
  header.slots_per_slice = spec.slots_per_slice;
  header.holder = spec.holder;
  header.crc = checksum(header);
  std::memcpy(table->mapping_.data(), &header, sizeof(header));
  return table;
}

Result<SliceTable> SliceTable::open(UniqueFd fd) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return errno_failure("inspect", kSliceTable);
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return table_refused("it is not a sealed memfd");
  SliceHeader header{};
  const ssize_t got = ::pread(fd.get(), &header, sizeof(header), 0);
  if (got < 0) return errno_failure("read", kSliceTable);
  if (static_cast<std::size_t>(got) != sizeof(header)) return table_refused("it is too short");
  if (std::memcmp(header.magic, kSliceMagic, sizeof(kSliceMagic)) != 0)
    return table_refused("it is not a table of slices");
  if (header.byte_order != kSliceByteOrder) return table_refused("it was written by a machine of the other byte order");
  if (header.crc != checksum(header)) return table_refused("its header is damaged");
  if (header.layout_version < kOldestSliceLayout || header.layout_version > kSliceLayoutVersion)
    return table_refused("its layout version is another one: use the program that wrote it");
  const SliceTableSpec spec{header.slices, header.slots_per_slice, header.holder};
  if (header.header_bytes != kHeaderBytes || header.entry_bytes != kEntryWords * 8 || !makes_sense(spec) ||
      static_cast<std::uint64_t>(status.st_size) != size_of(spec))
    return table_refused("its geometry makes no sense");
  if (header.layout_version != kSliceLayoutVersion) {
    header.layout_version = kSliceLayoutVersion;
    header.crc = checksum(header);
    // One system call: whole, whenever the process ends.
    if (::pwrite(fd.get(), &header, sizeof(header), 0) != static_cast<ssize_t>(sizeof(header)))
      return errno_failure("bring up to date", kSliceTable);
  }
  auto table = map(std::move(fd), spec);
  if (!table) return table;
  for (std::size_t number = 0; number < kMostServers; ++number) {
    ServerName found{};
    std::memcpy(&found, table->name(number), sizeof(found));
    if (found.length != 0 && (found.length > protocol::kMaxName || found.crc != checksum(found)))
      return table_refused("a server's name in it is damaged");
  }
  return table;
}

std::uint64_t* SliceTable::entry(std::uint64_t index) const {
  return reinterpret_cast<std::uint64_t*>(mapping_.data() + kEntriesAt) + index * kEntryWords;
}
std::byte* SliceTable::name(std::size_t number) const {
  return mapping_.data() + kHeaderBytes + number * kNameBytes;
}

std::vector<std::string> SliceTable::servers() const {
  std::vector<std::string> names(kMostServers);
  for (std::size_t number = 0; number < kMostServers; ++number) {
    ServerName found{};
    std::memcpy(&found, name(number), sizeof(found));
    names[number].assign(found.text, std::min<std::size_t>(found.length, protocol::kMaxName));
  }
  return names;
}

Result<std::uint8_t> SliceTable::number_of(const std::string& server) {
  if (server.empty() || server.size() > protocol::kMaxName)
    return failure(std::errc::invalid_argument, "use", "memory server " + server, "its name must have 1 to 64 bytes");
  const std::vector<std::string> names = servers();
  for (const std::string& wanted : {server, std::string()}) {
    const auto found = std::ranges::find(names, wanted);
    if (found == names.end()) continue;
    const auto number = static_cast<std::uint8_t>(found - names.begin());
    if (wanted.empty()) {
      ServerName fresh{};
      std::memcpy(fresh.text, server.data(), server.size());
      fresh.crc = checksum(fresh);
      std::memcpy(name(number), &fresh, sizeof(fresh));
      auto* length = reinterpret_cast<std::uint32_t*>(name(number) + offsetof(ServerName, length));
      std::atomic_ref(*length).store(static_cast<std::uint32_t>(server.size()), std::memory_order_release);
    }
    return number;
  }
  return failure(std::errc::no_space_on_device, "use", "memory server " + server,
                 "a VM knows at most 64 servers in its life");
}

bool SliceTable::load(std::uint64_t index, SliceEntry& found) const {
  if (index >= spec_.slices) return false;
  const std::uint64_t* words = entry(index);
  if (words[0] != kLeased) return false;
  found.id = protocol::SliceId{words[1]};
  for (unsigned i = 0; i < kReplicaPlaces; ++i) found.replicas[i] = ReplicaEntry::unpack(words[2 + i]);
  return true;
}

bool SliceTable::plausible(const SliceEntry& entry) const {
  const std::vector<std::string> names = servers();
  std::array<bool, kMostServers> seen{};
  unsigned replicas = 0;
  for (const ReplicaEntry& replica : entry.replicas) {
    if (replica.state == ReplicaState::kNone) continue;
    if (replica.state > ReplicaState::kFilling || replica.server >= kMostServers || names[replica.server].empty() ||
        seen[replica.server])
      return false;
    seen[replica.server] = true;
    ++replicas;
  }
  return replicas != 0;
}

void SliceTable::store(std::uint64_t index, const SliceEntry& fresh) {
  std::uint64_t* words = entry(index);
  put(&words[1], static_cast<std::uint64_t>(fresh.id));
  for (unsigned i = 0; i < kReplicaPlaces; ++i) put(&words[2 + i], fresh.replicas[i].pack());
  put(&words[0], kLeased);
}

void SliceTable::store_replica(std::uint64_t index, unsigned replica, ReplicaEntry fresh) {
  put(&entry(index)[2 + replica], fresh.pack());
}

void SliceTable::clear(std::uint64_t index) {
  put(&entry(index)[0], 0);
}

}  // namespace tidepool::pool
