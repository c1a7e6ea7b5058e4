#include "daemon/vm/adopt_helper_protocol.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "kmod-interfaces/drop_ring.h"

namespace tidepool::daemon {
namespace {

static_assert(std::endian::native == std::endian::little, "messages are little-endian, as x86-64 is");

constexpr std::uint32_t kMagic = 0x41445054;  // "TPDA"
constexpr std::uint16_t kVersion = 2;
enum class Kind : std::uint16_t { take = 1, let_go = 2, acknowledgement = 3, report = 4 };
constexpr std::size_t kMaxText = 512;
constexpr auto kLongestLimit = std::chrono::minutes(10);

class Writer {
 public:
  explicit Writer(Kind kind) {
    put(kMagic);
    put(kVersion);
    put(static_cast<std::uint16_t>(kind));
    put(std::uint32_t{0});  // length, known at the end
  }

  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    data_.insert(data_.end(), bytes, bytes + sizeof value);
  }
  void put_text(std::string_view text) {
    text = text.substr(0, kMaxText);
    put(static_cast<std::uint16_t>(text.size()));
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    data_.insert(data_.end(), bytes, bytes + text.size());
  }
  std::vector<std::byte> finish() {
    const auto length = static_cast<std::uint32_t>(data_.size());
    std::memcpy(data_.data() + kLengthOffset, &length, sizeof length);
    return std::move(data_);
  }

 private:
  static constexpr std::size_t kLengthOffset = 8;
  std::vector<std::byte> data_;
};

// Reads as long as there is something; `valid` says at the end whether everything was there.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> data) : rest_(data), valid_(data.size() <= kMaxHelperMessage) {
    const auto size = data.size();
    if (get<std::uint32_t>() != kMagic || get<std::uint16_t>() != kVersion) valid_ = false;
    kind_ = static_cast<Kind>(get<std::uint16_t>());
    if (get<std::uint32_t>() != size) valid_ = false;
  }

  template <class T>
  T get() {
    T value{};
    if (rest_.size() < sizeof value) {
      valid_ = false;
      return value;
    }
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_ = rest_.subspan(sizeof value);
    return value;
  }
  std::string get_text() {
    const std::size_t length = get<std::uint16_t>();
    if (length > kMaxText || length > rest_.size()) {
      valid_ = false;
      return {};
    }
    std::string text(reinterpret_cast<const char*>(rest_.data()), length);
    rest_ = rest_.subspan(length);
    return text;
  }
  void require(bool condition) { valid_ = valid_ && condition; }
  Kind kind() const { return kind_; }
  bool valid() const { return valid_ && rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
  Kind kind_{};
  bool valid_;
};

void put_target(Writer& out, const kernel::ProcessId& id, const HelperLimits& limits) {
  out.put(std::int32_t{id.pid});
  out.put(id.start_ticks);
  out.put(std::int64_t{limits.stop.count()});
  out.put(std::int64_t{limits.call.count()});
}

void get_target(Reader& in, kernel::ProcessId& id, HelperLimits& limits) {
  id.pid = in.get<std::int32_t>();
  id.start_ticks = in.get<std::uint64_t>();
  limits.stop = Nanoseconds(in.get<std::int64_t>());
  limits.call = Nanoseconds(in.get<std::int64_t>());
  in.require(id.pid > 0 && limits.stop > Nanoseconds(0) && limits.call > Nanoseconds(0));
  in.require(limits.stop <= kLongestLimit && limits.call <= kLongestLimit);
}

HelperOrder get_take(Reader& in) {
  TakeOrder order;
  get_target(in, order.id, order.limits);
  order.userfaultfds = in.get<std::uint8_t>();
  order.ring_entries = in.get<std::uint32_t>();
  in.require(order.ring_entries == 0 ||
             (std::has_single_bit(order.ring_entries) && order.ring_entries <= kernel::kMaxDropRingEntries));
  in.require(order.userfaultfds <= 2 && (order.userfaultfds > 0 || order.ring_entries > 0));
  return order;
}

HelperOrder get_let_go(Reader& in) {
  LetGoOrder order;
  get_target(in, order.id, order.limits);
  const std::size_t count = in.get<std::uint8_t>();
  in.require(count > 0 && count <= kMaxPlacedDescriptors);
  for (std::size_t i = 0; i < count && i < kMaxPlacedDescriptors; ++i) {
    const int number = in.get<std::int32_t>();
    in.require(number >= 0 && std::ranges::find(order.numbers, number) == order.numbers.end());
    order.numbers.push_back(number);
  }
  return order;
}

struct Encode {
  std::vector<std::byte> operator()(const TakeOrder& order) const {
    Writer out(Kind::take);
    put_target(out, order.id, order.limits);
    out.put(order.userfaultfds);
    out.put(order.ring_entries);
    return out.finish();
  }
  std::vector<std::byte> operator()(const LetGoOrder& order) const {
    Writer out(Kind::let_go);
    put_target(out, order.id, order.limits);
    out.put(static_cast<std::uint8_t>(order.numbers.size()));
    for (const int number : order.numbers) out.put(std::int32_t{number});
    return out.finish();
  }
  std::vector<std::byte> operator()(const Acknowledgement&) const { return Writer(Kind::acknowledgement).finish(); }
};

}  // namespace

std::vector<std::byte> encode_order(const HelperOrder& order) {
  return std::visit(Encode{}, order);
}

Result<HelperOrder> parse_order(std::span<const std::byte> message) {
  Reader in(message);
  HelperOrder order = Acknowledgement{};
  switch (in.kind()) {
    case Kind::take:
      order = get_take(in);
      break;
    case Kind::let_go:
      order = get_let_go(in);
      break;
    case Kind::acknowledgement:
      break;
    default:
      in.require(false);
  }
  if (!in.valid()) return failure(std::errc::bad_message, "read", "order to tidepool-adopt");
  return order;
}

std::vector<std::byte> encode_report(const HelperReport& report) {
  Writer out(Kind::report);
  out.put(static_cast<std::uint32_t>(report.error ? std::max(report.error->code.value(), 1) : 0));
  out.put_text(report.error ? report.error->attempted : "");
  out.put_text(report.error ? report.error->subject : "");
  out.put_text(report.error ? report.error->remedy : "");
  out.put(std::int32_t{report.thread});
  out.put(std::int64_t{report.stopped.count()});
  for (const int number : report.userfaultfd_numbers) out.put(std::int32_t{number});
  out.put(static_cast<std::uint8_t>(report.ring_geometry ? 1 : 0));
  if (report.ring_geometry) {
    out.put(*report.ring_geometry);
    out.put(std::int32_t{report.ring_number});
  }
  out.put(report.not_ours);
  return out.finish();
}

Result<HelperReport> parse_report(std::span<const std::byte> message) {
  Reader in(message);
  in.require(in.kind() == Kind::report);
  HelperReport report;
  const auto code = in.get<std::uint32_t>();
  in.require(code < 4096);
  Error error{.code = std::error_code(static_cast<int>(code & 0xfff), std::generic_category()),
              .attempted = in.get_text(),
              .subject = in.get_text(),
              .remedy = in.get_text()};
  if (code != 0) report.error = std::move(error);
  report.thread = in.get<std::int32_t>();
  report.stopped = Nanoseconds(in.get<std::int64_t>());
  in.require(report.thread >= 0 && report.stopped >= Nanoseconds(0));
  for (int& number : report.userfaultfd_numbers) {
    number = in.get<std::int32_t>();
    in.require(number >= -1);
  }
  const auto has_ring = in.get<std::uint8_t>();
  in.require(has_ring <= 1);
  if (has_ring == 1) {
    report.ring_geometry = in.get<io_uring_params>();
    report.ring_number = in.get<std::int32_t>();
    in.require(report.ring_number >= 0);
  }
  report.not_ours = in.get<std::uint32_t>();
  if (!in.valid()) return failure(std::errc::bad_message, "read", "report of tidepool-adopt");
  return report;
}

}  // namespace tidepool::daemon
