// What a VM's faults would be with more or less local memory, without trying.
//
// Two sources. From the rates of its regions: W(T), the memory used within a time T, and its slope, the rate at which
// memory outside of the last T is used: an LRU of W(T) pages has that many faults a second (Denning and Schwartz, CACM
// 1972; the same relation as AET, Hu et al., ATC 2016, in time instead of accesses, so curves of several VMs add up).
// From refaults: how many pages a VM had given up since the page that comes back now: with so much more memory it would
// have stayed.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/units.h"
#include "policy/exposure.h"

namespace tidepool::policy {

// Refaults per second by how much more memory would have prevented them, in powers of two of 64 KiB.
class RefaultDistances {
 public:
  static constexpr unsigned kBins = 32;
  void came_back(std::uint32_t pages_given_up_since, std::uint16_t pages);
  // Decays: called once per sweep with the factor for the time that passed.
  void fade(float factor);
  // Share of the refaults that `more` local memory would have prevented; 0 when there were none.
  double prevented(PageCount more) const;
  double total() const { return total_; }

 private:
  std::array<float, kBins> counts_{};
  double total_ = 0;
};

// Pages by temperature.
using RateHistogram = std::array<double, kTemperatures>;

class MissCurve {
 public:
  // All of a VM's pages that it uses, resident and far, by their rate of use.
  explicit MissCurve(const RateHistogram& pages);

  double pages() const { return pages_; }
  double uses_per_second() const { return uses_; }
  // Pages used within a time.
  double working_set(double seconds) const;
  // Faults per second when the `local` pages that are used most stay (what an oracle could do).
  double faults_at_best(double local) const;
  // Faults per second of an LRU of that many pages.
  double faults_of_lru(double local) const;
  // The fewest pages with no more than so many faults a second.
  double least_local(double faults_per_second) const;

 private:
  RateHistogram histogram_;
  double pages_ = 0;
  double uses_ = 0;
};

}  // namespace tidepool::policy
