#include "bench/policy/replay.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "policy/engine.h"
#include "telemetry/trace/replay_tracker.h"

namespace tidepool::simulator {
namespace {

using policy::AccessSample;
using policy::kRegionPages;

constexpr std::uint64_t kMostPages = 1ull << 32;  // 16 TiB
constexpr double kStallAveraged = 10;             // seconds, as the agent's

struct TraceTime final : Clock {
  MonoTime now() const override { return time; }
  MonoTime time{};
};

struct ReplayedRegion {
  std::uint16_t pages = 0;
  std::uint16_t far = 0;
  double due = 0;   // faults that are not a whole page yet
  double uses = 0;  // in the whole trace
};

struct ReplayedObject {
  std::uint32_t number = 0;
  std::uint64_t pages = 0;
  std::vector<ReplayedRegion> regions;
  std::vector<policy::RegionNews> news;
};

// Takes what the tracker reports of a round between begin() and end().
class Replay final : public telemetry::SampleSink {
 public:
  Replay(VmId vm, const ReplaySpec& spec) : vm_(vm), spec_(spec) {}

  Result<> have(const telemetry::TraceDescription& description);
  // What there is by now; the same pointer until it changes.
  telemetry::MemoryList memory();
  void begin(MonoTime now);
  void add(const AccessSample& sample) override;
  void end(MonoTime now);
  Replayed result();

 private:
  void leave();
  void see_region(ReplayedRegion& region, const AccessSample& piece);
  void tick(MonoTime now);
  void act(const policy::Plan& plan);
  ReplayedRegion* find(std::uint32_t object, std::uint64_t region);
  std::uint64_t far_pages() const;

  const VmId vm_;
  const ReplaySpec spec_;
  policy::Engine engine_;
  std::vector<ReplayedObject> objects_;
  std::vector<AccessSample> samples_;  // as the engine sees them
  std::vector<policy::RegionId> leaving_;
  Replayed sum_;
  std::optional<MonoTime> last_;
  std::chrono::seconds day_offset_{0};
  std::shared_ptr<const telemetry::TrackedMemory> memory_;
  double stall_ = 0;
  std::uint64_t faults_now_ = 0;
  std::uint64_t far_at_first_ = 0;
  double passed_ = 0;
};

Result<> Replay::have(const telemetry::TraceDescription& description) {
  sum_.vm = description.vm;
  day_offset_ = std::chrono::duration_cast<std::chrono::seconds>(description.recorded.time_since_epoch() -
                                                                 description.start.since_boot);
  for (const telemetry::TracedObject& traced : description.objects) {
    auto object = std::ranges::find(objects_, traced.object, &ReplayedObject::number);
    const std::uint64_t had = object == objects_.end() ? 0 : object->pages;
    if (traced.pages.value <= had) continue;
    if (traced.pages.value > kMostPages || sum_.pages + (traced.pages.value - had) > kMostPages)
      return failure(std::errc::value_too_large, "replay the trace of", description.vm, "it has more than 16 TiB");
    if (object == objects_.end()) {
      objects_.push_back({traced.object, 0, {}, {}});
      object = std::prev(objects_.end());
    }
    sum_.pages += traced.pages.value - had;
    object->pages = traced.pages.value;
    object->regions.resize((traced.pages.value + kRegionPages - 1) / kRegionPages);
    for (std::uint64_t r = had / kRegionPages; r < object->regions.size(); ++r)
      object->regions[r].pages =
          static_cast<std::uint16_t>(std::min<std::uint64_t>(kRegionPages, object->pages - r * kRegionPages));
  }
  return {};
}

ReplayedRegion* Replay::find(std::uint32_t object, std::uint64_t region) {
  const auto found = std::ranges::find(objects_, object, &ReplayedObject::number);
  if (found == objects_.end() || region >= found->regions.size()) return nullptr;
  return &found->regions[region];
}

std::uint64_t Replay::far_pages() const {
  std::uint64_t far = 0;
  for (const ReplayedObject& object : objects_) {
    for (const ReplayedRegion& region : object.regions) far += region.far;
  }
  return far;
}

// What was decided a round ago.
void Replay::leave() {
  for (const policy::RegionId& id : leaving_) {
    ReplayedRegion* region = find(id.object, id.region);
    if (region == nullptr) continue;
    sum_.demoted += region->pages - region->far;
    engine_.ended(vm_, id, region->pages - region->far);
    region->far = region->pages;
    region->due = 0;
  }
  leaving_.clear();
}

telemetry::MemoryList Replay::memory() {
  if (memory_ != nullptr && memory_->size() == to_bytes(PageCount{sum_.pages})) return {memory_};
  auto grown = std::make_shared<telemetry::TrackedMemory>();
  grown->vm = vm_;
  grown->epoch = memory_ == nullptr ? 1 : memory_->epoch + 1;
  for (const ReplayedObject& object : objects_) {
    telemetry::TrackedObject tracked;
    tracked.id = {vm_, object.number};
    tracked.pages = PageCount{object.pages};
    grown->objects.push_back(tracked);
  }
  memory_ = std::move(grown);
  return {memory_};
}

// A sample can be of many regions: each sees its part of it.
void Replay::add(const AccessSample& sample) {
  ++sum_.samples;
  const auto object = std::ranges::find(objects_, sample.object.object, &ReplayedObject::number);
  for (std::uint64_t at = sample.pages.first.value; at < sample.pages.end();) {
    const std::uint64_t end = std::min((at / kRegionPages + 1) * kRegionPages, sample.pages.end());
    AccessSample piece = sample;
    piece.pages = {PageIndex{at}, end - at};
    const double part = static_cast<double>(end - at) / static_cast<double>(sample.pages.count);
    const auto scaled = [&](std::uint32_t all) {
      return static_cast<std::uint32_t>(std::lround(static_cast<double>(all) * part));
    };
    if (part < 1 && sample.evidence == policy::Evidence::kLooks) {
      piece.watched = std::max(1u, scaled(sample.watched));
      piece.used = std::min(piece.watched, scaled(sample.used));
    } else if (part < 1) {
      piece.used = scaled(sample.used);
    }
    see_region(object->regions[at / kRegionPages], piece);
    at = end;
  }
}

void Replay::see_region(ReplayedRegion& region, const AccessSample& piece) {
  const auto pages = static_cast<double>(piece.pages.count);
  // What was far when this was recorded: every use is known, and what they say of is the whole region.
  const bool counted = piece.far || piece.evidence == policy::Evidence::kEvents;
  const double share = counted ? std::min(1.0, piece.used / pages)
                               : static_cast<double>(piece.used) / static_cast<double>(piece.watched);
  region.uses += share * pages;
  sum_.uses += share * pages;
  const std::uint16_t far = region.far;
  if (far < region.pages) {
    AccessSample seen = piece;
    if (seen.far) {
      // Here they are resident, and such a look at all of them is what it would have been.
      seen.far = false;
      seen.watched = static_cast<std::uint32_t>(piece.pages.count);
      seen.used = std::min(seen.used, seen.watched);
    }
    samples_.push_back(seen);
  }
  if (far == 0) return;
  region.due += share * pages * far / region.pages;
  const auto back = static_cast<std::uint16_t>(std::min<double>(region.due, far));
  if (back == 0) return;
  region.due -= back;
  region.far = static_cast<std::uint16_t>(far - back);
  faults_now_ += back;
  AccessSample refault = piece;
  refault.far = true;
  refault.evidence = policy::Evidence::kLooks;
  refault.sees = policy::Sees::kReadsAndWrites;
  refault.window = refault.until - refault.since;
  refault.confidence = 1;
  refault.watched = far;
  refault.used = back;
  samples_.push_back(refault);
}

void Replay::tick(MonoTime now) {
  policy::Snapshot snapshot;
  snapshot.now = now;
  constexpr std::chrono::seconds kDay = std::chrono::hours(24);
  snapshot.time_of_day =
      ((std::chrono::duration_cast<std::chrono::seconds>(now.since_boot) + day_offset_) % kDay + kDay) % kDay;
  const Bytes all = to_bytes(PageCount{sum_.pages});
  const Bytes far = to_bytes(PageCount{far_pages()});
  policy::TierView pool{.name = "pool", .capacity = all, .ratio = 0.4};
  pool.used = saturating_bytes(static_cast<double>(far.value) * pool.ratio);
  snapshot.host.total = all * 4;
  snapshot.host.available = all * 2;
  snapshot.host.max_far = all;
  snapshot.host.tiers.push_back(pool);
  std::vector<policy::ObjectView> views;
  for (ReplayedObject& object : objects_) {
    object.news.clear();
    for (std::size_t r = 0; r < object.regions.size(); ++r) {
      const ReplayedRegion& region = object.regions[r];
      object.news.push_back(
          {static_cast<std::uint32_t>(r), static_cast<std::uint16_t>(region.pages - region.far), region.far, 0});
    }
    views.push_back({object.number, PageCount{object.pages}, object.news});
  }
  policy::VmView view;
  view.id = vm_;
  view.mode = policy::Mode::kActive;
  view.promised = all;
  view.resident = all - far;
  view.far = far;
  if (spec_.limit) view.limit = saturating_bytes(*spec_.limit * static_cast<double>(all.value));
  view.stall = stall_;
  view.stall_budget = spec_.stall_budget;
  view.threads = spec_.threads;
  view.fault_cost = std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(spec_.fault_cost));
  view.objects = views;
  snapshot.vms.push_back(view);
  snapshot.samples = samples_;
  act(engine_.tick(snapshot, {}));
}

void Replay::act(const policy::Plan& plan) {
  for (const policy::Move& move : plan.demotions) leaving_.push_back(move.region);
  for (const policy::Move& move : plan.restores) {
    ReplayedRegion* region = find(move.region.object, move.region.region);
    if (region == nullptr) continue;
    sum_.restored += region->far;
    region->far = 0;
  }
  for (const policy::Decision& decision : plan.decisions) {
    auto& decided = sum_.decisions[{decision.action, decision.reason}];
    ++decided.times;
    decided.regions += decision.regions;
  }
}

void Replay::begin(MonoTime now) {
  passed_ = last_ ? std::chrono::duration<double>(now - *last_).count() : 0;
  last_ = now;
  faults_now_ = 0;
  samples_.clear();
  leave();
  far_at_first_ = far_pages();
}

void Replay::end(MonoTime now) {
  if (passed_ > 0) {
    const double waited = static_cast<double>(faults_now_) * spec_.fault_cost / passed_ / spec_.threads;
    stall_ += (waited - stall_) * (1 - std::exp(-passed_ / kStallAveraged));
    sum_.stall += waited * passed_;
    // What left comes home in the course of the round.
    const double far = static_cast<double>(far_at_first_ + far_pages()) / 2;
    sum_.resident += passed_ * (1 - far / static_cast<double>(std::max<std::uint64_t>(1, sum_.pages)));
    sum_.seconds += passed_;
  }
  sum_.faults += faults_now_;
  ++sum_.rounds;
  tick(now);
}

Replayed Replay::result() {
  if (sum_.seconds > 0) {
    sum_.resident /= sum_.seconds;
    sum_.stall /= sum_.seconds;
  } else {
    sum_.resident = 1;
  }
  std::vector<const ReplayedRegion*> all;
  for (const ReplayedObject& object : objects_) {
    for (const ReplayedRegion& region : object.regions) all.push_back(&region);
  }
  std::ranges::sort(all, std::greater<>(), [](const ReplayedRegion* region) { return region->uses; });
  const auto kept = std::min(all.size(), static_cast<std::size_t>(sum_.resident * static_cast<double>(all.size())));
  sum_.oracle_faults = std::accumulate(all.begin() + static_cast<std::ptrdiff_t>(kept), all.end(), 0.0,
                                       [](double uses, const ReplayedRegion* region) { return uses + region->uses; });
  return sum_;
}

}  // namespace

Result<Replayed> replay(std::unique_ptr<telemetry::TraceReader> trace, const ReplaySpec& spec) {
  // The trace's own times: each round is played when it was recorded.
  TraceTime clock;
  Replay player(trace->vm(), spec);
  telemetry::ReplayTracker tracker(std::move(trace), clock, Nanoseconds{0});
  while (const auto next = tracker.next()) {
    if (auto fits = player.have(tracker.trace().description()); !fits) return Failure{fits.error()};
    tracker.set_memory(player.memory());
    clock.time = *next;
    player.begin(*next);
    tracker.round(player);
    player.end(*next);
  }
  if (tracker.error()) return Failure{*tracker.error()};
  Replayed result = player.result();
  result.strays = tracker.strays();
  result.samples += tracker.strays();
  result.vm = tracker.trace().description().vm;
  result.whole = tracker.trace().totals().has_value();
  return result;
}

}  // namespace tidepool::simulator
