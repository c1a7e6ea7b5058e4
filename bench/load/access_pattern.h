// Which page comes next, and whether it is read or written: seeded, one generator per thread.
#pragma once

#include <chrono>
#include <cstdint>

#include "base/units.h"
#include "bench/load/random.h"

namespace tidepool::load {

// Ranks 0, 1, 2... of `count` with probability proportional to 1 / (rank + 1)^theta, by rejection-inversion (Hoermann,
// Derflinger 1996): no table, so a terabyte costs as much as a megabyte. theta > 0.
class ZipfRanks {
 public:
  ZipfRanks(std::uint64_t count, double theta);
  std::uint64_t next(Random& random) const;

 private:
  double integral(double x) const;
  double inverse_integral(double x) const;
  double density(double x) const;

  double count_;
  double theta_;
  double integral_first_;
  double integral_last_;
  double shortcut_;
};

enum class PatternKind : std::uint8_t {
  kUniform,
  kZipf,
  kSequential,
  kScan,
  kPhaseShift,
  kDiurnal,
  kWriteHeavy,
  kHammer
};

struct PatternSettings {
  PatternKind kind = PatternKind::kZipf;
  double theta = 0.99;
  // Hot pages beside each other, or spread evenly over the memory (which defeats anything that moves 2 MiB regions).
  bool clustered = true;
  double read_ratio = 0.7;
  // Phase shift: nine of ten accesses go to this share of the memory, which moves on every `phase`; the tenth goes
  // anywhere. Scan: the share stays, and the tenth access walks through all memory.
  double hot_fraction = 0.1;
  // Diurnal: what is in use swells from `low` to `high` of the memory and back within a `phase`; one of a thousand
  // accesses goes anywhere.
  double low = 0.2;
  double high = 0.8;
  std::chrono::nanoseconds phase = std::chrono::seconds(10);
};

struct Access {
  std::uint64_t page = 0;
  bool write = false;
};

class AccessPattern {
 public:
  // `thread` of `threads` decides where a sequential scan starts and which random numbers come.
  AccessPattern(const PatternSettings& settings, PageCount pages, std::uint64_t seed, unsigned thread,
                unsigned threads);
  Access next(std::chrono::nanoseconds since_start);

 private:
  std::uint64_t next_page(std::chrono::nanoseconds since_start);
  std::uint64_t next_in_sequence();
  // At least one page.
  std::uint64_t pages_of(double fraction) const;
  std::uint64_t place(std::uint64_t rank) const;

  PatternSettings settings_;
  std::uint64_t pages_;
  Random random_;
  ZipfRanks ranks_;
  std::uint64_t stride_;  // coprime to pages_: rank * stride mod pages is a permutation
  std::uint64_t cursor_;
};

}  // namespace tidepool::load
