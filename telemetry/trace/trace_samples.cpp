#include "telemetry/trace/trace_samples.h"

#include <bit>
#include <limits>

namespace tidepool::telemetry {
namespace {

using policy::AccessSample;

// The first byte of a record. Its lowest two bits: what the sample's tracker sees, or that a round begins.
constexpr std::uint32_t kKindMask = 3;
constexpr std::uint32_t kRoundBegins = 3;
constexpr std::uint32_t kEvents = 1 << 2;
constexpr std::uint32_t kFarPages = 1 << 3;
// What differs from the sample before, and is therefore told.
constexpr std::uint32_t kOtherObject = 1 << 4;
constexpr std::uint32_t kOtherTimes = 1 << 5;
constexpr std::uint32_t kOtherConfidence = 1 << 6;
constexpr std::uint32_t kOtherCount = 1 << 7;

// Differences wrap, on both sides alike: no value overflows.
std::int64_t difference(std::uint64_t now, std::uint64_t before) {
  return static_cast<std::int64_t>(now - before);
}
std::int64_t difference(MonoTime now, MonoTime before) {
  return difference(static_cast<std::uint64_t>(now.since_boot.count()),
                    static_cast<std::uint64_t>(before.since_boot.count()));
}
std::uint64_t moved(std::uint64_t before, std::int64_t by) {
  return before + static_cast<std::uint64_t>(by);
}
MonoTime moved(MonoTime before, std::int64_t by) {
  return MonoTime{
      Nanoseconds{static_cast<std::int64_t>(moved(static_cast<std::uint64_t>(before.since_boot.count()), by))}};
}

}  // namespace

void SampleEncoder::round(MonoTime at) {
  content_ += static_cast<char>(kRoundBegins);
  put_signed(content_, difference(at, state_.round));
  state_.round = at;
}

void SampleEncoder::sample(const AccessSample& sample) {
  const AccessSample& before = state_.sample;
  std::uint32_t flags = static_cast<std::uint32_t>(sample.sees) & kKindMask;
  const auto flag = [&](bool set, std::uint32_t bit) { flags |= set ? bit : 0; };
  flag(sample.evidence == policy::Evidence::kEvents, kEvents);
  flag(sample.far, kFarPages);
  flag(sample.object.object != before.object.object, kOtherObject);
  flag(sample.since != before.since || sample.until != before.until || sample.window != before.window, kOtherTimes);
  flag(std::bit_cast<std::uint32_t>(sample.confidence) != std::bit_cast<std::uint32_t>(before.confidence),
       kOtherConfidence);
  flag(sample.pages.count != before.pages.count, kOtherCount);
  content_ += static_cast<char>(flags);
  if ((flags & kOtherObject) != 0) put_varint(content_, sample.object.object);
  if ((flags & kOtherTimes) != 0) {
    put_signed(content_, difference(sample.until, before.until));
    put_signed(content_, difference(sample.until, sample.since));
    put_signed(content_, sample.window.count());
  }
  if ((flags & kOtherConfidence) != 0) put_u32(content_, std::bit_cast<std::uint32_t>(sample.confidence));
  put_signed(content_, difference(sample.pages.first.value, before.pages.end()));
  if ((flags & kOtherCount) != 0) put_varint(content_, sample.pages.count);
  put_varint(content_, sample.watched);
  put_varint(content_, sample.used);
  state_.sample = sample;
}

std::optional<std::variant<RoundBegins, AccessSample>> SampleDecoder::next() {
  const std::string_view first = cursor_.bytes(1);
  if (cursor_.failed()) return std::nullopt;
  const auto flags = static_cast<std::uint32_t>(static_cast<unsigned char>(first.front()));
  if ((flags & kKindMask) == kRoundBegins) {
    if (flags != kRoundBegins) return std::nullopt;
    state_.round = moved(state_.round, cursor_.signed_varint());
    if (cursor_.failed() || state_.round < MonoTime{}) return std::nullopt;
    return RoundBegins{state_.round};
  }
  const auto read = sample(flags);
  if (!read) return std::nullopt;
  return *read;
}

std::optional<AccessSample> SampleDecoder::sample(std::uint32_t flags) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint32_t>::max();
  const AccessSample& before = state_.sample;
  AccessSample sample = before;
  sample.sees = static_cast<policy::Sees>(flags & kKindMask);
  sample.evidence = (flags & kEvents) != 0 ? policy::Evidence::kEvents : policy::Evidence::kLooks;
  sample.far = (flags & kFarPages) != 0;
  const auto number = [&] {
    const std::uint64_t value = cursor_.varint();
    if (value > kMost) cursor_.fail();
    return static_cast<std::uint32_t>(value);
  };
  if ((flags & kOtherObject) != 0) sample.object.object = number();
  if ((flags & kOtherTimes) != 0) {
    sample.until = moved(before.until, cursor_.signed_varint());
    sample.since = moved(sample.until, difference(0, static_cast<std::uint64_t>(cursor_.signed_varint())));
    sample.window = Nanoseconds{cursor_.signed_varint()};
  }
  if ((flags & kOtherConfidence) != 0) sample.confidence = std::bit_cast<float>(cursor_.u32());
  sample.pages.first.value = moved(before.pages.end(), cursor_.signed_varint());
  if ((flags & kOtherCount) != 0) sample.pages.count = cursor_.varint();
  sample.watched = number();
  sample.used = number();
  if (cursor_.failed() || !traceable(sample)) return std::nullopt;
  state_.sample = sample;
  return sample;
}

}  // namespace tidepool::telemetry
