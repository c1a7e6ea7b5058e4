// What the agent and tidepool-adopt say to each other: one order, one report, and for a foothold one acknowledgement,
// each a message of a SOCK_SEQPACKET pair. Little-endian, versioned, every length checked; userfaultfds travel beside
// the report, and beside an order to let go, one per number. A ring does not travel: since Linux 6.8 the kernel refuses
// to send io_urings over sockets (EINVAL), so the report names it, and the agent takes it with pidfd_getfd(2).
//
// Both ends come from one build, but the helper is privileged and the agent is not trusted by it more than its orders
// need: parsing is total over any bytes.
#pragma once

#include <linux/io_uring.h>
#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "kmod-interfaces/process.h"

namespace tidepool::daemon {

inline constexpr std::size_t kMaxHelperMessage = 4096;
inline constexpr std::size_t kMaxPlacedDescriptors = 4;

// How long the helper may wait at most: for the thread to stop, and for each call made in it.
struct HelperLimits {
  Nanoseconds stop{0};
  Nanoseconds call{0};
  auto operator<=>(const HelperLimits&) const = default;
};

struct TakeOrder {
  kernel::ProcessId id;
  std::uint8_t userfaultfds = 1;   // 0 to 2; 0 only together with a ring
  std::uint32_t ring_entries = 0;  // 0: no ring
  HelperLimits limits;
};

struct LetGoOrder {
  kernel::ProcessId id;
  std::vector<int> numbers;  // in the target; the message carries our descriptor of each
  HelperLimits limits;
};

// The report arrived and its descriptors are owned: without this the helper takes everything back.
struct Acknowledgement {};

using HelperOrder = std::variant<TakeOrder, LetGoOrder, Acknowledgement>;

struct HelperReport {
  std::optional<Error> error;
  pid_t thread = 0;  // that was stopped; 0: none was
  Nanoseconds stopped{0};
  std::array<int, 2> userfaultfd_numbers{-1, -1};
  std::optional<io_uring_params> ring_geometry;
  int ring_number = -1;        // in the helper, until the acknowledgement
  std::uint32_t not_ours = 0;  // bit i: number i of the order was another file and was left alone
};

std::vector<std::byte> encode_order(const HelperOrder& order);
// EBADMSG for anything that is not exactly an order of this version with sensible values.
Result<HelperOrder> parse_order(std::span<const std::byte> message);

std::vector<std::byte> encode_report(const HelperReport& report);
Result<HelperReport> parse_report(std::span<const std::byte> message);

}  // namespace tidepool::daemon
