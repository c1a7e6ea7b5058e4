#include "policy/vm_heat.h"

#include <algorithm>
#include <cmath>

namespace tidepool::policy {
namespace {

// Memory that a sample may speak of: 128 GiB; what lies beyond is left out.
constexpr std::uint64_t kMaxRegionsPerSample = 65536;
constexpr std::size_t kMaxObjects = 4096;  // of a VM
constexpr double kMaxInterval = 3600;      // seconds; nobody watches for longer
constexpr float kSeldom = 0.25f;           // uses of a page, expected in the time that a region must have been unused
constexpr float kForget = 0.25f;           // what is left of evidence that was contradicted
constexpr float kMaxUses = 64;             // enough to know a rate by an eighth; more would only make it slow to change
constexpr std::uint32_t kFirstMinute = 600;          // tenths
constexpr double kFaultRateWindow = 5;               // seconds
constexpr float kOutcomeWeight = 10 * kRegionPages;  // page-seconds

// How long a look lasted, or over how long events were collected.
float seconds_of(const AccessSample& sample) {
  const Nanoseconds time = sample.window > Nanoseconds{0} ? sample.window : sample.until - sample.since;
  return std::chrono::duration<float>(time).count();
}

}  // namespace

class VmHeat::Change {
 public:
  Change(VmHeat& heat, Object& object, std::uint32_t region, std::uint16_t refaults = 0)
      : heat_(heat), object_(object), region_(region), before_(heat.filed(object, region)) {
    heat_.advance(object_, region_, refaults);
  }
  ~Change() { heat_.refile(object_, region_, before_); }
  Change(const Change&) = delete;
  Change& operator=(const Change&) = delete;

 private:
  VmHeat& heat_;
  Object& object_;
  std::uint32_t region_;
  Entry before_;
};

VmHeat::VmHeat() = default;

void VmHeat::begin_tick(const Moment& now, const HeatConfig& config) {
  const double passed = (now.tenths - now_.tenths) * 0.1;
  if (passed > 0) {
    // The first second of a rate says little, but it must not look like none.
    const double part = 1 - std::exp(-passed / kFaultRateWindow);
    fault_rate_ += part * (static_cast<double>(faults_now_) / passed - fault_rate_);
    looks_per_second_ += part * (static_cast<double>(looks_now_) / passed - looks_per_second_);
    faults_now_ = looks_now_ = 0;
    tick_seconds_ = passed;
  }
  now_ = now;
  config_ = config;
  const auto configured = std::chrono::duration<float>(config.half_life).count();
  // A tracker that needs long for a round must not have forgotten the last one.
  const double round = looks_per_second_ > 0 ? static_cast<double>(regions_) / looks_per_second_ : 0;
  half_life_ = std::max(1.0f, std::max(configured, static_cast<float>(std::min(4 * round, kMaxInterval))));
  fade_per_tenth_ = -0.1f / half_life_;
  period_seconds_ = std::chrono::duration<float>(config.scan_period).count();
}

void VmHeat::set_paper(bool paper) {
  if (paper == paper_) return;
  paper_ = paper;
  for (Object& object : objects_) {
    for (std::uint32_t r = 0; r < object.regions.size(); ++r) {
      if (object.regions[r].far == 0 && !object.regions[r].has(RegionHeat::kPending)) continue;
      const Change change(*this, object, r);
      RegionHeat& region = object.regions[r];
      // What is far on paper is resident. What is truly far is no part of the game that begins.
      const std::uint16_t home = region.has(RegionHeat::kPaper) ? region.far : std::uint16_t{0};
      resident_ += home;
      far_ -= region.far;
      region.resident = static_cast<std::uint16_t>(region.resident + home);
      region.far = 0;
      settle(region);
      region.set(RegionHeat::kPaper, false);
      region.demoted_at = 0;
    }
  }
}

VmHeat::Object* VmHeat::find(std::uint32_t object) {
  for (Object& each : objects_) {
    if (each.id == object) return &each;
  }
  return nullptr;
}

const VmHeat::Object* VmHeat::find(std::uint32_t object) const {
  return const_cast<VmHeat*>(this)->find(object);
}

void VmHeat::grow(Object& object, PageCount pages) {
  // A terabyte is 2^28 pages; what is larger than 16 of them is no memory object of a host.
  constexpr std::uint64_t kMost = 1ull << 32;
  object.pages = std::max(object.pages, std::min(pages.value, kMost));
  const std::uint64_t wanted = (object.pages + kRegionPages - 1) / kRegionPages;
  if (wanted <= object.regions.size()) return;
  // Memory that is new to us counts as used now: it has to prove that it is cold.
  RegionHeat fresh;
  fresh.updated = now_.tenths;
  fresh.last_used = now_.period;
  regions_ += wanted - object.regions.size();
  object.regions.resize(wanted, fresh);
  object.temperature.resize(wanted, 0);
  object.far_temperature.resize(wanted, 0);
  if (!object.shallow.empty()) object.shallow.resize(wanted);
  object.hoods.resize((wanted + kNeighbours - 1) / kNeighbours, Neighbourhood{{}, now_.tenths});
}

void VmHeat::know(const ObjectView& view) {
  Object* object = find(view.object);
  if (object == nullptr) {
    if (objects_.size() >= kMaxObjects) return;
    object = &objects_.emplace_back();
    object->id = view.object;
  }
  if (view.pages.value > object->pages) grow(*object, view.pages);
}

void VmHeat::take(const ObjectView& view, IntakeCounts& counts) {
  Object* object = find(view.object);
  if (object == nullptr) {
    counts.news_absurd += view.news.size();
    return;
  }
  for (std::size_t i = 0; i < view.news.size(); ++i) {
    const RegionNews& news = view.news[i];
    if (i + kLookAhead < view.news.size()) prefetch(*object, view.news[i + kLookAhead].region);
    ++counts.news;
    if (news.region >= object->regions.size() || news.resident > kRegionPages || news.far > kRegionPages ||
        news.resident + news.far > static_cast<int>(kRegionPages) || news.incompressible > kRegionPages ||
        news.shallow > news.far) {
      ++counts.news_absurd;
      continue;
    }
    take_news(*object, news);
  }
}

void VmHeat::take_news(Object& object, const RegionNews& news) {
  const Change change(*this, object, news.region);
  RegionHeat& region = object.regions[news.region];
  const auto was_resident = region.resident;
  const auto was_far = region.far;
  if (paper_) {
    // What is far on paper is resident in truth.
    region.far = region.has(RegionHeat::kPaper) ? std::min(region.far, news.resident) : std::uint16_t{0};
    region.resident = static_cast<std::uint16_t>(news.resident - region.far);
  } else {
    region.resident = news.resident;
    region.far = news.far;
  }
  // What would not compress may have been written since: the pager tries a sixteenth of it again with each demotion.
  const auto hopeless = static_cast<std::uint16_t>(news.incompressible - news.incompressible / 16);
  region.stuck =
      std::min(region.has(RegionHeat::kSparing) ? std::max(region.stuck, hopeless) : hopeless, region.resident);
  if (news.shallow != 0 && object.shallow.empty()) object.shallow.resize(object.regions.size());
  if (!object.shallow.empty()) object.shallow[news.region].pages = news.shallow;
  resident_ += region.resident;
  resident_ -= was_resident;
  far_ += region.far;
  far_ -= was_far;
  const int come = region.resident - was_resident;
  const int fewer_far = was_far - region.far;
  // First touches: it grew by more than what came home.
  if (come > std::max(0, fewer_far)) used(region, 0);
  if (region.has(RegionHeat::kPending) && fewer_far < 0) {
    const auto took = static_cast<std::uint16_t>(now_.seconds - region.planned_at);
    move_seconds_ += 0.02 * (std::min<double>(took, 60) - move_seconds_);
    settle(region);
  }
}

void VmHeat::prefetch(const Object& object, std::uint64_t region) {
  if (region < object.regions.size()) __builtin_prefetch(&object.regions[region], 1);
}

void VmHeat::expect(const AccessSample& sample) const {
  if (const Object* object = find(sample.object.object)) prefetch(*object, sample.pages.first.value / kRegionPages);
}

void VmHeat::take(const AccessSample& sample, IntakeCounts& counts) {
  ++counts.samples;
  Object* object = find(sample.object.object);
  const float seconds = seconds_of(sample);
  if (!well_formed(sample) || !(seconds >= 0) || seconds > kMaxInterval) {
    ++counts.samples_absurd;
    return;
  }
  if (object == nullptr || sample.pages.first.value >= object->pages) {
    ++counts.samples_stale;
    return;
  }
  const std::uint64_t first = sample.pages.first.value;
  const std::uint64_t end = first + std::min(sample.pages.count, object->pages - first);
  std::uint64_t left = kMaxRegionsPerSample;
  bool lived = false;
  for (std::uint64_t from = first; from < end && left > 0; --left) {
    const std::uint64_t to = std::min(end, (from / kRegionPages + 1) * kRegionPages);
    const auto index = static_cast<std::uint32_t>(from / kRegionPages);
    const RegionHeat& region = object->regions[index];
    const float share = static_cast<float>(to - from) / static_cast<float>(sample.pages.count);
    const PageRun run{PageIndex{from}, to - from};
    const int in_dram = region.resident + (paper_ ? region.far : 0);
    if (sample.far ? region.far > 0 && !paper_ : in_dram > 0) {
      lived = true;
      if (sample.far) {
        take_refaults(*object, index, run, share * static_cast<float>(sample.used));
      } else {
        take_share(*object, index, sample, run, share, seconds);
      }
    }
    from = to;
  }
  if (!lived) ++counts.samples_stale;
}

// The units of a region that a run lies in, when it is small enough to say anything of them: one, else none.
UnitMask VmHeat::unit_of(PageRun run) {
  const auto first = static_cast<unsigned>(run.first.value % kRegionPages / kUnitPages);
  const auto last = static_cast<unsigned>((run.end() - 1) % kRegionPages / kUnitPages);
  return first == last ? UnitMask{1} << first : 0;
}

void VmHeat::take_refaults(Object& object, std::uint32_t index, PageRun run, float pages) {
  const auto back = static_cast<std::uint16_t>(std::min(pages + 0.5f, static_cast<float>(kRegionPages)));
  const Change change(*this, object, index, back);
  if (back == 0) return;
  RegionHeat& region = object.regions[index];
  faults_now_ += back;
  came_back(region, back);
  used(region, back);
  if (region.has(RegionHeat::kSparing)) region.stuck = std::min<std::uint16_t>(region.stuck + back, kRegionPages);
  const UnitMask unit = unit_of(run);
  region.used |= unit;
  if (unit != 0 && region.part != 0) object.parts[region.part - 1].units[std::countr_zero(unit)] += Exposure{1, 1};
}

void VmHeat::take_share(Object& object, std::uint32_t index, const AccessSample& sample, PageRun run, float share,
                        float seconds) {
  const Change change(*this, object, index);
  RegionHeat& region = object.regions[index];
  ++looks_now_;
  const float watched = share * static_cast<float>(sample.watched);
  const float seen = share * static_cast<float>(sample.used);
  const float prior = resident_rate(object, index);
  Exposure exposure;
  if (sample.evidence == Evidence::kLooks) {
    exposure = exposure_of(watched, seen, seconds);
    // Whoever sees only writes cannot say that a page was not read; only reads, not that it was not written.
    if (seen <= 0 && sample.sees == Sees::kWrites) exposure.watch = 0;
    if (seen <= 0 && sample.sees == Sees::kReads) exposure.watch /= 2;
  } else if (prior * seconds < 1) {
    // An event: used at least once in its time. It says nothing about memory that is known to be used more.
    exposure = {seen, seen * seconds};
  }
  exposure.fade(sample.confidence);
  learn(object, index, region.seen, exposure, prior);

  const UnitMask unit = unit_of(run);
  if (seen > 0) region.used |= unit;
  if (seen <= 0 && exposure.watch > 0) region.idle |= unit;
  if (unit != 0 && region.part != 0) object.parts[region.part - 1].units[std::countr_zero(unit)] += exposure;
  if (seen <= 0) return;

  const float part = watched > 0 ? seen / watched : std::min(1.0f, seen / static_cast<float>(kRegionPages));
  if (region.has(RegionHeat::kPaper) && region.far > 0) {
    // A use of the region fell on a page that is far on paper as often as there are such pages.
    const auto back = static_cast<std::uint16_t>(std::ceil(part * static_cast<float>(region.far)));
    region.far = static_cast<std::uint16_t>(region.far - back);
    region.resident = static_cast<std::uint16_t>(region.resident + back);
    far_ -= back;
    resident_ += back;
    faults_now_ += back;
    came_back(region, back);
  }
  used(region, part * static_cast<float>(region.resident));
}

// The region was used: `pages` of them would have been faults, had they been far for as long as it was unused.
void VmHeat::used(RegionHeat& region, float pages) {
  if (region.last_used != now_.period) {
    region.age_before = age_of(region);
    region.last_used = now_.period;
  } else if (pages > 0 && region.far == 0) {
    pages = 0;  // counted once per scan period, as one scan of accessed bits would
  }
  if (pages > 0) threshold_.used(region.age_before, pages);
}

void VmHeat::came_back(RegionHeat& region, std::uint16_t pages) {
  if (region.demoted_at == 0) return;
  distances_.came_back(evicted_ - region.evicted_at, pages);
  const bool forced = region.has(RegionHeat::kForced);
  const std::uint32_t away = now_.tenths - region.demoted_at;
  if (away > regret_) return;
  const std::uint16_t tolerated = region.moved / 8;
  const bool was_fine = region.returned <= tolerated;
  region.returned = static_cast<std::uint16_t>(std::min<unsigned>(0xffff, region.returned + pages));
  if (forced || region.has(RegionHeat::kCanary)) return;
  regrets_.returned += pages;
  if (was_fine && region.returned > tolerated && region.backoff < 6) ++region.backoff;
}

// The planned move of a region is over, one way or another.
void VmHeat::settle(RegionHeat& region) {
  if (!region.has(RegionHeat::kPending)) return;
  region.set(RegionHeat::kPending, false);
  pending_ -= std::min<std::uint64_t>(pending_, region.moved);
  --pending_moves_;
}

// Unless as much came back as went, nothing went.
void VmHeat::note_fruitless(RegionHeat& region) {
  if (region.returned != 0) return;
  region.set(RegionHeat::kFruitless, true);
  region.demoted_at = 0;
  if (region.backoff < 6) ++region.backoff;
}

std::uint8_t VmHeat::age_of(const RegionHeat& region) const {
  const auto periods = static_cast<std::uint16_t>(now_.period - region.last_used);
  return static_cast<std::uint8_t>(std::min<unsigned>(periods, kAges - 1));
}

std::uint16_t VmHeat::movable_of(const Object& object, const RegionHeat& region) const {
  if (region.has(RegionHeat::kPending) || region.has(RegionHeat::kFruitless)) return 0;
  const int pages = region.resident - std::min(region.stuck, region.resident);
  return static_cast<std::uint16_t>(pages -
                                    (only_hot_left(object, region) ? 0 : std::min(pages, hot_pages(object, region))));
}

// Of a split region: those that stay when it is asked for.
int VmHeat::hot_pages(const Object& object, const RegionHeat& region) const {
  if (region.part == 0 || !partial_) return 0;
  return std::popcount(~object.parts[region.part - 1].cold) * static_cast<int>(kUnitPages);
}

// A split region whose cold part is gone: what is left goes as a whole, for what it is worth. Else a VM could never be
// held to less than the hot parts of its regions.
bool VmHeat::only_hot_left(const Object& object, const RegionHeat& region) const {
  return region.part != 0 && region.resident - region.stuck <= hot_pages(object, region);
}

// At which the pages are used that would go.
float VmHeat::going_rate(const Object& object, const RegionHeat& region, float prior) const {
  if (region.part == 0 || !partial_) return region.seen.rate(prior, config_.prior_watch);
  const PartHeat& part = object.parts[region.part - 1];
  return only_hot_left(object, region) ? part.hot_rate : part.cold_rate;
}

void VmHeat::price_moves(bool short_of_moves) {
  move_price_ = std::clamp(move_price_ * (short_of_moves ? 1.25f : 0.95f), kLeastMovePrice, kMostMovePrice);
}

// ---- rates ----

float VmHeat::unknown_rate() const {
  return outcome_.rate(config_.unknown_rate, kOutcomeWeight);
}

float VmHeat::prior_of(const Object& object, std::uint32_t region) const {
  const Exposure& hood = object.hoods[region / kNeighbours].seen;
  Exposure both = object.regions[region].seen;
  both += object.regions[region].far_seen;
  return both.rate(hood.rate(unknown_rate(), config_.prior_watch), config_.prior_watch);
}

float VmHeat::resident_rate(const Object& object, std::uint32_t index) const {
  const RegionHeat& region = object.regions[index];
  return going_rate(object, region, prior_of(object, index));
}

float VmHeat::far_rate(const Object& object, std::uint32_t index) const {
  return object.regions[index].far_seen.rate(prior_of(object, index), config_.prior_watch);
}

void VmHeat::learn(Object& object, std::uint32_t index, Exposure& into, Exposure what, float prior) {
  RegionHeat& region = object.regions[index];
  // Once may be a scan that passes through, or chance; twice in a row is a change.
  const int news = surprise(prior * what.watch, what.uses);
  const bool again = news != 0 && region.has(news > 0 ? RegionHeat::kWarmer : RegionHeat::kCooler);
  region.set(RegionHeat::kWarmer, news > 0);
  region.set(RegionHeat::kCooler, news < 0);
  if (again) {
    into.fade(kForget);
    region.momentum = static_cast<std::int8_t>(std::clamp(region.momentum + 48 * news, -96, 96));
  }
  into += what;
  if (into.uses > kMaxUses) into.fade(kMaxUses / into.uses);
  Neighbourhood& hood = object.hoods[index / kNeighbours];
  if (hood.updated != now_.tenths) {
    hood.seen.fade(fading(now_.tenths - hood.updated));
    hood.updated = now_.tenths;
  }
  hood.seen += what;
}

// Lets evidence fade, and counts what was seen of far pages since: how long they were away, and how many were used.
void VmHeat::advance(Object& object, std::uint32_t index, std::uint16_t refaults) {
  RegionHeat& region = object.regions[index];
  const std::uint32_t tenths = now_.tenths - region.updated;
  if (tenths == 0 && refaults == 0) return;
  region.updated = now_.tenths;
  const float seconds = 0.1f * static_cast<float>(tenths);
  const float factor = fading(tenths);
  region.seen.fade(factor);
  region.far_seen.fade(factor);
  if (refaults == 0 && (region.far == 0 || region.has(RegionHeat::kPaper))) return;
  const Exposure what{static_cast<float>(refaults), static_cast<float>(region.far) * std::min(seconds, half_life_)};
  learn(object, index, region.far_seen, what, far_rate(object, index));
  const bool trimmed = region.demoted_at != 0 && !region.has(RegionHeat::kForced);
  if (trimmed && now_.tenths - region.demoted_at <= kFirstMinute) outcome_ += what;
}

float VmHeat::fading(std::uint32_t tenths) const {
  return fast_exp2(static_cast<float>(tenths) * fade_per_tenth_);
}

// ---- the sums ----

VmHeat::Entry VmHeat::filed(const Object& object, std::uint32_t index) const {
  return {object.temperature[index], object.far_temperature[index], movable_of(object, object.regions[index]),
          object.regions[index].far};
}

void VmHeat::count(const Entry& entry, std::int32_t sign) {
  if (const unsigned t = entry.temperature & kTemperatureBits; t != 0) {
    any_.count(t, entry.pages, sign);
    if ((entry.temperature & kRipeBit) != 0)
      ((entry.temperature & kUnknownBit) != 0 ? unknown_ : ripe_).count(t, entry.pages, sign);
  }
  if (entry.far_temperature != 0) missed_.count(entry.far_temperature, entry.far, sign);
}

void VmHeat::refile(Object& object, std::uint32_t index, const Entry& before) {
  const RegionHeat& region = object.regions[index];
  Entry now{0, 0, movable_of(object, region), region.far};
  const float prior = prior_of(object, index);
  if (now.far > 0) now.far_temperature = temperature_of(region.far_seen.rate(prior, config_.prior_watch));
  if (now.pages > 0) {
    // A move has a price of its own: the fewer pages share it, the colder they must be to be worth it.
    const float rate = going_rate(object, region, prior);
    float cost = rate * (1 + kLeastMovePrice / static_cast<float>(now.pages));
    if (region.momentum != 0) cost *= fast_exp2(static_cast<float>(region.momentum) / 64);
    now.temperature = temperature_of(cost);
    const unsigned needed = std::min<unsigned>(unsigned{ripe_age_} << region.backoff, kAges - 1);
    if (age_of(region) >= needed) {
      // Not seen used is one thing, known to be used seldom another: few of its pages may come back within its age.
      if (region.seen.watch + region.far_seen.watch < config_.proof_watch) {
        now.temperature |= kRipeBit | kUnknownBit;
      } else if (rate * static_cast<float>(needed) * period_seconds_ <= kSeldom) {
        now.temperature |= kRipeBit;
      }
    }
  }
  if (now == before) return;
  count(before, -1);
  count(now, 1);
  object.temperature[index] = now.temperature;
  object.far_temperature[index] = now.far_temperature;
}

}  // namespace tidepool::policy
