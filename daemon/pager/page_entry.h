// One page's state, in 64 bits that are read and exchanged atomically.
//
//   bits  0..3   state
//   bit   4      value: the payload is a repeated 32-bit pattern, not a location (zero and same-filled pages need no
//                store)
//   bit   5      discarded: the guest gave the page back while it was on the move; what was stored must not come back
//   bit   6      incompressible: the store refused it; not worth another try until it has been written
//   bit   7      held: the fault loop is about to change the page's protection or content; no demotion may freeze it
//                meanwhile. Without this, an unprotect that was decided before a freeze could land after it, and a
//                write would go unseen and be lost. Of a dropping page: it was far before, counts as far, and is
//                dropped only because it lies between others
//   bits  8..47  payload: a store location (pool::Location) or a pattern
//   bits 48..63  age (policy/page_age.h); while the page is demoting: ticket of the demotion that froze it, so that an
//   old
//                demotion cannot finish a newer one's work, and the payload keeps the age's interval
//
// Who may change what: demotion threads move resident -> demoting -> dropping -> far, and far -> dropping -> far.
// Everything else (cancelling a demotion, far -> fetching -> resident, discarding, excluding) belongs to the fault loop
// that owns the VM. Every change is a compare-and-swap of the whole entry.
#pragma once

#include <cstdint>
#include <string_view>

#include "policy/page_age.h"
#include "pool/store/page_store.h"

namespace tidepool::daemon {

using policy::PageAge;

enum class PageState : std::uint8_t {
  kUntouched = 0,  // never seen present: a hole that reads zero
  kResident = 1,
  kResidentClean = 2,  // write-protected, and the far copy (payload) is still valid
  kDemoting = 3,       // write-protected, being copied; a write cancels
  kDropping = 4,       // stored (payload), being dropped; faults wait for the drop
  kFar = 5,
  kFetching = 6,  // far, and a read of the payload is under way
  kReleased = 7,  // the guest gave it back: reads zero
  kExcluded = 8,  // no page of the VM's (alignment gaps, unmapped ranges), or one that must never move
};
inline constexpr unsigned kPageStateCount = 9;

std::string_view to_string(PageState state);

class PageEntry {
 public:
  constexpr PageEntry() = default;
  explicit constexpr PageEntry(std::uint64_t raw) : raw_(raw) {}

  static constexpr PageEntry plain(PageState state) { return PageEntry{static_cast<std::uint64_t>(state)}; }
  static constexpr PageEntry stored(PageState state, pool::Location location) {
    return PageEntry{static_cast<std::uint64_t>(state) | (static_cast<std::uint64_t>(location) << kPayloadShift)};
  }
  static constexpr PageEntry value(PageState state, std::uint32_t pattern) {
    return PageEntry{static_cast<std::uint64_t>(state) | kValueBit |
                     (static_cast<std::uint64_t>(pattern) << kPayloadShift)};
  }
  static constexpr PageEntry demoting(std::uint16_t ticket, unsigned interval) {
    return PageEntry{static_cast<std::uint64_t>(PageState::kDemoting) |
                     (static_cast<std::uint64_t>(interval) << kPayloadShift) |
                     (static_cast<std::uint64_t>(ticket) << kAgeShift)};
  }

  constexpr std::uint64_t raw() const { return raw_; }
  constexpr PageState state() const { return static_cast<PageState>(raw_ & 0xf); }
  constexpr bool is_value() const { return (raw_ & kValueBit) != 0; }
  constexpr bool discarded() const { return (raw_ & kDiscardedBit) != 0; }
  constexpr bool incompressible() const { return (raw_ & kIncompressibleBit) != 0; }
  constexpr bool held() const { return (raw_ & kHeldBit) != 0; }
  constexpr bool dropped_along() const { return state() == PageState::kDropping && held(); }
  constexpr std::uint16_t ticket() const { return static_cast<std::uint16_t>(raw_ >> kAgeShift); }
  constexpr PageAge age() const {
    return state() == PageState::kDemoting ? PageAge{} : PageAge{static_cast<std::uint16_t>(raw_ >> kAgeShift)};
  }
  constexpr unsigned interval() const {  // of its age
    return state() == PageState::kDemoting ? static_cast<unsigned>(payload()) : age().interval();
  }
  constexpr pool::Location location() const { return pool::Location{payload()}; }
  constexpr std::uint32_t pattern() const { return static_cast<std::uint32_t>(payload()); }
  // True when the payload names a page in the store.
  constexpr bool holds_location() const {
    const PageState s = state();
    return !is_value() && (s == PageState::kFar || s == PageState::kDropping || s == PageState::kFetching ||
                           s == PageState::kResidentClean);
  }

  constexpr PageEntry with_state(PageState state) const {
    return PageEntry{(raw_ & ~0xfull) | static_cast<std::uint64_t>(state)};
  }
  constexpr PageEntry with_age(PageAge age) const {
    return PageEntry{(raw_ & ~(0xffffull << kAgeShift)) | (static_cast<std::uint64_t>(age.raw()) << kAgeShift)};
  }
  constexpr PageEntry with_discarded() const { return PageEntry{raw_ | kDiscardedBit}; }
  constexpr PageEntry with_incompressible() const { return PageEntry{raw_ | kIncompressibleBit}; }
  constexpr PageEntry with_held() const { return PageEntry{raw_ | kHeldBit}; }

  constexpr PageEntry without_held() const { return PageEntry{raw_ & ~std::uint64_t{kHeldBit}}; }

  constexpr bool operator==(const PageEntry&) const = default;

 private:
  static constexpr unsigned kPayloadShift = 8;
  static constexpr unsigned kAgeShift = 48;
  static constexpr std::uint64_t kValueBit = 1u << 4;
  static constexpr std::uint64_t kDiscardedBit = 1u << 5;
  static constexpr std::uint64_t kIncompressibleBit = 1u << 6;
  static constexpr std::uint64_t kHeldBit = 1u << 7;

  constexpr std::uint64_t payload() const { return (raw_ >> kPayloadShift) & ((1ull << pool::kLocationBits) - 1); }

  std::uint64_t raw_ = 0;
};
static_assert(sizeof(PageEntry) == 8);

}  // namespace tidepool::daemon
