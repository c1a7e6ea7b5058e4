// Identities as types.
#pragma once

#include <compare>
#include <cstdint>

namespace tidepool {

// One adopted VM or process within one agent's life. Never reused while the agent runs.
struct VmId {
  std::uint32_t value = 0;
  constexpr auto operator<=>(const VmId&) const = default;
};

// A page of a VM's memory, counted from the start of its page map. Stable for the VM's life, whatever happens to
// addresses.
struct PageIndex {
  std::uint64_t value = 0;
  constexpr auto operator<=>(const PageIndex&) const = default;
};

// Consecutive pages [first, first + count).
struct PageRun {
  PageIndex first;
  std::uint64_t count = 0;
  constexpr auto operator<=>(const PageRun&) const = default;
  constexpr std::uint64_t end() const { return first.value + count; }
};

}  // namespace tidepool
