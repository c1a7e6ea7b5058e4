#include "policy/age_threshold.h"

#include <algorithm>

namespace tidepool::policy {

void AgeThreshold::end_minute(double allowed, double percentile) {
  unsigned lowest = kAges - 1;
  double sum = 0;
  // Age 0 is memory in use: no threshold takes it.
  while (lowest > 0 && sum + promotions_[lowest] <= allowed) sum += promotions_[lowest--];
  const auto now = static_cast<std::uint8_t>(std::min(lowest + 1, kAges - 1));
  promotions_.fill(0);

  ++past_[now];
  if (++minutes_ > kRemembered) {
    minutes_ = 0;
    for (std::uint16_t& count : past_) minutes_ += count = static_cast<std::uint16_t>(count / 2);
  }
  const double wanted = percentile * minutes_;
  double seen = 0;
  unsigned usual = 0;
  while (usual < kAges - 1 && (seen += past_[usual]) < wanted) ++usual;
  // A worse minute than usual counts at once; the usual one keeps quiet minutes from making us bold.
  threshold_ = static_cast<std::uint8_t>(std::max<unsigned>(usual, now));
}

}  // namespace tidepool::policy
