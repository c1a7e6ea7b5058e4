// What a process says of the memory that it hands off: the JSON array of Firecracker's page-fault-handler protocol,
//   [{"base_host_virt_addr":N,"size":N,"offset":N,"page_size":N,"page_size_kib":N}]
// Both page fields are in bytes whatever the name says, and older versions lack one or both. docs/handoff.md has the
// protocol as Tidepool serves it.
//
// Total over any bytes, wherever they are cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace tidepool::daemon {

inline constexpr std::size_t kMaxHandoffMessage = 64u << 10;
inline constexpr std::size_t kMaxHandoffRegions = 256;

struct HandoffRegion {
  AddressRange addresses;    // in the process that hands off; whole pages
  std::uint64_t offset = 0;  // of the region in the file that its content comes from: a snapshot's memory file, a memfd
  auto operator<=>(const HandoffRegion&) const = default;
};

class HandoffMessage {
 public:
  HandoffMessage();
  HandoffMessage(HandoffMessage&&) noexcept;
  HandoffMessage& operator=(HandoffMessage&&) noexcept;
  ~HandoffMessage();

  // Takes the next bytes as they arrived. EBADMSG: not the beginning of such an array, or something behind it;
  // EMSGSIZE: longer than kMaxHandoffMessage.
  Result<> add(std::string_view bytes);
  // The array has ended. Nothing but blanks may follow.
  bool complete() const;
  std::size_t size() const;
  // By address, none overlapping another. EBADMSG with the number of the region and what is wrong with it; ENOTSUP:
  // pages that are not of 4 KiB. Complete messages only.
  Result<std::vector<HandoffRegion>> regions();

 private:
  struct Parser;
  std::unique_ptr<Parser> parser_;
};

}  // namespace tidepool::daemon
