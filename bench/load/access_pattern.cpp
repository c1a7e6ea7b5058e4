#include "bench/load/access_pattern.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace tidepool::load {
namespace {

// The golden section of the range keeps neighbouring ranks far apart; the next coprime number makes it a permutation.
std::uint64_t scattering_stride(std::uint64_t pages) {
  auto stride = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(static_cast<double>(pages) * 0.6180339887));
  while (std::gcd(stride, pages) != 1) ++stride;
  return stride;
}

// log(1 + x) / x and (exp(x) - 1) / x, exact where x vanishes (theta = 1).
double log1p_over(double x) {
  return std::abs(x) > 1e-8 ? std::log1p(x) / x : 1 - x * (0.5 - x / 3);
}
double expm1_over(double x) {
  return std::abs(x) > 1e-8 ? std::expm1(x) / x : 1 + x * 0.5 * (1 + x / 3);
}

}  // namespace

ZipfRanks::ZipfRanks(std::uint64_t count, double theta)
    : count_(static_cast<double>(count)),
      theta_(theta),
      integral_first_(integral(1.5) - 1),
      integral_last_(integral(count_ + 0.5)),
      shortcut_(2 - inverse_integral(integral(2.5) - density(2))) {}

std::uint64_t ZipfRanks::next(Random& random) const {
  for (;;) {
    const double u = integral_last_ + random.real() * (integral_first_ - integral_last_);
    const double x = inverse_integral(u);
    const double rank = std::clamp(std::floor(x + 0.5), 1.0, count_);
    if (rank - x <= shortcut_ || u >= integral(rank + 0.5) - density(rank)) return static_cast<std::uint64_t>(rank) - 1;
  }
}

double ZipfRanks::integral(double x) const {
  const double log_x = std::log(x);
  return expm1_over((1 - theta_) * log_x) * log_x;
}

double ZipfRanks::inverse_integral(double x) const {
  const double t = std::max(x * (1 - theta_), -1.0);
  return std::exp(log1p_over(t) * x);
}

double ZipfRanks::density(double x) const {
  return std::exp(-theta_ * std::log(x));
}

AccessPattern::AccessPattern(const PatternSettings& settings, PageCount pages, std::uint64_t seed, unsigned thread,
                             unsigned threads)
    : settings_(settings),
      pages_(pages.value),
      random_(mix(seed) + thread),
      ranks_(pages.value, settings.theta),
      stride_(scattering_stride(pages.value)),
      cursor_(pages.value / std::max(1u, threads) * thread) {}

Access AccessPattern::next(std::chrono::nanoseconds since_start) {
  const std::uint64_t page = next_page(since_start);
  return {.page = page, .write = random_.real() >= settings_.read_ratio};
}

std::uint64_t AccessPattern::next_page(std::chrono::nanoseconds since_start) {
  switch (settings_.kind) {
    case PatternKind::kZipf:
      return place(ranks_.next(random_));
    case PatternKind::kSequential:
      return next_in_sequence();
    case PatternKind::kScan:
      return random_.below(10) == 0 ? next_in_sequence() : place(random_.below(pages_of(settings_.hot_fraction)));
    case PatternKind::kDiurnal: {
      if (random_.below(1000) == 0) return random_.below(pages_);
      using Turns = std::chrono::duration<double>;
      const double turns = Turns(since_start) / Turns(settings_.phase);
      const double wave = 0.5 - 0.5 * std::cos(2 * std::numbers::pi * turns);
      return place(random_.below(pages_of(settings_.low + (settings_.high - settings_.low) * wave)));
    }
    case PatternKind::kPhaseShift: {
      if (random_.below(10) == 0) return random_.below(pages_);
      const std::uint64_t hot = pages_of(settings_.hot_fraction);
      const auto phase = static_cast<std::uint64_t>(since_start / settings_.phase);
      return place((phase * hot + random_.below(hot)) % pages_);
    }
    case PatternKind::kUniform:
    case PatternKind::kWriteHeavy:
    case PatternKind::kHammer:
      break;
  }
  return random_.below(pages_);
}

std::uint64_t AccessPattern::next_in_sequence() {
  cursor_ = cursor_ + 1 < pages_ ? cursor_ + 1 : 0;
  return cursor_;
}

std::uint64_t AccessPattern::pages_of(double fraction) const {
  return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(static_cast<double>(pages_) * fraction));
}

std::uint64_t AccessPattern::place(std::uint64_t rank) const {
  if (settings_.clustered) return rank;
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>(static_cast<Wide>(rank) * stride_ % pages_);
}

}  // namespace tidepool::load
