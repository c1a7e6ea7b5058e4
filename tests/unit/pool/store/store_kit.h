// Pages with known content, and the few steps that every test of a store takes.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "pool/store/embedded_store.h"
#include "pool/store/page_store.h"

namespace tidepool::pool::testing {

struct alignas(kPageSize) Page {
  std::array<std::byte, kPageSize> bytes{};
  bool operator==(const Page& other) const { return std::memcmp(bytes.data(), other.bytes.data(), kPageSize) == 0; }
};

enum class Content : std::uint8_t { kMixed, kCompressible, kRandom };

// The same seed always gives the same page. kCompressible shrinks 2 to 4 times; kMixed is that for three seeds of four,
// and random for the rest.
inline Page make_page(std::uint64_t seed, Content content = Content::kCompressible) {
  std::mt19937_64 random(seed * 0x9e3779b97f4a7c15ull + 1);
  Page page;
  if (content == Content::kMixed) content = seed % 4 == 3 ? Content::kRandom : Content::kCompressible;
  const std::size_t noise = content == Content::kRandom ? kPageSize : kPageSize / 4 + random() % (kPageSize / 4);
  for (std::size_t at = 0; at + 8 <= noise; at += 8) {
    const std::uint64_t word = random();
    std::memcpy(page.bytes.data() + at, &word, sizeof(word));
  }
  for (std::size_t at = noise; at < kPageSize; ++at) page.bytes[at] = static_cast<std::byte>((at / 64 + seed) & 0xf);
  return page;
}

// Writes one page, through the store's own memory if it lends some.
inline std::pair<PageStatus, Location> put(PageStore& store, const Page& page) {
  WriteItem item;
  store.stage(std::span(&item, 1));
  Page own = page;
  if (item.buffer != nullptr) {
    std::memcpy(item.buffer, page.bytes.data(), kPageSize);
  } else {
    item.buffer = own.bytes.data();
  }
  WriteBatch batch{std::span(&item, 1), Priority::kWriteBack, {}};
  store.submit_write(batch);
  return {item.status, item.location};
}

inline Location put_ok(PageStore& store, const Page& page) {
  const auto [status, location] = put(store, page);
  EXPECT_EQ(status, PageStatus::kOk);
  return location;
}

inline PageStatus get(PageStore& store, Location location, Page& page) {
  Page own;
  ReadItem item{.location = location, .buffer = own.bytes.data()};
  ReadBatch batch{std::span(&item, 1), Priority::kDemand, {}};
  store.submit_read(batch);
  if (item.status == PageStatus::kOk) std::memcpy(page.bytes.data(), item.page, kPageSize);
  return item.status;
}

inline ::testing::AssertionResult holds(PageStore& store, Location location, const Page& expected) {
  Page page;
  const PageStatus status = get(store, location, page);
  if (status != PageStatus::kOk) return ::testing::AssertionFailure() << "status " << static_cast<int>(status);
  if (!(page == expected)) return ::testing::AssertionFailure() << "the page has other content";
  return ::testing::AssertionSuccess();
}

inline void drop(PageStore& store, Location location) {
  store.release(std::span(&location, 1));
}

// What the host counts for the store's files.
inline std::uint64_t host_bytes(const EmbeddedStore& store) {
  std::uint64_t total = 0;
  for (const auto& [name, fd] : store.held_descriptors()) {
    struct stat status {};
    EXPECT_EQ(::fstat(fd, &status), 0);
    total += static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  return total;
}

}  // namespace tidepool::pool::testing
