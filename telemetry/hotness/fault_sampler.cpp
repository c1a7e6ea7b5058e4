#include "telemetry/hotness/fault_sampler.h"

#include <algorithm>

#include "base/units.h"

namespace tidepool::telemetry {
namespace {

constexpr std::uint64_t kMaxPerRound = 8192;
// Sampling that has been held back for longer does not make up for it in one go.
constexpr auto kLongestBurst = std::chrono::seconds(5);

}  // namespace

FaultSampler::FaultSampler(const FaultSamplerConfig& config, const Clock& clock)
    : config_(config), clock_(clock), budget_(clock, kLongestBurst), random_(config.seed) {}

void FaultSampler::set_memory(const MemoryList& memory) {
  std::map<policy::ObjectId, Target> next;
  for (const auto& of : memory) {
    for (const TrackedObject& object : of->objects) {
      if (object.paged == nullptr) continue;
      const auto known = targets_.find(object.id);
      Target target = known == targets_.end() ? Target{} : known->second;
      target.id = object.id;
      target.paged = object.paged;
      next.emplace(object.id, std::move(target));
    }
  }
  targets_ = std::move(next);
}

TrackerInfo FaultSampler::info() const {
  TrackerInfo info;
  info.name = "fault-sampling";
  info.usable = true;
  info.covers = Coverage::kShared | Coverage::kWritesPrivate;
  info.blind_spots = {"reads of resident private memory, and of shared memory on a host with swap",
                      "a region is looked at as often as the CPU budget allows",
                      "memory that the pager does not manage"};
  info.cpu = budget_.spent();
  info.samples = samples_;
  return info;
}

Coverage FaultSampler::covers(const MemoryList& memory) const {
  for (const auto& of : memory) {
    for (const TrackedObject& object : of->objects) {
      if (object.shared && object.paged != nullptr && object.paged->sees() == policy::Sees::kWrites)
        return Coverage::kWritesShared | Coverage::kWritesPrivate;
    }
  }
  return info().covers;
}

void FaultSampler::round(SampleSink& sink) {
  std::uint64_t regions = 0;
  for (auto& [id, target] : targets_) {
    collect(target, sink);
    regions += target.paged->regions();
  }
  if (regions == 0) return;
  const auto affordable = static_cast<std::uint64_t>(budget_.available() / config_.cost_per_sample);
  const double samples = static_cast<double>(std::min(affordable, kMaxPerRound));
  for (auto& [id, target] : targets_) {
    // Everybody's share of the budget is its share of the memory.
    const double share = static_cast<double>(target.paged->regions()) / static_cast<double>(regions);
    arm(target, static_cast<std::uint64_t>(samples * share));
  }
}

// Pages stay armed until they are touched: each of them was watched since the last round.
void FaultSampler::collect(Target& target, SampleSink& sink) {
  const MonoTime now = clock_.now();
  policy::AccessSample sample;
  sample.object = target.id;
  sample.since = target.collected == MonoTime{} ? now : target.collected;
  sample.until = now;
  sample.window = sample.until - sample.since;
  sample.sees = target.paged->sees();
  target.collected = now;
  for (std::uint64_t r = 0; r < target.paged->regions(); ++r) {
    const std::uint32_t touched = target.paged->take_touches(r);
    const PagedObject::Region region = target.paged->look(r);
    if (region.resident == 0 && region.armed > 0) target.paged->disarm(r);  // they left, and took their arming along
    if (touched + region.armed == 0 || (region.resident == 0 && touched == 0)) continue;
    sample.pages = {PageIndex{r * kPagesPerHugePage}, kPagesPerHugePage};
    sample.watched = touched + region.armed;
    sample.used = touched;
    ++samples_;
    sink.add(sample);
  }
}

void FaultSampler::arm(Target& target, std::uint64_t samples) {
  std::vector<PageIndex> pages;
  const std::uint64_t count = target.paged->regions();
  for (std::uint64_t seen = 0; seen < count && samples >= config_.per_region; ++seen) {
    const std::uint64_t region = target.cursor++ % count;
    const PagedObject::Region state = target.paged->look(region);
    if (state.resident == 0 || state.armed >= config_.per_region) continue;
    for (std::uint16_t k = 0; k < config_.per_region; ++k) {
      pages.push_back(PageIndex{region * kPagesPerHugePage + random_() % kPagesPerHugePage});
    }
    samples -= config_.per_region;
  }
  if (!pages.empty()) target.paged->arm(pages);
  budget_.spend(config_.cost_per_sample * static_cast<std::int64_t>(pages.size()));
}

}  // namespace tidepool::telemetry
