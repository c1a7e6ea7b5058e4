// The content of a block of samples, written and read: each sample as its difference from the one before. Internal to
// telemetry/trace. docs/trace-format.md describes the bytes.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "policy/access_sample.h"
#include "telemetry/trace/trace_block.h"

namespace tidepool::telemetry {

// Well formed, and on a monotonic clock's side of zero: differences of such times never overflow.
constexpr bool traceable(const policy::AccessSample& sample) {
  return policy::well_formed(sample) && sample.since >= MonoTime{};
}

// What both sides know of the sample before. At the start of each block it is this.
struct SampleState {
  MonoTime round{};
  policy::AccessSample sample{};
};

class SampleEncoder {
 public:
  // The largest that one call can add.
  static constexpr std::size_t kMostPerRecord = 96;

  void round(MonoTime at);
  // Traceable.
  void sample(const policy::AccessSample& sample);

  const std::string& content() const { return content_; }
  // A block begins.
  void clear() { content_.clear(), state_ = {}; }

 private:
  std::string content_;
  SampleState state_;
};

struct RoundBegins {
  MonoTime at;
};

class SampleDecoder {
 public:
  explicit SampleDecoder(std::string_view content) : cursor_(content) {}
  bool at_end() const { return cursor_.at_end(); }
  // Fails when the content makes no sense; what then is damaged or malicious, for its checksum was right.
  std::optional<std::variant<RoundBegins, policy::AccessSample>> next();

 private:
  std::optional<policy::AccessSample> sample(std::uint32_t flags);

  ByteCursor cursor_;
  SampleState state_;
};

}  // namespace tidepool::telemetry
