// The stores that every general test runs against.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <ostream>
#include <string>

#include "pool/store/compressed_store.h"
#include "pool/store/mapped_store.h"

namespace tidepool::pool::testing {

enum class Kind : std::uint8_t { kMapped, kLz4, kZstd };

inline std::string name_of(Kind kind) {
  switch (kind) {
    case Kind::kMapped:
      return "Mapped";
    case Kind::kLz4:
      return "Lz4";
    case Kind::kZstd:
      return "Zstd";
  }
  return "?";
}
inline void PrintTo(Kind kind, std::ostream* out) {
  *out << name_of(kind);
}

inline constexpr Bytes kMaximum{128ull << 20};

inline CompressedStoreOptions compressed(Kind kind, Bytes capacity) {
  return {.capacity = capacity, .maximum = kMaximum, .codec = kind == Kind::kZstd ? CodecKind::kZstd : CodecKind::kLz4};
}

inline Result<std::unique_ptr<EmbeddedStore>> try_create(Kind kind, Bytes capacity) {
  if (kind == Kind::kMapped) return create_mapped_store({.capacity = capacity, .maximum = kMaximum});
  return create_compressed_store(compressed(kind, capacity));
}

inline std::unique_ptr<EmbeddedStore> create(Kind kind, Bytes capacity = Bytes{64ull << 20}) {
  auto store = try_create(kind, capacity);
  EXPECT_TRUE(store.has_value()) << store.error().message();
  return std::move(*store);
}

inline Result<std::unique_ptr<EmbeddedStore>> reopen(Kind kind, int data, int table,
                                                     Bytes capacity = Bytes{64ull << 20}) {
  UniqueFd own_data{::dup(data)};
  UniqueFd own_table{::dup(table)};
  if (kind == Kind::kMapped)
    return open_mapped_store(std::move(own_data), std::move(own_table), {.capacity = capacity, .maximum = kMaximum});
  return open_compressed_store(std::move(own_data), std::move(own_table), compressed(kind, capacity));
}

inline int data_fd(const EmbeddedStore& store) {
  return store.held_descriptors()[0].second;
}
inline int table_fd(const EmbeddedStore& store) {
  return store.held_descriptors()[1].second;
}

class StoreTest : public ::testing::TestWithParam<Kind> {};

struct KindName {
  std::string operator()(const ::testing::TestParamInfo<Kind>& info) const { return name_of(info.param); }
};

}  // namespace tidepool::pool::testing
