#include "policy/miss_curve.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace tidepool::policy {

void RefaultDistances::came_back(std::uint32_t pages_given_up_since, std::uint16_t pages) {
  const auto bin = static_cast<unsigned>(std::bit_width(pages_given_up_since / 16));
  counts_[std::min(bin, kBins - 1)] += static_cast<float>(pages);
  total_ += pages;
}

void RefaultDistances::fade(float factor) {
  total_ = 0;
  for (float& count : counts_) total_ += count *= factor;
}

double RefaultDistances::prevented(PageCount more) const {
  if (total_ <= 0) return 0;
  double sum = 0;
  for (unsigned bin = 0; bin < kBins; ++bin) {
    // Bin b holds distances from 8 x 2^b up to 16 x 2^b pages.
    if (16.0 * std::exp2(bin) > static_cast<double>(more.value)) break;
    sum += counts_[bin];
  }
  return std::min(1.0, sum / total_);
}

MissCurve::MissCurve(const RateHistogram& pages) : histogram_(pages) {
  for (unsigned t = 1; t < kTemperatures; ++t) {
    pages_ += histogram_[t];
    uses_ += histogram_[t] * rate_of(t);
  }
}

double MissCurve::working_set(double seconds) const {
  double sum = 0;
  for (unsigned t = 1; t < kTemperatures; ++t) sum += histogram_[t] * -std::expm1(-rate_of(t) * seconds);
  return sum;
}

double MissCurve::faults_at_best(double local) const {
  double faults = 0;
  for (unsigned t = kTemperatures - 1; t > 0; --t) {
    const double kept = std::min(local, histogram_[t]);
    local -= kept;
    faults += (histogram_[t] - kept) * rate_of(t);
  }
  return faults;
}

double MissCurve::faults_of_lru(double local) const {
  if (local >= pages_) return 0;
  // W(T) only grows: bisection on the logarithm of T, from a microsecond to a year.
  double low = -20;
  double high = 25;
  for (int step = 0; step < 50; ++step) {
    const double middle = (low + high) / 2;
    (working_set(std::exp2(middle)) < local ? low : high) = middle;
  }
  const double seconds = std::exp2(low);
  double faults = 0;
  for (unsigned t = 1; t < kTemperatures; ++t) faults += histogram_[t] * rate_of(t) * std::exp(-rate_of(t) * seconds);
  return faults;
}

double MissCurve::least_local(double faults_per_second) const {
  double local = pages_;
  double faults = 0;
  for (unsigned t = 1; t < kTemperatures; ++t) {
    if (histogram_[t] <= 0) continue;
    const double rate = rate_of(t);
    const double given_up = std::min(histogram_[t], (faults_per_second - faults) / rate);
    if (given_up <= 0) break;
    local -= given_up;
    faults += given_up * rate;
  }
  return std::max(0.0, local);
}

}  // namespace tidepool::policy
