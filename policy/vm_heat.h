// The heat of one VM's memory: takes in what was seen, keeps every region's evidence, age and temperature, and answers
// which regions are coldest and which far ones are missed most.
//
// Cost: what is reported, plus a tenth of all regions per tick (HeatConfig::sweep_ticks), plus one byte per region
// where something is picked. Memory: 66 bytes per 2 MiB region and 272 per split one (docs/policy.md has the sum). Not
// thread-safe; deterministic.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "policy/age_threshold.h"
#include "policy/config.h"
#include "policy/miss_curve.h"
#include "policy/plan.h"
#include "policy/region_heat.h"

namespace tidepool::policy {

// What is reported so much later is fetched from memory now.
inline constexpr std::size_t kLookAhead = 6;

// A region that a plan may name.
struct Candidate {
  RegionId id;
  UnitMask units = kAllUnits;
  std::uint16_t pages = 0;  // that would move
  float rate = 0;           // uses of one of them per second
  // What may have escaped notice: half a use more (Jeffreys' prior) in all the time that the region was watched.
  float doubt = 0;
  float success = 1;  // the part of the pages that is likely to go: where pages are spared that shows only then
};

enum class Pick : std::uint8_t {
  kAny,      // whatever is coldest
  kRipe,     // unused for the minimum age, and known to be
  kUnknown,  // unused for the minimum age, as far as can be seen, which is not far
};

struct PickLimits {
  std::uint64_t pages = 0;    // stop when there are as many
  std::uint32_t regions = 0;  // or at so many regions
};

// How the planned moves of cold memory turned out; grows, and is read as differences.
struct Regrets {
  std::uint64_t moved = 0;     // pages trimmed because they were cold
  std::uint64_t returned = 0;  // of them, used within the regret window
};

enum class MoveKind : std::uint8_t { kTrim, kCanary, kForced };

class VmHeat {
 public:
  VmHeat();

  // ---- input, once per tick in this order
  void begin_tick(const Moment& now, const HeatConfig& config);
  // `paper`: what is far is so on paper only. Changing it brings home what was far on paper.
  void set_paper(bool paper);
  // `spares`: demotions leave what came home within about `hold` seconds.
  void set_spares(bool spares, float hold) {
    spares_ = spares;
    hold_ = hold;
  }
  // Learns of memory objects and their size.
  void know(const ObjectView& object);
  // A sample that comes soon: its region's memory is on the way when it does.
  void expect(const AccessSample& sample) const;
  // First all samples of far pages, then the others: time that passes for a region is accounted with the first of them.
  void take(const AccessSample& sample, IntakeCounts& counts);
  void take(const ObjectView& object, IntakeCounts& counts);
  // Brings the next tenth of the regions up to date. `ripe_age` in scan periods; `regret` in tenths of a second.
  void sweep(std::uint8_t ripe_age, std::uint32_t regret, bool partial);

  // ---- what there is
  std::uint64_t regions() const { return regions_; }
  std::uint64_t resident_pages() const { return resident_; }
  std::uint64_t far_pages() const { return far_; }
  std::uint64_t pending_pages() const { return pending_; }
  std::uint32_t pending_moves() const { return pending_moves_; }
  std::uint64_t unproven_canaries() const { return canaries_; }
  // Pages that could go, by temperature; and those of regions that are ripe and known.
  const std::array<std::int32_t, kTemperatures>& movable() const { return any_.pages; }
  const std::array<std::int32_t, kTemperatures>& ripe() const { return ripe_.pages; }
  std::int64_t ripe_pages() const { return ripe_.all_pages; }
  std::uint8_t ripe_age() const { return ripe_age_; }
  // How long a planned move takes to take effect, in seconds, on average.
  double move_seconds() const { return move_seconds_; }
  // Uses of far pages per second, as measured over some five seconds.
  double fault_rate() const { return fault_rate_; }
  Regrets regrets() const { return regrets_; }
  // Uses per second that a page is assumed to have of which nothing is known; learned from what became of others.
  float unknown_rate() const;
  AgeThreshold& threshold() { return threshold_; }
  const AgeThreshold& threshold() const { return threshold_; }
  const RefaultDistances& refault_distances() const { return distances_; }
  MissCurve miss_curve() const;
  // Pages, resident and far, by age in scan periods, as of the last whole sweep.
  const std::array<std::uint32_t, kAges>& pages_by_age() const { return by_age_; }
  Bytes footprint() const;

  // ---- picking
  void coldest(Pick which, PickLimits limits, std::vector<Candidate>& out);
  void most_missed(PickLimits limits, std::vector<Candidate>& out);
  // Regions with far pages in the shallow tier that are used less than `below` times a second; looks at a part of all
  // regions each time, in turn.
  void coldest_shallow(float below, PickLimits limits, std::vector<Candidate>& out);
  // They were asked to go on: not asked again for a while.
  void note_deeper(RegionId id);
  void note_demotion(const Candidate& candidate, MoveKind kind);
  void note_restore(const Candidate& candidate);
  // Moves were what was short in this tick, or were not: how much a region's few pages count against it.
  void price_moves(bool short_of_moves);
  // A noted demotion that did not even begin.
  void forget_move(RegionId id);
  // It has begun, and is of so many pages.
  void begin_move(RegionId id, std::uint32_t pages);
  // It is over: so many pages went, and so many were left alone.
  void end_move(RegionId id, std::uint32_t pages, std::uint32_t spared);

  // For people and pictures: the rate at which a region's pages are used; 0 for regions without pages.
  float rate_at(std::uint32_t object, std::uint32_t region) const;
  bool split_at(std::uint32_t object, std::uint32_t region) const;
  // Recounts every sum from the regions; true when they agree with what is kept. For tests: walks all memory.
  bool consistent() const;

 private:
  struct Shallow {
    std::uint16_t pages = 0;
    std::uint16_t asked_at = 0;  // seconds, modulo 2^16; when its pages were asked to go on
    bool asked = false;
  };
  struct Object {
    std::uint32_t id = 0;
    std::uint64_t pages = 0;
    std::vector<RegionHeat> regions;
    // Bit 7: ripe; bit 6: unknown; bits 0-5: temperature, 0 when nothing can go.
    std::vector<std::uint8_t> temperature;
    std::vector<std::uint8_t> far_temperature;
    std::vector<Neighbourhood> hoods;
    std::vector<PartHeat> parts;
    std::vector<std::uint16_t> free_parts;
    std::vector<Shallow> shallow;  // empty until there is something
  };
  struct Filed {
    std::array<std::int32_t, kTemperatures> pages{};
    std::array<std::int32_t, kTemperatures> regions{};
    std::int64_t all_pages = 0;
    void count(unsigned temperature, std::int32_t n, std::int32_t sign) {
      pages[temperature] += sign * n;
      regions[temperature] += sign;
      all_pages += std::int64_t{sign} * n;
    }
  };
  // Under what a region is filed in the sums.
  struct Entry {
    std::uint8_t temperature = 0;
    std::uint8_t far_temperature = 0;
    std::uint16_t pages = 0;
    std::uint16_t far = 0;
    bool operator==(const Entry&) const = default;
  };
  static constexpr float kLeastMovePrice = 32;
  static constexpr float kMostMovePrice = 8192;
  static constexpr std::uint8_t kRipeBit = 0x80;
  static constexpr std::uint8_t kUnknownBit = 0x40;
  static constexpr std::uint8_t kTemperatureBits = 0x3f;

  // Brings a region up to date, and, when it goes, the sums as well.
  class Change;

  static void prefetch(const Object& object, std::uint64_t region);
  Object* find(std::uint32_t object);
  const Object* find(std::uint32_t object) const;
  void grow(Object& object, PageCount pages);
  Entry filed(const Object& object, std::uint32_t region) const;
  void refile(Object& object, std::uint32_t region, const Entry& before);
  void count(const Entry& entry, std::int32_t sign);

  void advance(Object& object, std::uint32_t region, std::uint16_t refaults = 0);
  float fading(std::uint32_t tenths) const;
  void learn(Object& object, std::uint32_t region, Exposure& into, Exposure what, float prior);
  float prior_of(const Object& object, std::uint32_t region) const;
  float resident_rate(const Object& object, std::uint32_t region) const;
  float far_rate(const Object& object, std::uint32_t region) const;
  std::uint8_t age_of(const RegionHeat& region) const;
  std::uint16_t movable_of(const Object& object, const RegionHeat& region) const;
  int hot_pages(const Object& object, const RegionHeat& region) const;
  bool only_hot_left(const Object& object, const RegionHeat& region) const;
  float going_rate(const Object& object, const RegionHeat& region, float prior) const;
  void used(RegionHeat& region, float pages);
  void came_back(RegionHeat& region, std::uint16_t pages);
  void settle(RegionHeat& region);
  // Of a region whose move is under way: it is over, and `then` has the last word on it.
  template <class Then>
  void settle_move(RegionId id, Then&& then);
  void note_fruitless(RegionHeat& region);

  void take_news(Object& object, const RegionNews& news);
  void take_refaults(Object& object, std::uint32_t region, PageRun run, float pages);
  void take_share(Object& object, std::uint32_t region, const AccessSample& sample, PageRun run, float share,
                  float seconds);
  static UnitMask unit_of(PageRun run);
  void sweep_region(Object& object, std::uint32_t region);
  void roll_window(Object& object, std::uint32_t region);
  void judge_part(Object& object, RegionHeat& region, float prior);
  void split(Object& object, RegionHeat& region);
  void merge(Object& object, RegionHeat& region);
  void end_round();
  Candidate candidate_of(const Object& object, std::uint32_t region, std::uint16_t pages, float rate) const;

  Moment now_;
  HeatConfig config_;
  double tick_seconds_ = 0;
  float half_life_ = 60;  // seconds
  float fade_per_tenth_ = 0;
  float period_seconds_ = 10;
  bool paper_ = false;
  bool spares_ = false;
  float hold_ = 20;
  float stuck_fade_ = 0.6f;  // in a round of the sweep
  bool partial_ = false;
  std::uint8_t ripe_age_ = 255;
  std::uint32_t regret_ = 3000;

  std::vector<Object> objects_;
  std::uint64_t regions_ = 0;
  std::uint64_t resident_ = 0;
  std::uint64_t far_ = 0;
  std::uint64_t pending_ = 0;
  std::uint32_t pending_moves_ = 0;
  std::uint64_t canaries_ = 0;
  float move_price_ = kLeastMovePrice;
  Filed any_;   // all that could go
  Filed ripe_;  // of them, ripe and known
  Filed unknown_;
  Filed missed_;  // far pages

  Exposure outcome_;  // of far pages in the first minute after they were trimmed
  std::uint32_t evicted_ = 0;
  Regrets regrets_;
  AgeThreshold threshold_;
  RefaultDistances distances_;
  double fault_rate_ = 0;
  double move_seconds_ = 1.5;
  float sparing_success_ = 1;
  std::uint64_t faults_now_ = 0;
  std::uint64_t looks_now_ = 0;
  double looks_per_second_ = 0;

  std::size_t sweep_object_ = 0;
  std::uint32_t sweep_region_ = 0;
  std::uint32_t pick_from_ = 0;
  std::size_t shallow_object_ = 0;  // where coldest_shallow goes on
  std::uint32_t shallow_region_ = 0;
  std::uint32_t rounds_ = 0;
  std::array<std::uint32_t, kAges> by_age_{};
  std::array<std::uint32_t, kAges> by_age_next_{};
};

}  // namespace tidepool::policy
