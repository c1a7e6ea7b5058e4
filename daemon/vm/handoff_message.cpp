#include "daemon/vm/handoff_message.h"

#include <algorithm>
#include <boost/json.hpp>
#include <optional>
#include <string>

namespace tidepool::daemon {
namespace {

namespace json = boost::json;

// An array of objects of numbers.
constexpr std::size_t kMaxDepth = 3;
constexpr std::string_view kBlanks = " \t\r\n";
constexpr std::size_t kMaxKeys = 32;
// User addresses end below this with five levels of page tables (Documentation/arch/x86/x86_64/5level-paging.rst).
constexpr std::uint64_t kAddressesEnd = 1ull << 56;
constexpr std::uint64_t kLargestOffset = 1ull << 62;

json::parse_options options() {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  return options;
}

Failure malformed(const std::string& why, std::errc code = std::errc::bad_message, std::string remedy = {}) {
  return failure(code, "read", "the hand-off: " + why, std::move(remedy));
}

// One of the regions, with its number for errors.
class RegionReader {
 public:
  RegionReader(const json::object& object, std::size_t number) : object_(object), number_(number) {}

  Result<HandoffRegion> read() const {
    if (object_.size() > kMaxKeys) return wrong("it has too many fields");
    const auto base = required("base_host_virt_addr");
    if (!base) return Failure{base.error()};
    const auto size = required("size");
    if (!size) return Failure{size.error()};
    const auto offset = required("offset");
    if (!offset) return Failure{offset.error()};
    if (auto page = check_page_size(); !page) return Failure{page.error()};
    if (*size == 0) return wrong("size is 0");
    if ((*base | *size | *offset) % kPageSize != 0) return wrong("address, size and offset must be whole pages");
    if (*base == 0 || *base >= kAddressesEnd || *size > kAddressesEnd - *base)
      return wrong("no process has memory at these addresses");
    if (*offset > kLargestOffset) return wrong("no file has this offset");
    return HandoffRegion{{*base, *base + *size}, *offset};
  }

 private:
  Failure wrong(const std::string& why) const { return malformed("region " + std::to_string(number_) + ": " + why); }

  // Absent, or a number that fits.
  Result<std::optional<std::uint64_t>> number(const char* key) const {
    const json::value* value = object_.if_contains(key);
    if (value == nullptr) return std::optional<std::uint64_t>();
    if (value->is_uint64()) return std::optional(value->get_uint64());
    if (value->is_int64() && value->get_int64() >= 0)
      return std::optional(static_cast<std::uint64_t>(value->get_int64()));
    return wrong(std::string(key) + " is not a whole number from 0 to 2^64-1");
  }

  Result<std::uint64_t> required(const char* key) const {
    const auto found = number(key);
    if (!found) return Failure{found.error()};
    if (!*found) return wrong(std::string(key) + " is missing");
    return **found;
  }

  Result<> check_page_size() const {
    const auto size = number("page_size");
    if (!size) return Failure{size.error()};
    const auto old_name = number("page_size_kib");
    if (!old_name) return Failure{old_name.error()};
    if (*size && *old_name && **size != **old_name) return wrong("page_size and page_size_kib contradict each other");
    if (size->value_or(old_name->value_or(kPageSize)) != kPageSize) {
      return malformed("region " + std::to_string(number_) + " is of pages that are not of 4 KiB",
                       std::errc::not_supported, "hand off ordinary memory: hugetlb pages cannot be moved");
    }
    return {};
  }

  const json::object& object_;
  const std::size_t number_;
};

}  // namespace

struct HandoffMessage::Parser {
  json::stream_parser stream{json::storage_ptr(), options()};
  std::size_t size = 0;
  bool begun = false;
};

HandoffMessage::HandoffMessage() : parser_(std::make_unique<Parser>()) {}
HandoffMessage::HandoffMessage(HandoffMessage&&) noexcept = default;
HandoffMessage& HandoffMessage::operator=(HandoffMessage&&) noexcept = default;
HandoffMessage::~HandoffMessage() = default;

bool HandoffMessage::complete() const {
  return parser_->stream.done();
}

std::size_t HandoffMessage::size() const {
  return parser_->size;
}

Result<> HandoffMessage::add(std::string_view bytes) {
  parser_->size += bytes.size();
  if (parser_->size > kMaxHandoffMessage)
    return malformed("it is longer than " + std::to_string(kMaxHandoffMessage) + " bytes", std::errc::message_size);
  if (!complete()) {
    if (!parser_->begun) {
      bytes.remove_prefix(std::min(bytes.find_first_not_of(kBlanks), bytes.size()));
      if (bytes.empty()) return {};
      // Anything but an array is wrong from its first byte on: a number, say, would never end.
      if (bytes.front() != '[') return malformed("it is not an array");
      parser_->begun = true;
    }
    boost::system::error_code error;
    const std::size_t used = parser_->stream.write_some(bytes.data(), bytes.size(), error);
    if (error) return malformed("it is not JSON (" + error.message() + ")");
    bytes.remove_prefix(used);
  }
  if (bytes.find_first_not_of(kBlanks) != std::string_view::npos) return malformed("something follows the array");
  return {};
}

Result<std::vector<HandoffRegion>> HandoffMessage::regions() {
  if (!complete()) return malformed("it is not complete");
  const json::value document = parser_->stream.release();
  if (!document.is_array()) return malformed("it is not an array");
  const json::array& array = document.get_array();
  if (array.empty()) return malformed("it names no region");
  if (array.size() > kMaxHandoffRegions)
    return malformed("it names more than " + std::to_string(kMaxHandoffRegions) + " regions");
  std::vector<HandoffRegion> regions;
  regions.reserve(array.size());
  for (const json::value& item : array) {
    if (!item.is_object()) return malformed("region " + std::to_string(regions.size()) + " is not an object");
    auto region = RegionReader(item.get_object(), regions.size()).read();
    if (!region) return Failure{region.error()};
    regions.push_back(*region);
  }
  std::ranges::sort(regions);
  for (std::size_t i = 1; i < regions.size(); ++i) {
    if (regions[i - 1].addresses.overlaps(regions[i].addresses)) return malformed("two of its regions overlap");
  }
  return regions;
}

}  // namespace tidepool::daemon
