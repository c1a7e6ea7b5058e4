#include "pool/controller/core/records.h"

#include <array>
#include <bit>
#include <cstdio>

namespace tidepool::pool::controller {
namespace {

constexpr std::size_t kMostLives = 4096;
constexpr unsigned kSliceCountBits = 40;  // of a slice's number; above it: the cluster
constexpr std::size_t kMostStoredText = 4096;

std::string hex16(std::uint64_t value) {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(value));
  return {text.data(), 16};
}

std::string escaped(std::string_view name) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char each : name) {
    const auto byte = static_cast<unsigned char>(each);
    if (byte > ' ' && byte < 0x7f && byte != '%' && byte != '/') {
      text += each;
    } else {
      text += '%';
      text += kDigits[byte >> 4];
      text += kDigits[byte & 15];
    }
  }
  return text;
}

class Writer {
 public:
  Writer() { text_.push_back(static_cast<char>(kRecordVersion)); }
  void operator()(const std::uint64_t& value) {
    std::uint64_t left = value;
    for (; left >= 0x80; left >>= 7) text_.push_back(static_cast<char>(left | 0x80));
    text_.push_back(static_cast<char>(left));
  }
  void operator()(const std::uint32_t& value) { (*this)(std::uint64_t{value}); }
  void operator()(const std::int64_t& value) { (*this)(static_cast<std::uint64_t>(value)); }
  void operator()(const std::uint8_t& value) { text_.push_back(static_cast<char>(value)); }
  void operator()(const bool& value) { text_.push_back(value ? '\1' : '\0'); }
  void operator()(const double& value) { (*this)(std::bit_cast<std::uint64_t>(value)); }
  void operator()(const std::string& value) {
    (*this)(std::uint64_t{value.size()});
    text_ += value;
  }
  template <std::size_t size>
  void operator()(const std::array<std::uint8_t, size>& value) {
    text_.append(reinterpret_cast<const char*>(value.data()), size);
  }
  void operator()(const ReplicaPhase& value) { (*this)(static_cast<std::uint8_t>(value)); }
  void operator()(const SlicePhase& value) { (*this)(static_cast<std::uint8_t>(value)); }
  template <class Item, class Function>
  void list(const std::vector<Item>& items, std::size_t, Function&& each) {
    (*this)(std::uint64_t{items.size()});
    for (const Item& item : items) each(item);
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

// What goes wrong once stays wrong: looked at in the end.
class Reader {
 public:
  explicit Reader(std::string_view text) : left_(text) {
    if (byte() != kRecordVersion) other_version_ = true;
  }
  bool other_version() const { return other_version_; }
  bool whole() const { return good_ && left_.empty(); }

  void operator()(std::uint64_t& value) {
    value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const std::uint8_t next = byte();
      value |= std::uint64_t{next & 0x7fu} << shift;
      if ((next & 0x80) == 0) return;
    }
    good_ = false;
  }
  void operator()(std::uint32_t& value) {
    std::uint64_t wide = 0;
    (*this)(wide);
    if (wide > UINT32_MAX) good_ = false;
    value = static_cast<std::uint32_t>(wide);
  }
  void operator()(std::int64_t& value) {
    std::uint64_t raw = 0;
    (*this)(raw);
    value = static_cast<std::int64_t>(raw);
  }
  void operator()(std::uint8_t& value) { value = byte(); }
  void operator()(bool& value) { value = byte() != 0; }
  void operator()(double& value) {
    std::uint64_t raw = 0;
    (*this)(raw);
    value = std::bit_cast<double>(raw);
  }
  void operator()(std::string& value) {
    std::uint64_t size = 0;
    (*this)(size);
    if (size > left_.size() || size > kMostStoredText) {
      good_ = false;
      return;
    }
    value = left_.substr(0, size);
    left_.remove_prefix(size);
  }
  template <std::size_t size>
  void operator()(std::array<std::uint8_t, size>& value) {
    if (left_.size() < size) {
      good_ = false;
      return;
    }
    for (std::size_t i = 0; i < size; ++i) value[i] = static_cast<std::uint8_t>(left_[i]);
    left_.remove_prefix(size);
  }
  void operator()(ReplicaPhase& value) { value = limited<ReplicaPhase>(ReplicaPhase::kFreeing); }
  void operator()(SlicePhase& value) { value = limited<SlicePhase>(SlicePhase::kReleasing); }
  template <class Item, class Function>
  void list(std::vector<Item>& items, std::size_t most, Function&& each) {
    std::uint64_t size = 0;
    (*this)(size);
    if (size > most || !good_) {
      good_ = false;
      return;
    }
    items.resize(size);
    for (Item& item : items) each(item);
  }

 private:
  std::uint8_t byte() {
    if (left_.empty()) {
      good_ = false;
      return 0;
    }
    const auto value = static_cast<std::uint8_t>(left_.front());
    left_.remove_prefix(1);
    return value;
  }
  template <class Enum>
  Enum limited(Enum last) {
    const std::uint8_t value = byte();
    if (value <= static_cast<std::uint8_t>(last)) return static_cast<Enum>(value);
    good_ = false;
    return last;
  }

  std::string_view left_;
  bool good_ = true;
  bool other_version_ = false;
};

// One description of each kind for both directions.
template <class Io, class Record>
void bounds(Io& io, Record& record) {
  io(record.reservation), io(record.limit), io(record.weight);
}
template <class Io>
void fields(Io& io, auto& record, const ClusterRecord*) {
  io(record.cluster), io(record.slice_bytes);
}
template <class Io>
void fields(Io& io, auto& record, const NextRecord*) {
  io(record.slice), io(record.epoch), io(record.server);
  io(record.first_slice), io(record.unknown_from), io(record.unknown_to);
}
template <class Io>
void fields(Io& io, auto& record, const TenantRecord*) {
  io(record.name), bounds(io, record.bounds);
}
template <class Io>
void fields(Io& io, auto& record, const HostRecord*) {
  io(record.name), bounds(io, record.bounds), io(record.machine), io(record.boot), io(record.instance);
  io(record.epoch), io(record.ended_below), io(record.forgotten);
}
template <class Io>
void fields(Io& io, auto& record, const VmRecord*) {
  io(record.host), io(record.name), io(record.tenant), bounds(io, record.bounds), io(record.replicas);
  io(record.forgotten);
  io.list(record.lives, kMostLives, [&io](auto& life) { io(life.holder), io(life.since), io(life.ended); });
}
template <class Io>
void fields(Io& io, auto& record, const ServerRecord*) {
  io(record.name), io(record.number), io(record.generation), io(record.boot), io(record.address), io(record.domain);
  io(record.capacity), io(record.key), io(record.draining), io(record.left);
}
template <class Io>
void fields(Io& io, auto& record, const SliceRecord*) {
  io(record.id), io(record.holder), io(record.phase), io(record.wanted), io(record.epoch);
  io.list(record.replicas, kMostReplicaRecords,
          [&io](auto& replica) { io(replica.server), io(replica.generation), io(replica.epoch), io(replica.phase); });
  io(record.request);
}
template <class Io>
void fields(Io& io, auto& record, const HistoryEntry*) {
  io(record.number), io(record.unix_ms), io(record.actor), io(record.event), io(record.subject), io(record.text);
}

template <class Record>
std::string encoded(const Record& record) {
  Writer writer;
  fields(writer, record, &record);
  return writer.take();
}

}  // namespace

std::string key_of(const ClusterRecord&) {
  return "meta/cluster";
}
NextRecord first_numbers(std::string_view cluster) {
  std::uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char each : cluster) hash = (hash ^ static_cast<unsigned char>(each)) * 0x100000001b3ull;
  NextRecord next;
  next.first_slice = next.slice = ((hash ^ hash >> 32) & 0x7fffff) << kSliceCountBits | 1;
  return next;
}

NextRecord raised_for_restore(NextRecord next) {
  if (!next.restored()) next.unknown_from = next.slice;
  next.slice += std::uint64_t{1} << 32;
  next.epoch += std::uint64_t{1} << 32;
  next.server += 1 << 16;
  next.unknown_to = next.slice;
  return next;
}

std::string key_of(const NextRecord&) {
  return "meta/next";
}
std::string key_of(const TenantRecord& record) {
  return "tenant/" + escaped(record.name);
}
std::string key_of(const HostRecord& record) {
  return "host/" + escaped(record.name);
}
std::string key_of(const VmRecord& record) {
  return "vm/" + escaped(record.host) + '/' + escaped(record.name);
}
std::string key_of(const ServerRecord& record) {
  return "server/" + escaped(record.name);
}
std::string key_of(const SliceRecord& record) {
  return "slice/" + hex16(record.id);
}
std::string key_of(const HistoryEntry& record) {
  return "history/" + hex16(record.number);
}

std::string encode(const ClusterRecord& record) {
  return encoded(record);
}
std::string encode(const NextRecord& record) {
  return encoded(record);
}
std::string encode(const TenantRecord& record) {
  return encoded(record);
}
std::string encode(const HostRecord& record) {
  return encoded(record);
}
std::string encode(const VmRecord& record) {
  return encoded(record);
}
std::string encode(const ServerRecord& record) {
  return encoded(record);
}
std::string encode(const SliceRecord& record) {
  return encoded(record);
}
std::string encode(const HistoryEntry& record) {
  return encoded(record);
}

template <class Record>
Result<Record> decode(std::string_view key, std::string_view value) {
  Reader reader(value);
  if (reader.other_version())
    return failure(std::errc::not_supported, "read the record", std::string(key),
                   "it is of a version that this program does not know: use the program that wrote it, or a newer one");
  Record record;
  fields(reader, record, &record);
  if (!reader.whole() || key_of(record) != key)
    return failure(std::errc::bad_message, "read the record", std::string(key), "it is damaged: restore a backup");
  return record;
}

template Result<ClusterRecord> decode(std::string_view, std::string_view);
template Result<NextRecord> decode(std::string_view, std::string_view);
template Result<TenantRecord> decode(std::string_view, std::string_view);
template Result<HostRecord> decode(std::string_view, std::string_view);
template Result<VmRecord> decode(std::string_view, std::string_view);
template Result<ServerRecord> decode(std::string_view, std::string_view);
template Result<SliceRecord> decode(std::string_view, std::string_view);
template Result<HistoryEntry> decode(std::string_view, std::string_view);

}  // namespace tidepool::pool::controller
