#include "daemon/pager/prefetch_tuner.h"

#include <algorithm>
#include <bit>

namespace tidepool::daemon {

unsigned PrefetchTuner::band_of(unsigned distance) {
  const unsigned sixteens = (std::max(distance, 1u) - 1) / kNearest;
  return std::min(static_cast<unsigned>(std::bit_width(sixteens)), kBands - 1);
}

std::uint64_t PrefetchTuner::random() {  // splitmix64
  std::uint64_t z = seed_ += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

double PrefetchTuner::hit_ratio(unsigned band) const {
  const Band& b = bands_[std::min(band, kBands - 1)];
  return (b.used + 0.5) / (b.settled + 1);  // Jeffreys' prior
}

// A page that is used saves its thread the fault, and is copied once either way. One that is not is copied in vain, and
// has to leave again, which costs about twice as much:  h F  >=  (1 - h) 3 C.
double PrefetchTuner::break_even() const {
  return 3 * copy_seconds_ / (fault_seconds_ + kUnseen + 3 * copy_seconds_);
}

// A thread that lost its CPU in the middle says nothing of what the work costs.
void PrefetchTuner::average(double& mean, double value) {
  mean += (std::min(value, 4 * mean) - mean) / 64;
}

PrefetchTuner::Draw PrefetchTuner::draw(unsigned pages, MonoTime now) {
  Draw drawn;
  if (pages == 0) return drawn;
  // One band more than the advice covers, where the window ends there: would a longer one pay?
  const unsigned covered = band_of(pages);
  const bool at_its_end = window_ != 0 && pages >= window_;
  const unsigned last = std::min(covered + (at_its_end ? 1u : 0u), kBands - 1);
  const bool due = now >= next_control_;
  if (due) turn_ = (turn_ + 1) % (last + 1);
  for (unsigned b = 0; b <= last && count_ + drawn.count < kMostWatched; ++b) {
    // While little is known, one in each advice; then a few, since each that is used is a fault that was not saved.
    // What is not fetched anyway costs nothing.
    const bool learning = bands_[b].settled + static_cast<float>(bands_[b].watched) < kFew;
    if (!learning && window_ != 0 && !(due && b == turn_)) continue;
    const unsigned first = first_of(b);
    const unsigned end = b <= covered ? std::min(last_of(b), std::max(pages, first)) : last_of(b);
    drawn.distance[drawn.count++] = first + static_cast<unsigned>(random() % (end - first + 1));
  }
  if (due && drawn.count != 0) next_control_ = now + kPause;
  return drawn;
}

void PrefetchTuner::watch(std::uint64_t object, std::uint64_t page, unsigned distance, MonoTime now) {
  if (count_ == kMostWatched || is_control(object, page)) return;
  const unsigned band = band_of(distance);
  watched_[count_++] = {object, page, now, static_cast<std::uint8_t>(band)};
  ++bands_[band].watched;
}

bool PrefetchTuner::is_control(std::uint64_t object, std::uint64_t page) const {
  return std::any_of(watched_.begin(), watched_.begin() + static_cast<std::ptrdiff_t>(count_),
                     [&](const Control& each) { return each.page == page && each.object == object; });
}

void PrefetchTuner::drop(std::size_t index) {
  std::move(watched_.begin() + static_cast<std::ptrdiff_t>(index) + 1,
            watched_.begin() + static_cast<std::ptrdiff_t>(count_),
            watched_.begin() + static_cast<std::ptrdiff_t>(index));
  --count_;
}

bool PrefetchTuner::used(std::uint64_t object, std::uint64_t page) {
  for (std::size_t i = 0; i < count_; ++i) {
    if (watched_[i].page != page || watched_[i].object != object) continue;
    const Control control = watched_[i];
    drop(i);
    settle(control, Fate::kUsed);
    return true;
  }
  return false;
}

std::optional<PrefetchTuner::Control> PrefetchTuner::expired(MonoTime now) {
  if (count_ == 0 || now - watched_[0].since < kHorizon) return std::nullopt;
  const Control control = watched_[0];
  drop(0);
  return control;
}

void PrefetchTuner::settle(const Control& control, Fate fate) {
  Band& band = bands_[std::min<unsigned>(control.band, kBands - 1)];
  if (band.watched != 0) --band.watched;
  if (fate == Fate::kUnknown) return;
  fate == Fate::kUsed ? ++used_ : ++unused_;
  band.settled += 1;
  if (fate == Fate::kUsed) band.used += 1;
  if (band.settled > kMostWeight) {
    band.settled /= 2;
    band.used /= 2;
  }
  judge();
}

void PrefetchTuner::judge() {
  const double least = break_even();
  unsigned paying = 0;
  for (unsigned b = 0; b < kBands; ++b) {
    Band& band = bands_[b];
    if (band.settled >= kFew) {
      band.pays = hit_ratio(b) >= (band.pays ? least : least + (1 - least) / 4);
    }
    // Nothing is known of what lies further: nothing is fetched from there until its controls say so.
    if (!band.pays || (b > 1 && band.settled < kFew)) break;
    paying = b + 1;
  }
  window_ = paying == 0 ? 0 : last_of(paying - 1);
}

}  // namespace tidepool::daemon
