#include "bench/policy/patterns.h"

#include <cmath>
#include <memory>

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

NextPage scan_with_core(std::uint64_t pages, double hot) {
  return generated({.kind = load::PatternKind::kScan, .hot_fraction = hot}, pages);
}

NextPage diurnal(std::uint64_t pages, double low, double high, double day) {
  load::PatternSettings settings{.kind = load::PatternKind::kDiurnal, .low = low, .high = high};
  settings.phase = std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(day));
  return generated(settings, pages);
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
