// What every test of the slices starts with.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>
#include <utility>

#include "pool/server/slices.h"

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

inline std::unique_ptr<SliceStore> make_store(const Clock& clock, std::uint64_t chunks,
                                              const SliceLimits& limits = {}) {
  auto medium = Medium::create("", Bytes{chunks * kChunkBytes}, {});
  if (!medium) throw std::runtime_error(medium.error().message());
  auto store = SliceStore::create(std::move(*medium), limits, clock);
  if (!store) throw std::runtime_error(store.error().message());
  return std::move(*store);
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
