// What every test of the slices starts with.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>
#include <utility>

#include "pool/server/slices.h"
#include "pool/store/medium.h"

namespace tidepool::pool::server::testing {

using protocol::Claims;
using protocol::ErrorCode;
using protocol::LeaseEpoch;
using protocol::SliceId;

inline constexpr std::uint32_t kAllRights =
    protocol::kRightRead | protocol::kRightWrite | protocol::kRightRelease | protocol::kRightCreate;

inline protocol::HolderId holder(std::uint8_t number) {
  protocol::HolderId id{};
  id.fill(number);
  return id;
}

inline Claims claims(std::uint64_t slice, std::uint8_t of, std::uint64_t epoch = 1, std::uint32_t slots = 64,
                     std::uint64_t lease_ms = 0) {
  return {SliceId{slice}, holder(of), LeaseEpoch{epoch}, slots, kAllRights, lease_ms};
}

enum class Lends : std::uint8_t { kMedium, kFiles };

inline std::unique_ptr<Donation> make_donation(Lends lends, std::uint64_t chunks) {
  const Bytes size{chunks * kChunkBytes};
  const auto of_medium = [&]() -> Result<std::unique_ptr<Donation>> {
    auto medium = Medium::create("", {size, size}, {});
    if (!medium) return Failure{medium.error()};
    return lend_medium(std::move(*medium));
  };
  auto donation = lends == Lends::kMedium ? of_medium() : lend_memory_files(size);
  if (!donation) throw std::runtime_error(donation.error().message());
  return std::move(*donation);
}

inline std::unique_ptr<SliceStore> make_store(const Clock& clock, std::uint64_t chunks, const SliceLimits& limits = {},
                                              Lends lends = Lends::kFiles) {
  return std::make_unique<SliceStore>(make_donation(lends, chunks), limits, clock);
}

using PageBytes = std::array<std::byte, protocol::kSlotBytes>;

inline PageBytes page_of(std::uint8_t value) {
  PageBytes page;
  page.fill(std::byte{value});
  return page;
}

inline ErrorCode put(Slice& slice, std::uint32_t slot, std::uint64_t version, std::uint8_t value,
                     std::uint64_t epoch = 1, std::uint16_t length = protocol::kSlotBytes) {
  protocol::WriteEntry entry{slot, version, length, {}};
  entry.tag.fill(value);
  return slice.write(LeaseEpoch{epoch}, entry, page_of(value).data());
}

inline protocol::ReadAnswer get(const Slice& slice, std::uint32_t slot, PageBytes& page, std::uint64_t epoch = 1) {
  page = {};
  return slice.read(LeaseEpoch{epoch}, slot, page.data());
}

}  // namespace tidepool::pool::server::testing
