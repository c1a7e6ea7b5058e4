#include "pool/protocol/codec.h"

#include <bit>
#include <type_traits>

namespace tidepool::protocol {
namespace {

static_assert(std::endian::native == std::endian::little, "integers are copied as they lie in memory");

// Writes fields one after the other into room that was made for all of them.
class Writer {
 public:
  Writer(Buffer& out, std::size_t bytes) {
    const std::size_t at = out.size();
    out.resize(at + bytes);
    next_ = out.data() + at;
  }
  explicit Writer(std::byte* at) : next_(at) {}

  template <class T>
  Writer& put(const T& value) {
    static_assert(std::has_unique_object_representations_v<T>, "padding would be sent");
    std::memcpy(next_, &value, sizeof value);
    next_ += sizeof value;
    return *this;
  }
  Writer& put(std::string_view text) {
    if (!text.empty()) std::memcpy(next_, text.data(), text.size());
    next_ += text.size();
    return *this;
  }

 private:
  std::byte* next_;
};

// Reads fields of a part whose length was checked before.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : next_(bytes.data()) {}

  template <class T>
  T get() {
    T value;
    std::memcpy(&value, next_, sizeof value);
    next_ += sizeof value;
    return value;
  }

 private:
  const std::byte* next_;
};

void put_header(Writer& writer, const Header& header) {
  writer.put(kMagic).put(header.type).put(header.flags).put(header.body_bytes).put(header.status).put(header.id);
}

// A frame's header, and a writer for the part of its body that is of `here` bytes; `follows` bytes are sent from
// elsewhere.
Writer begin(Buffer& out, MessageType type, std::uint16_t flags, std::uint64_t id, std::size_t here,
             std::size_t follows = 0) {
  Writer writer(out, kHeaderBytes + here);
  put_header(writer,
             {.type = type, .flags = flags, .body_bytes = static_cast<std::uint32_t>(here + follows), .id = id});
  return writer;
}

void put_claims(Writer& writer, const Claims& claims) {
  writer.put(kClaimsForm).put(std::uint32_t{0}).put(claims.slice).put(claims.holder).put(claims.epoch);
  writer.put(claims.slots).put(claims.rights).put(claims.lease_ms);
}

void put_scope(Writer& writer, const Scope& scope) {
  writer.put(scope.slice).put(scope.epoch).put(scope.boot);
}

Scope get_scope(Reader& reader) {
  Scope scope;
  scope.slice = reader.get<SliceId>();
  scope.epoch = reader.get<LeaseEpoch>();
  scope.boot = reader.get<BootId>();
  return scope;
}

void put_count(Writer& writer, std::size_t count) {
  writer.put(static_cast<std::uint32_t>(count)).put(std::uint32_t{0});
}

template <class Entry>
constexpr std::size_t kBytesOf = 0;
template <>
constexpr std::size_t kBytesOf<ReadEntry> = kReadEntryBytes;
template <>
constexpr std::size_t kBytesOf<ReadAnswer> = kReadAnswerBytes;
template <>
constexpr std::size_t kBytesOf<WriteEntry> = kWriteEntryBytes;
template <>
constexpr std::size_t kBytesOf<DiscardEntry> = kDiscardEntryBytes;
template <>
constexpr std::size_t kBytesOf<ItemStatus> = kItemStatusBytes;

void get(Reader reader, ReadEntry& entry) {
  entry.slot = reader.get<std::uint32_t>();
}
void get(Reader reader, ReadAnswer& entry) {
  entry.slot = reader.get<std::uint32_t>();
  entry.status = static_cast<ErrorCode>(reader.get<std::uint16_t>());
  entry.length = reader.get<std::uint16_t>();
  entry.version = reader.get<std::uint64_t>();
  entry.tag = reader.get<Tag>();
}
void get(Reader reader, WriteEntry& entry) {
  entry.slot = reader.get<std::uint32_t>();
  static_cast<void>(reader.get<std::uint16_t>());
  entry.length = reader.get<std::uint16_t>();
  entry.version = reader.get<std::uint64_t>();
  entry.tag = reader.get<Tag>();
}
void get(Reader reader, DiscardEntry& entry) {
  entry.slot = reader.get<std::uint32_t>();
  static_cast<void>(reader.get<std::uint32_t>());
  entry.version = reader.get<std::uint64_t>();
}
void get(Reader reader, ItemStatus& entry) {
  entry.slot = reader.get<std::uint32_t>();
  entry.status = reader.get<ErrorCode>();
}

struct Counted {
  std::span<const std::byte> entries;
  std::span<const std::byte> rest;
};

// The count at the front of `bytes`, the entries that it promises, and what is behind them.
std::optional<Counted> take_entries(std::span<const std::byte> bytes, std::size_t entry_bytes) {
  if (bytes.size() < kCountBytes) return std::nullopt;
  const auto count = Reader(bytes).get<std::uint32_t>();
  bytes = bytes.subspan(kCountBytes);
  if (count == 0 || count > kMaxPagesPerFrame || bytes.size() < count * entry_bytes) return std::nullopt;
  return Counted{bytes.first(count * entry_bytes), bytes.subspan(count * entry_bytes)};
}

// Entries and nothing behind them.
template <class Entry>
std::optional<EntryView<Entry>> parse_entries(std::span<const std::byte> bytes) {
  const auto parts = take_entries(bytes, kBytesOf<Entry>);
  if (!parts || !parts->rest.empty()) return std::nullopt;
  return EntryView<Entry>(parts->entries);
}

bool in_order(const WriteEntry& entry) {
  return entry.length <= kSlotBytes;
}
bool in_order(const ReadAnswer& entry) {
  return entry.length <= (entry.status == ErrorCode::kOk ? kSlotBytes : 0);
}

template <class Entry>
std::optional<PageView<Entry>> parse_pages(std::span<const std::byte> bytes) {
  const auto parts = take_entries(bytes, kBytesOf<Entry>);
  if (!parts) return std::nullopt;
  const EntryView<Entry> entries(parts->entries);
  std::size_t payloads = 0;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const Entry entry = entries[i];
    if (!in_order(entry)) return std::nullopt;
    payloads += entry.length;
  }
  if (payloads != parts->rest.size()) return std::nullopt;
  return PageView<Entry>(entries, parts->rest);
}

template <class Entry>
std::size_t payload_bytes(std::span<const Entry> entries) {
  std::size_t bytes = 0;
  for (const Entry& entry : entries) bytes += entry.length;
  return bytes;
}

}  // namespace

template <class Entry>
std::size_t EntryView<Entry>::size() const {
  return bytes_.size() / kBytesOf<Entry>;
}
template <class Entry>
Entry EntryView<Entry>::operator[](std::size_t index) const {
  Entry entry;
  get(Reader(bytes_.subspan(index * kBytesOf<Entry>, kBytesOf<Entry>)), entry);
  return entry;
}
template class EntryView<ReadEntry>;
template class EntryView<ReadAnswer>;
template class EntryView<WriteEntry>;
template class EntryView<DiscardEntry>;
template class EntryView<ItemStatus>;

void append_header(Buffer& out, const Header& header) {
  Writer writer(out, kHeaderBytes);
  put_header(writer, header);
}

std::optional<Header> parse_header(std::span<const std::byte> bytes) {
  if (bytes.size() < kHeaderBytes) return std::nullopt;
  Reader reader(bytes);
  if (reader.get<std::uint32_t>() != kMagic) return std::nullopt;
  Header header;
  header.type = reader.get<MessageType>();
  header.flags = reader.get<std::uint16_t>();
  header.body_bytes = reader.get<std::uint32_t>();
  header.status = reader.get<ErrorCode>();
  header.id = reader.get<std::uint64_t>();
  if (header.body_bytes > kMaxBodyBytes) return std::nullopt;
  return header;
}

void append_hello(Buffer& out, std::uint64_t id, const Hello& hello) {
  begin(out, MessageType::kHello, 0, id, kHelloBytes)
      .put(hello.lowest_version)
      .put(hello.highest_version)
      .put(hello.features)
      .put(hello.random);
}

std::optional<Hello> parse_hello(std::span<const std::byte> body) {
  if (body.size() < kHelloBytes) return std::nullopt;
  Reader reader(body);
  Hello hello;
  hello.lowest_version = reader.get<std::uint16_t>();
  hello.highest_version = reader.get<std::uint16_t>();
  hello.features = reader.get<std::uint32_t>();
  hello.random = reader.get<Random>();
  if (hello.lowest_version > hello.highest_version) return std::nullopt;
  return hello;
}

void append_welcome(Buffer& out, std::uint64_t id, const Welcome& welcome) {
  const std::string_view name = std::string_view(welcome.name).substr(0, kMaxName);
  begin(out, MessageType::kWelcome, kAnswerFlag, id, kWelcomeBytes + name.size())
      .put(welcome.version)
      .put(static_cast<std::uint16_t>(name.size()))
      .put(welcome.features)
      .put(welcome.random)
      .put(welcome.boot)
      .put(welcome.max_pages_per_frame)
      .put(welcome.credit_pages)
      .put(name);
}

std::optional<Welcome> parse_welcome(std::span<const std::byte> body) {
  if (body.size() < kWelcomeBytes) return std::nullopt;
  Reader reader(body);
  Welcome welcome;
  welcome.version = reader.get<std::uint16_t>();
  const auto name_bytes = reader.get<std::uint16_t>();
  welcome.features = reader.get<std::uint32_t>();
  welcome.random = reader.get<Random>();
  welcome.boot = reader.get<BootId>();
  welcome.max_pages_per_frame = reader.get<std::uint32_t>();
  welcome.credit_pages = reader.get<std::uint32_t>();
  if (name_bytes > kMaxName || name_bytes > body.size() - kWelcomeBytes) return std::nullopt;
  if (welcome.max_pages_per_frame < kMaxPagesPerFrame) return std::nullopt;
  welcome.name.assign(reinterpret_cast<const char*>(body.data()) + kWelcomeBytes, name_bytes);
  return welcome;
}

std::array<std::byte, kClaimsBytes> claims_bytes(const Claims& claims) {
  std::array<std::byte, kClaimsBytes> bytes{};
  Writer writer(bytes.data());
  put_claims(writer, claims);
  return bytes;
}

void append_attach(Buffer& out, std::uint64_t id, const Attach& attach) {
  Writer writer = begin(out, MessageType::kAttach, 0, id, kAttachBytes);
  put_claims(writer, attach.claims);
  writer.put(attach.proof);
}

std::optional<Attach> parse_attach(std::span<const std::byte> body) {
  if (body.size() < kAttachBytes) return std::nullopt;
  Reader reader(body);
  // Claims are signed as a whole: what could not be repeated from the fields is refused.
  if (reader.get<std::uint32_t>() != kClaimsForm || reader.get<std::uint32_t>() != 0) return std::nullopt;
  Attach attach;
  attach.claims.slice = reader.get<SliceId>();
  attach.claims.holder = reader.get<HolderId>();
  attach.claims.epoch = reader.get<LeaseEpoch>();
  attach.claims.slots = reader.get<std::uint32_t>();
  attach.claims.rights = reader.get<std::uint32_t>();
  attach.claims.lease_ms = reader.get<std::uint64_t>();
  attach.proof = reader.get<Proof>();
  return attach;
}

constexpr std::uint32_t kCreatedFlag = 1;
constexpr std::uint32_t kWithFileFlag = 2;

void append_attached(Buffer& out, std::uint64_t id, const Attached& attached) {
  begin(out, MessageType::kAttach, kAnswerFlag, id, kAttachedBytes)
      .put(attached.slice)
      .put(attached.epoch)
      .put(attached.slots)
      .put((attached.created ? kCreatedFlag : 0u) | (attached.with_file ? kWithFileFlag : 0u));
}

std::optional<Attached> parse_attached(std::span<const std::byte> body) {
  if (body.size() < kAttachedBytes) return std::nullopt;
  Reader reader(body);
  Attached attached;
  attached.slice = reader.get<SliceId>();
  attached.epoch = reader.get<LeaseEpoch>();
  attached.slots = reader.get<std::uint32_t>();
  const auto flags = reader.get<std::uint32_t>();
  attached.created = (flags & kCreatedFlag) != 0;
  attached.with_file = (flags & kWithFileFlag) != 0;
  return attached;
}

void append_release(Buffer& out, std::uint64_t id, const Scope& scope) {
  Writer writer = begin(out, MessageType::kRelease, 0, id, kScopeBytes);
  put_scope(writer, scope);
}

std::optional<Scope> parse_release(std::span<const std::byte> body) {
  if (body.size() < kScopeBytes) return std::nullopt;
  Reader reader(body);
  return get_scope(reader);
}

void append_ping(Buffer& out, std::uint64_t id) {
  begin(out, MessageType::kPing, 0, id, 0);
}
void append_draining(Buffer& out) {
  begin(out, MessageType::kDraining, 0, 0, 0);
}

void append_credit(Buffer& out, const Credit& credit) {
  begin(out, MessageType::kCredit, 0, 0, kCreditBytes).put(credit.credit_pages).put(std::uint32_t{0});
}

std::optional<Credit> parse_credit(std::span<const std::byte> body) {
  if (body.size() < kCreditBytes) return std::nullopt;
  return Credit{Reader(body).get<std::uint32_t>()};
}

void append_answer(Buffer& out, MessageType type, std::uint64_t id, ErrorCode status) {
  append_header(out, {.type = type, .flags = kAnswerFlag, .status = status, .id = id});
}

void append_read(Buffer& out, std::uint64_t id, const Scope& scope, std::span<const ReadEntry> entries) {
  Writer writer = begin(out, MessageType::kRead, 0, id, kScopeBytes + kCountBytes + entries.size() * kReadEntryBytes);
  put_scope(writer, scope);
  put_count(writer, entries.size());
  for (const ReadEntry& entry : entries) writer.put(entry.slot);
}

std::optional<ReadMessage> parse_read(std::span<const std::byte> body) {
  if (body.size() < kScopeBytes) return std::nullopt;
  const auto entries = parse_entries<ReadEntry>(body.subspan(kScopeBytes));
  if (!entries) return std::nullopt;
  Reader reader(body);
  return ReadMessage{get_scope(reader), *entries};
}

void append_read_answer(Buffer& out, std::uint64_t id, std::span<const ReadAnswer> entries) {
  Writer writer = begin(out, MessageType::kRead, kAnswerFlag, id, kCountBytes + entries.size() * kReadAnswerBytes,
                        payload_bytes(entries));
  put_count(writer, entries.size());
  for (const ReadAnswer& entry : entries) {
    writer.put(entry.slot).put(static_cast<std::uint16_t>(entry.status)).put(entry.length);
    writer.put(entry.version).put(entry.tag);
  }
}

std::optional<PageView<ReadAnswer>> parse_read_answer(std::span<const std::byte> body) {
  return parse_pages<ReadAnswer>(body);
}

void append_write(Buffer& out, std::uint64_t id, const Scope& scope, std::span<const WriteEntry> entries) {
  Writer writer = begin(out, MessageType::kWrite, 0, id, kScopeBytes + kCountBytes + entries.size() * kWriteEntryBytes,
                        payload_bytes(entries));
  put_scope(writer, scope);
  put_count(writer, entries.size());
  for (const WriteEntry& entry : entries) {
    writer.put(entry.slot).put(std::uint16_t{0}).put(entry.length).put(entry.version).put(entry.tag);
  }
}

std::optional<WriteMessage> parse_write(std::span<const std::byte> body) {
  if (body.size() < kScopeBytes) return std::nullopt;
  const auto pages = parse_pages<WriteEntry>(body.subspan(kScopeBytes));
  if (!pages) return std::nullopt;
  Reader reader(body);
  return WriteMessage{get_scope(reader), *pages};
}

void append_discard(Buffer& out, std::uint64_t id, const Scope& scope, std::span<const DiscardEntry> entries) {
  Writer writer =
      begin(out, MessageType::kDiscard, 0, id, kScopeBytes + kCountBytes + entries.size() * kDiscardEntryBytes);
  put_scope(writer, scope);
  put_count(writer, entries.size());
  for (const DiscardEntry& entry : entries) writer.put(entry.slot).put(std::uint32_t{0}).put(entry.version);
}

std::optional<DiscardMessage> parse_discard(std::span<const std::byte> body) {
  if (body.size() < kScopeBytes) return std::nullopt;
  const auto entries = parse_entries<DiscardEntry>(body.subspan(kScopeBytes));
  if (!entries) return std::nullopt;
  Reader reader(body);
  return DiscardMessage{get_scope(reader), *entries};
}

void append_item_statuses(Buffer& out, MessageType type, std::uint64_t id, std::span<const ItemStatus> items) {
  Writer writer = begin(out, type, kAnswerFlag, id, kCountBytes + items.size() * kItemStatusBytes);
  put_count(writer, items.size());
  for (const ItemStatus& item : items) writer.put(item.slot).put(item.status);
}

std::optional<EntryView<ItemStatus>> parse_item_statuses(std::span<const std::byte> body) {
  return parse_entries<ItemStatus>(body);
}

}  // namespace tidepool::protocol
