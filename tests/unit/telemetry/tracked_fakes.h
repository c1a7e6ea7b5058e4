// Stand-ins for the memory that trackers look at and for those who take their samples.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "telemetry/hotness/tracker.h"

namespace tidepool::telemetry {

// An object that the pager manages, as the test has it. By default everything is resident and nobody touches it.
class FakePagedObject final : public PagedObject {
 public:
  explicit FakePagedObject(std::uint64_t regions) : states(regions, Region{.resident = 512, .far = 0, .armed = 0}) {}
  std::uint64_t regions() const override { return states.size(); }
  Region look(std::uint64_t region) const override { return states[region]; }
  std::uint16_t take_touches(std::uint64_t region) override {
    const auto taken = std::exchange(touches[region], std::uint16_t{0});
    states[region].armed = static_cast<std::uint16_t>(states[region].armed - std::min(states[region].armed, taken));
    return taken;
  }
  std::uint16_t take_refaults(std::uint64_t region) override {
    return std::exchange(refaults[region], std::uint16_t{0});
  }
  policy::Sees sees() const override { return what_it_sees; }
  std::size_t arm(std::span<const PageIndex> pages) override {
    for (const PageIndex page : pages) {
      const std::uint64_t region = page.value / kPagesPerHugePage;
      ++states[region].armed;
      ++times_armed[region];
    }
    return pages.size();
  }
  void disarm(std::uint64_t region) override { states[region].armed = 0; }

  policy::Sees what_it_sees = policy::Sees::kReadsAndWrites;
  std::vector<Region> states;
  std::map<std::uint64_t, std::uint16_t> touches;
  std::map<std::uint64_t, std::uint16_t> refaults;
  std::map<std::uint64_t, int> times_armed;
};

// One VM of one object that the pager manages.
inline MemoryList managed_memory(const std::shared_ptr<PagedObject>& object, bool shared = true, std::uint32_t vm = 1) {
  auto memory = std::make_shared<TrackedMemory>();
  memory->vm = VmId{vm};
  memory->epoch = 1;
  TrackedObject tracked;
  tracked.id = {VmId{vm}, 0};
  tracked.pages = PageCount{object->regions() * kPagesPerHugePage};
  tracked.shared = shared;
  tracked.paged = object;
  memory->objects.push_back(tracked);
  return {memory};
}

class SampleList final : public SampleSink {
 public:
  void add(const policy::AccessSample& sample) override { samples.push_back(sample); }
  std::vector<policy::AccessSample> samples;
};

}  // namespace tidepool::telemetry
