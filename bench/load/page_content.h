// What stands in a page of the workload: a function of (seed, address, version), so that every byte can be checked at
// any time without a copy.
//
// Of the versions of a page 10% are all zero, 60% compress 2:1 to 4:1 under LZ4 and 30% are random. A page that is not
// zero carries, in words of its own, its address (word 0), its version (word 1) and a checksum of the rest (word 2): a
// page found in the wrong place says whose it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "base/units.h"

namespace tidepool::load {

inline constexpr std::size_t kWordsPerPage = kPageSize / sizeof(std::uint64_t);

enum class PageKind : std::uint8_t { kZero, kCompressible, kRandom };

// What a page should hold. `zero` stands for memory that was given back to the kernel: no version, all zero.
struct Expectation {
  std::uint64_t address = 0;  // offset in the workload's memory
  std::uint64_t version = 0;
  bool zero = false;
};

enum class Thoroughness : std::uint8_t { kNone, kHeader, kFull };

// Thread-safe: holds the seed only. Pages are read and written in relaxed atomic words, because a reader may meet a
// writer (and finds that out afterwards from the truth table).
class PageContent {
 public:
  explicit PageContent(std::uint64_t seed) : seed_(seed) {}

  PageKind kind_of(std::uint64_t address, std::uint64_t version) const;
  // `page` is page-aligned, 4096 bytes.
  void write(void* page, std::uint64_t address, std::uint64_t version) const;
  // Reads the whole page, or three words of it, or (kNone) one, whose value is then not looked at.
  bool matches(const void* page, const Expectation& expected, Thoroughness how) const;
  // What is wrong with the page, for a person; empty when nothing is (any more).
  std::optional<std::string> describe_mismatch(const void* page, const Expectation& expected) const;

 private:
  std::uint64_t seed_;
};

}  // namespace tidepool::load
