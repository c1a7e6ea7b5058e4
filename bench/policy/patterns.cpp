#include "bench/policy/patterns.h"

#include <cmath>
#include <memory>
#include <numbers>

#include "bench/load/access_pattern.h"

namespace tidepool::simulator {
namespace {

// The workload generator's own patterns, so that what is simulated is what is run.
NextPage generated(load::PatternSettings settings, std::uint64_t pages) {
  auto pattern = std::make_shared<load::AccessPattern>(settings, PageCount{pages}, 1, 0, 1);
  return [pattern](double seconds, load::Random&) {
    return pattern->next(std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(seconds))).page;
  };
}

}  // namespace

NextPage zipf(std::uint64_t pages, double theta, bool clustered) {
  return generated({.kind = load::PatternKind::kZipf, .theta = theta, .clustered = clustered}, pages);
}

NextPage phase_shift(std::uint64_t pages, double phase) {
  load::PatternSettings settings{.kind = load::PatternKind::kPhaseShift};
  settings.phase = std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(phase));
  return generated(settings, pages);
}

NextPage scan_with_core(std::uint64_t pages, std::uint64_t hot) {
  auto cursor = std::make_shared<std::uint64_t>(0);
  return [=](double, load::Random& random) {
    if (random.below(10) != 0) return random.below(hot);
    *cursor = *cursor + 1 < pages ? *cursor + 1 : 0;
    return *cursor;
  };
}

NextPage diurnal(std::uint64_t pages, double low, double high, double day) {
  return [=](double seconds, load::Random& random) {
    if (random.below(1000) == 0) return random.below(pages);
    const double wave = 0.5 - 0.5 * std::cos(2 * std::numbers::pi * seconds / day);
    const double part = low + (high - low) * wave;
    return random.below(std::max<std::uint64_t>(1, static_cast<std::uint64_t>(part * static_cast<double>(pages))));
  };
}

NextPage uniform(std::uint64_t first, std::uint64_t pages) {
  return [=](double, load::Random& random) { return first + random.below(pages); };
}

double oracle_of_zipf(std::uint64_t pages, double theta, std::uint64_t local) {
  double kept = 0;
  double all = 0;
  for (std::uint64_t rank = 1; rank <= pages; ++rank) {
    const double weight = std::pow(static_cast<double>(rank), -theta);
    all += weight;
    if (rank <= local) kept += weight;
  }
  return 1 - kept / all;
}

}  // namespace tidepool::simulator
