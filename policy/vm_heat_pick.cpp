// Which regions: the answers of VmHeat.
#include <algorithm>
#include <cmath>

#include "policy/vm_heat.h"

namespace tidepool::policy {
namespace {

// A temperature is half an octave wide: within the last one that is needed, so many more regions are compared exactly.
constexpr std::size_t kSpare = 256;
constexpr std::size_t kSpareWhenShort = 4096;
constexpr unsigned kWarmerWhenShort = 4;  // half octaves
constexpr float kSuccessWeight = 0.05f;   // of a move of a whole region
constexpr float kLeastSuccess = 0.1f;
constexpr std::uint32_t kShallowAtOnce = 16384;  // regions looked at
constexpr std::uint16_t kShallowPause = 30;      // seconds

bool colder(const Candidate& a, const Candidate& b) {
  return a.rate != b.rate ? a.rate < b.rate : a.id < b.id;
}

}  // namespace

Candidate VmHeat::candidate_of(const Object& object, std::uint32_t index, std::uint16_t pages, float rate) const {
  const RegionHeat& region = object.regions[index];
  const float doubt = 0.5f / (region.seen.watch + region.far_seen.watch + config_.prior_watch);
  return {{object.id, index}, kAllUnits, pages, rate, doubt, region.has(RegionHeat::kSparing) ? sparing_success_ : 1};
}

void VmHeat::coldest(Pick which, PickLimits limits, std::vector<Candidate>& out) {
  out.clear();
  if (limits.pages == 0 || limits.regions == 0) return;
  const Filed& sums = which == Pick::kAny ? any_ : which == Pick::kRipe ? ripe_ : unknown_;
  if (sums.all_pages <= 0) return;
  const std::uint8_t mask = which == Pick::kAny ? 0 : kRipeBit | kUnknownBit;
  const std::uint8_t wanted = which == Pick::kAny ? 0 : which == Pick::kRipe ? kRipeBit : kRipeBit | kUnknownBit;
  // The last temperature that is needed, and how many regions lie below it.
  unsigned last = 1;
  std::uint64_t pages = 0;
  std::uint64_t regions = 0;
  for (; last < kTemperatures; ++last) {
    pages += static_cast<std::uint64_t>(std::max<std::int32_t>(0, sums.pages[last]));
    if (pages >= limits.pages || regions + static_cast<std::uint64_t>(sums.regions[last]) >= limits.regions) break;
    regions += static_cast<std::uint64_t>(sums.regions[last]);
  }
  last = std::min(last, kTemperatures - 1);
  std::size_t most_of_last = limits.regions - std::min<std::uint64_t>(regions, limits.regions) + kSpare;
  if (move_price_ > kLeastMovePrice) {
    // Moves are short: somewhat warmer regions with many pages may be the better choice.
    most_of_last += kSpareWhenShort;
  }
  const unsigned warmest = move_price_ > kLeastMovePrice ? std::min(last + kWarmerWhenShort, kTemperatures - 1) : last;
  std::size_t of_last = 0;

  // From another place every time, so that within the last temperature everybody has a turn.
  const std::uint32_t start = pick_from_++;
  for (std::size_t n = 0; n < objects_.size(); ++n) {
    const Object& object = objects_[(n + start) % objects_.size()];
    const auto count = static_cast<std::uint32_t>(object.temperature.size());
    const std::uint32_t turn = count == 0 ? 0 : static_cast<std::uint32_t>(start * 7919ull % count);
    for (std::uint32_t i = 0, r = turn; i < count; ++i, r = r + 1 == count ? 0 : r + 1) {
      const std::uint8_t temperature = object.temperature[r];
      const unsigned t = temperature & kTemperatureBits;
      if (t == 0 || t > warmest || (temperature & mask) != wanted) continue;
      if (t >= last && ++of_last > most_of_last) continue;
      Candidate candidate = candidate_of(object, r, movable_of(object, object.regions[r]), resident_rate(object, r));
      const RegionHeat& region = object.regions[r];
      if (region.part != 0 && partial_ && !only_hot_left(object, region))
        candidate.units = object.parts[region.part - 1].cold;
      out.push_back(candidate);
    }
  }
  for (Candidate& each : out) each.rate *= 1 + move_price_ / static_cast<float>(each.pages);
  std::sort(out.begin(), out.end(), colder);
  for (Candidate& each : out) each.rate /= 1 + move_price_ / static_cast<float>(each.pages);
  double sum = 0;
  std::size_t keep = 0;
  for (; keep < out.size() && keep < limits.regions && sum < static_cast<double>(limits.pages); ++keep)
    sum += static_cast<double>(out[keep].pages) * static_cast<double>(out[keep].success);
  out.resize(keep);
}

void VmHeat::most_missed(PickLimits limits, std::vector<Candidate>& out) {
  out.clear();
  if (limits.pages == 0 || limits.regions == 0 || far_ == 0) return;
  unsigned last = kTemperatures - 1;
  std::uint64_t pages = 0;
  std::uint64_t regions = 0;
  for (; last > 1; --last) {
    pages += static_cast<std::uint64_t>(std::max<std::int32_t>(0, missed_.pages[last]));
    regions += static_cast<std::uint64_t>(std::max<std::int32_t>(0, missed_.regions[last]));
    if (pages >= limits.pages || regions >= limits.regions) break;
  }
  for (const Object& object : objects_) {
    for (std::uint32_t r = 0; r < object.far_temperature.size(); ++r) {
      if (object.far_temperature[r] < last) continue;
      if (out.size() >= limits.regions * 4ull + kSpare) break;
      out.push_back(candidate_of(object, r, object.regions[r].far, far_rate(object, r)));
    }
  }
  std::sort(out.begin(), out.end(),
            [](const Candidate& a, const Candidate& b) { return a.rate != b.rate ? a.rate > b.rate : a.id < b.id; });
  std::uint64_t sum = 0;
  std::size_t keep = 0;
  while (keep < out.size() && keep < limits.regions && sum < limits.pages) sum += out[keep++].pages;
  out.resize(keep);
}

void VmHeat::coldest_shallow(float below, PickLimits limits, std::vector<Candidate>& out) {
  out.clear();
  std::uint64_t pages = 0;
  // No region twice.
  auto left = static_cast<std::uint32_t>(std::min<std::uint64_t>(kShallowAtOnce, regions_));
  for (std::size_t n = 0; n <= objects_.size() && left > 0; ++n) {
    if (shallow_object_ >= objects_.size()) shallow_object_ = 0;
    if (objects_.empty()) return;
    const Object& object = objects_[shallow_object_];
    const auto count = static_cast<std::uint32_t>(object.shallow.size());
    for (; shallow_region_ < count && left > 0; ++shallow_region_, --left) {
      if (pages >= limits.pages || out.size() >= limits.regions) return;
      const Shallow& shallow = object.shallow[shallow_region_];
      const RegionHeat& region = object.regions[shallow_region_];
      const bool asked = shallow.asked && static_cast<std::uint16_t>(now_.seconds - shallow.asked_at) < kShallowPause;
      if (shallow.pages == 0 || asked || region.has(RegionHeat::kPending)) continue;
      Candidate candidate = candidate_of(object, shallow_region_, shallow.pages, far_rate(object, shallow_region_));
      if (candidate.rate + candidate.doubt >= below) continue;
      pages += candidate.pages;
      out.push_back(candidate);
    }
    if (shallow_region_ < count) return;
    shallow_region_ = 0;
    ++shallow_object_;
  }
}

void VmHeat::note_deeper(RegionId id) {
  Object* object = find(id.object);
  if (object == nullptr || id.region >= object->shallow.size()) return;
  object->shallow[id.region].asked = true;
  object->shallow[id.region].asked_at = now_.seconds;
}

void VmHeat::note_demotion(const Candidate& candidate, MoveKind kind) {
  Object* object = find(candidate.id.object);
  if (object == nullptr || candidate.id.region >= object->regions.size()) return;
  const Entry before = filed(*object, candidate.id.region);
  advance(*object, candidate.id.region);
  RegionHeat& region = object->regions[candidate.id.region];
  if (region.has(RegionHeat::kCanary)) canaries_ -= std::min<std::uint64_t>(canaries_, region.moved);
  region.moved = candidate.pages;
  region.returned = 0;
  region.demoted_at = now_.tenths;
  region.evicted_at = evicted_;
  region.planned_at = now_.seconds;
  region.set(RegionHeat::kForced, kind == MoveKind::kForced);
  region.set(RegionHeat::kCanary, kind == MoveKind::kCanary);
  evicted_ += candidate.pages;
  if (kind == MoveKind::kTrim) regrets_.moved += candidate.pages;
  if (kind == MoveKind::kCanary) canaries_ += candidate.pages;
  if (paper_) {
    region.set(RegionHeat::kPaper, true);
    const std::uint16_t gone = std::min(region.resident, candidate.pages);
    region.resident = static_cast<std::uint16_t>(region.resident - gone);
    region.far = static_cast<std::uint16_t>(region.far + gone);
    resident_ -= gone;
    far_ += gone;
  } else {
    region.set(RegionHeat::kPending, true);
    pending_ += candidate.pages;
    ++pending_moves_;
  }
  refile(*object, candidate.id.region, before);
}

void VmHeat::note_restore(const Candidate& candidate) {
  Object* object = find(candidate.id.object);
  if (object == nullptr || candidate.id.region >= object->regions.size()) return;
  const Entry before = filed(*object, candidate.id.region);
  advance(*object, candidate.id.region);
  RegionHeat& region = object->regions[candidate.id.region];
  // What is fetched is wanted: it starts its life at home as used.
  region.last_used = now_.period;
  region.age_before = 0;
  if (region.has(RegionHeat::kPaper)) {
    resident_ += region.far;
    far_ -= region.far;
    region.resident = static_cast<std::uint16_t>(region.resident + region.far);
    region.far = 0;
  }
  refile(*object, candidate.id.region, before);
}

template <class Then>
void VmHeat::settle_move(RegionId id, Then&& then) {
  Object* object = find(id.object);
  if (object == nullptr || id.region >= object->regions.size()) return;
  RegionHeat& region = object->regions[id.region];
  if (!region.has(RegionHeat::kPending)) return;
  const Entry before = filed(*object, id.region);
  settle(region);
  then(region);
  refile(*object, id.region, before);
}

void VmHeat::forget_move(RegionId id) {
  settle_move(id, [&](RegionHeat& region) {
    if (region.has(RegionHeat::kCanary)) canaries_ -= std::min<std::uint64_t>(canaries_, region.moved);
    region.set(RegionHeat::kCanary, false);
    region.demoted_at = 0;
  });
}

void VmHeat::begin_move(RegionId id, std::uint32_t pages) {
  Object* object = find(id.object);
  if (object == nullptr || id.region >= object->regions.size()) return;
  RegionHeat& region = object->regions[id.region];
  if (!region.has(RegionHeat::kPending) || pages > region.moved) return;
  if (region.has(RegionHeat::kSparing)) {
    const float weight = kSuccessWeight * static_cast<float>(region.moved) / kRegionPages;
    const float going = static_cast<float>(pages) / static_cast<float>(std::max<int>(1, region.moved));
    sparing_success_ = std::max(kLeastSuccess, sparing_success_ + weight * (going - sparing_success_));
  }
  pending_ -= std::min<std::uint64_t>(pending_, region.moved - pages);
  if (region.has(RegionHeat::kCanary)) canaries_ -= std::min<std::uint64_t>(canaries_, region.moved - pages);
  region.moved = static_cast<std::uint16_t>(pages);
}

void VmHeat::end_move(RegionId id, std::uint32_t pages, std::uint32_t spared) {
  settle_move(id, [&](RegionHeat& region) {
    const bool sparing = spares_ && spared != 0;
    region.set(RegionHeat::kSparing, sparing);
    // The next one would leave them as well; less so as time passes.
    if (sparing) region.stuck = static_cast<std::uint16_t>(std::min<std::uint32_t>(spared, kRegionPages));
    if (pages == 0 && !sparing) note_fruitless(region);
  });
}

float VmHeat::rate_at(std::uint32_t id, std::uint32_t region) const {
  const Object* object = find(id);
  if (object == nullptr || region >= object->regions.size()) return 0;
  const RegionHeat& heat = object->regions[region];
  if (heat.resident + heat.far == 0) return 0;
  return heat.far > heat.resident ? far_rate(*object, region) : resident_rate(*object, region);
}

bool VmHeat::split_at(std::uint32_t id, std::uint32_t region) const {
  const Object* object = find(id);
  return object != nullptr && region < object->regions.size() && object->regions[region].part != 0;
}

bool VmHeat::consistent() const {
  Filed any;
  Filed ripe;
  Filed unknown;
  Filed missed;
  std::uint64_t resident = 0;
  std::uint64_t far = 0;
  std::uint64_t pending = 0;
  for (const Object& object : objects_) {
    for (std::uint32_t r = 0; r < object.regions.size(); ++r) {
      const RegionHeat& region = object.regions[r];
      resident += region.resident;
      far += region.far;
      if (region.has(RegionHeat::kPending)) pending += region.moved;
      const std::uint8_t filed = object.temperature[r];
      const unsigned t = filed & kTemperatureBits;
      if (t != 0) any.count(t, movable_of(object, region), 1);
      if (t != 0 && (filed & kRipeBit) != 0)
        ((filed & kUnknownBit) != 0 ? unknown : ripe).count(t, movable_of(object, region), 1);
      if (object.far_temperature[r] != 0) missed.count(object.far_temperature[r], region.far, 1);
    }
  }
  const auto same = [](const Filed& a, const Filed& b) { return a.pages == b.pages && a.regions == b.regions; };
  return resident == resident_ && far == far_ && pending == pending_ && same(any, any_) && same(ripe, ripe_) &&
         same(unknown, unknown_) && same(missed, missed_);
}

}  // namespace tidepool::policy
