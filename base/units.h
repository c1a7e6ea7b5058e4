// Quantities as types: a page count cannot be passed where bytes are meant.
#pragma once

#include <compare>
#include <cstdint>

namespace tidepool {

// The base page of every architecture Tidepool runs on (x86-64). Huge pages are multiples of it.
inline constexpr std::uint64_t kPageSize = 4096;
inline constexpr std::uint64_t kPageShift = 12;
inline constexpr std::uint64_t kHugePageSize = 2ull << 20;
inline constexpr std::uint64_t kPagesPerHugePage = kHugePageSize / kPageSize;

struct Bytes {
  std::uint64_t value = 0;

  constexpr Bytes() = default;
  explicit constexpr Bytes(std::uint64_t bytes) : value(bytes) {}
  constexpr auto operator<=>(const Bytes&) const = default;
  constexpr Bytes operator+(Bytes other) const { return Bytes{value + other.value}; }
  constexpr Bytes operator-(Bytes other) const { return Bytes{value - other.value}; }
  constexpr Bytes operator*(std::uint64_t factor) const { return Bytes{value * factor}; }
  constexpr Bytes& operator+=(Bytes other) { return value += other.value, *this; }
  constexpr Bytes& operator-=(Bytes other) { return value -= other.value, *this; }
};

struct PageCount {
  std::uint64_t value = 0;

  constexpr PageCount() = default;
  explicit constexpr PageCount(std::uint64_t pages) : value(pages) {}
  constexpr auto operator<=>(const PageCount&) const = default;
  constexpr PageCount operator+(PageCount other) const { return PageCount{value + other.value}; }
  constexpr PageCount operator-(PageCount other) const { return PageCount{value - other.value}; }
  constexpr PageCount& operator+=(PageCount other) { return value += other.value, *this; }
  constexpr PageCount& operator-=(PageCount other) { return value -= other.value, *this; }
};

constexpr Bytes to_bytes(PageCount pages) {
  return Bytes{pages.value << kPageShift};
}
// Rounds down: a partial page is not a page.
constexpr PageCount whole_pages(Bytes bytes) {
  return PageCount{bytes.value >> kPageShift};
}

constexpr Bytes saturating_sub(Bytes a, Bytes b) {
  return a > b ? a - b : Bytes{};
}
// Of an estimate: negative ones are nothing, and there is an end.
constexpr Bytes saturating_bytes(double value) {
  return Bytes{value <= 0 ? 0 : value >= 1e18 ? 1'000'000'000'000'000'000 : static_cast<std::uint64_t>(value)};
}
constexpr PageCount saturating_sub(PageCount a, PageCount b) {
  return a > b ? a - b : PageCount{};
}

// [start, end) of virtual addresses in some process, or of offsets in some file; the user says which.
struct AddressRange {
  std::uint64_t start = 0;
  std::uint64_t end = 0;

  constexpr auto operator<=>(const AddressRange&) const = default;
  constexpr std::uint64_t size() const { return end - start; }
  constexpr bool empty() const { return end <= start; }
  constexpr bool contains(std::uint64_t address) const { return address >= start && address < end; }
  constexpr bool contains(AddressRange other) const { return other.start >= start && other.end <= end; }
  constexpr bool overlaps(AddressRange other) const { return start < other.end && other.start < end; }
};

namespace literals {
constexpr Bytes operator""_KiB(unsigned long long n) {
  return Bytes{n << 10};
}
constexpr Bytes operator""_MiB(unsigned long long n) {
  return Bytes{n << 20};
}
constexpr Bytes operator""_GiB(unsigned long long n) {
  return Bytes{n << 30};
}
constexpr Bytes operator""_TiB(unsigned long long n) {
  return Bytes{n << 40};
}
constexpr PageCount operator""_pages(unsigned long long n) {
  return PageCount{n};
}
}  // namespace literals

}  // namespace tidepool
