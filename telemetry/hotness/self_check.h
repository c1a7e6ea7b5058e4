// Whether a tracker sees what it says: two stretches of our own memory, of which one is touched before every look and
// one is left alone. A tracker that sees it otherwise several times in a row does not see the truth here.
#pragma once

#include <cstdint>
#include <string>

#include "base/mapping.h"
#include "base/result.h"
#include "base/units.h"

namespace tidepool::telemetry {

class SelfCheck {
 public:
  static constexpr unsigned kTolerated = 3;  // wrong answers in a row

  // `each` is the size of one stretch, a multiple of the page size; both are present, private, and never in 2 MiB
  // pages.
  static Result<SelfCheck> create(Bytes each = Bytes{kPageSize});

  AddressRange used() const;  // addresses in this process
  AddressRange idle() const;

  // Writes to every page of used().
  void touch();
  // What the tracker found, of a look that began before touch() and ended after it.
  void judge(bool used_was_seen, bool idle_was_seen);

  bool trusted() const { return in_a_row_ < kTolerated; }
  std::uint64_t failures() const { return failures_; }
  std::uint64_t judged() const { return judged_; }
  // For TrackerInfo::why_not: what went wrong last.
  std::string verdict() const;

 private:
  explicit SelfCheck(Mapping memory, Bytes each) : memory_(std::move(memory)), each_(each) {}
  std::byte* stretch(std::uint64_t number) const;
  AddressRange range_of(std::uint64_t number) const;

  Mapping memory_;  // a guard page's worth of untouched memory lies between the two
  Bytes each_;
  unsigned in_a_row_ = 0;
  std::uint64_t failures_ = 0;
  std::uint64_t judged_ = 0;
  bool missed_use_ = false;
};

}  // namespace tidepool::telemetry
