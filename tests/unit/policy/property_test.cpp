// What must hold whatever happens: guarantees, bounds, determinism; and that nothing that is fed to it upsets the
// engine.
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <random>

#include "tests/unit/policy/policy_fixture.h"

namespace tidepool::policy {
namespace {

using namespace literals;

unsigned seed_of_run() {
  const char* given = std::getenv("TIDEPOOL_SEED");
  return given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
}

class Random {
 public:
  explicit Random(unsigned seed) : random_(seed) {}
  std::uint64_t below(std::uint64_t n) { return n == 0 ? 0 : random_() % n; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }

 private:
  std::mt19937_64 random_;
};

// A host on which everything may happen, but nothing that is not so.
class Life {
 public:
  explicit Life(unsigned seed) : random(seed) {
    host.config.classes[1].min_cold_age = std::chrono::seconds(20);
    host.config.heat.scan_period = std::chrono::seconds(5);
    for (std::uint32_t id = 1; id <= 6; ++id) come();
  }

  void come() {
    TestVm& vm = host.add(next_id++, 8 + random.below(40));
    vm.view.service_class = static_cast<ServiceClass>(random.below(3));
    vm.view.partial = random.one_in(2);
    vm.view.guarantee = Bytes{random.below(vm.view.promised.value)};
    if (random.one_in(3)) vm.view.limit = Bytes{random.below(vm.view.promised.value)};
    if (random.one_in(4)) vm.view.stall_budget = static_cast<double>(random.below(100)) / 100;
    vm.view.mode = any_mode();
  }
  Mode any_mode() { return random.one_in(6) ? Mode::kObserve : random.one_in(6) ? Mode::kDryRun : Mode::kActive; }

  void live(int tick) {
    if (random.one_in(200) && host.vms.size() > 2)
      host.vms.erase(host.vms.begin() + static_cast<std::ptrdiff_t>(random.below(host.vms.size())));
    if (random.one_in(200) && host.vms.size() < 10) come();
    HostView& view = host.snapshot.host;
    view.available = random.one_in(50) ? Bytes{random.below((4_GiB).value)} : Bytes{(8 + random.below(4)) << 30};
    view.frozen = random.one_in(100);
    view.require_evacuable = !random.one_in(20);
    view.max_far = random.one_in(10) ? Bytes{random.below((200_MiB).value)} : 16_GiB;
    view.tiers[0].capacity = random.one_in(10) ? Bytes{random.below((100_MiB).value)} : 8_GiB;
    view.memory_pressure = random.one_in(30) ? 0.3 : 0;
    for (TestVm& vm : host.vms) {
      vm.view.held = random.one_in(50);
      if (random.one_in(300)) vm.view.mode = any_mode();
      vm.view.stall = random.one_in(20) ? 0.1 : 0;
      for (RegionNews& region : vm.regions) {
        const bool hot = (region.region * 7 + static_cast<std::uint32_t>(tick) / 500) % 5 == 0;
        if (region.far > 0 && random.one_in(hot ? 3 : 60))
          host.refault(vm.view.id.value, region.region, static_cast<std::uint16_t>(1 + random.below(region.far)));
        // Guests give memory back, and touch it for the first time.
        if (random.one_in(300)) region.resident = static_cast<std::uint16_t>(random.below(region.resident + 1u));
        if (random.one_in(30))
          region.resident = static_cast<std::uint16_t>(region.resident +
                                                       random.below(kRegionPages + 1u - region.resident - region.far));
        if (region.resident > 0 && random.one_in(4))
          host.look(vm.view.id.value, region.region, hot ? 4 : random.one_in(20) ? 1 : 0);
      }
    }
  }

  Random random;
  TestHost host;
  std::uint32_t next_id = 1;
};

void expect_within_bounds(const Life& life, const Plan& plan, int tick) {
  const HostView& view = life.host.snapshot.host;
  std::map<std::uint32_t, Bytes> taken;
  std::map<std::pair<std::uint32_t, RegionId>, int> once;
  Bytes total;
  Bytes far;
  for (const VmView& vm : life.host.snapshot.vms) far += vm.far;
  for (const Move& move : plan.demotions) {
    ASSERT_EQ((once[{move.vm.value, move.region}]++), 0) << tick;
    ASSERT_LE(move.pages, kRegionPages);
    ASSERT_NE(move.units, 0u);
    ASSERT_LT(move.tier, view.tiers.size());
    taken[move.vm.value] += to_bytes(PageCount{move.pages});
    total += to_bytes(PageCount{move.pages});
  }
  ASSERT_LE(plan.demotions.size(), life.host.config.moves_under_way);
  ASSERT_FALSE(view.frozen && (!plan.demotions.empty() || !plan.restores.empty())) << tick;
  for (const VmView& vm : life.host.snapshot.vms) {
    const Bytes gone = taken[vm.id.value];
    if (gone == Bytes{}) continue;
    ASSERT_EQ(vm.mode, Mode::kActive) << tick;
    ASSERT_FALSE(vm.held) << tick;
    ASSERT_GE(vm.resident, vm.guarantee + gone) << tick;
  }
  if (total == Bytes{}) return;
  ASSERT_LE(far + total, view.max_far) << tick;
  ASSERT_LE(total, view.tiers[0].capacity) << tick;
  ASSERT_LE(total, life.host.config.demote_per_second + life.host.config.demote_per_second) << tick;
}

// Between two ticks, a group is full now and then.
void expect_relief_within_bounds(Life& life, Life& twin, int tick) {
  if (tick % 5 != 0) return;
  const TestVm& vm = life.host.vms[static_cast<std::size_t>(tick) % life.host.vms.size()];
  const Plan plan = life.host.relieve(vm.view.id.value);
  ASSERT_EQ(plan, twin.host.relieve(vm.view.id.value)) << "equal inputs, tick " << tick;
  Bytes far;
  for (const TestVm& each : life.host.vms) {
    for (const RegionNews& region : each.regions) far += to_bytes(PageCount{region.far});
  }
  if (!plan.demotions.empty()) {
    ASSERT_LE(far + demoted(plan), life.host.snapshot.host.max_far) << tick;
    ASSERT_EQ(vm.view.mode, Mode::kActive) << tick;
    ASSERT_FALSE(vm.view.held || life.host.snapshot.host.frozen) << tick;
  }
  for (const Move& move : plan.demotions) ASSERT_EQ(move.vm, vm.view.id) << tick;
  life.host.carry_out(plan);
  twin.host.carry_out(plan);
}

// Ten thousand ticks; TIDEPOOL_TICKS for more.
TEST(Property, HoldsForTenThousandTicks) {
  const unsigned seed = seed_of_run();
  SCOPED_TRACE("TIDEPOOL_SEED=" + std::to_string(seed));
  const char* ticks = std::getenv("TIDEPOOL_TICKS");
  const int count = ticks != nullptr ? std::atoi(ticks) : 10000;
  Life life(seed);
  Life twin(seed);
  for (int tick = 0; tick < count; ++tick) {
    life.live(tick);
    twin.live(tick);
    const Plan plan = life.host.tick();
    ASSERT_EQ(plan, twin.host.tick()) << "equal inputs, tick " << tick;
    expect_within_bounds(life, plan, tick);
    if (HasFatalFailure()) return;
    ASSERT_EQ(plan.intake.samples_absurd + plan.intake.news_absurd + plan.intake.values_absurd, 0u) << tick;
    life.host.carry_out(plan);
    twin.host.carry_out(plan);
    expect_relief_within_bounds(life, twin, tick);
    if (HasFatalFailure()) return;
    for (const VmView& vm : life.host.snapshot.vms) {
      const bool could = vm.mode == Mode::kActive && !vm.held && !life.host.snapshot.host.frozen &&
                         life.host.snapshot.host.available > 1_GiB && vm.far > Bytes{};
      if (!could || vm.resident >= vm.guarantee) continue;
      Bytes coming;
      for (const Move& move : plan.restores) coming += move.vm == vm.id ? to_bytes(PageCount{move.pages}) : Bytes{};
      ASSERT_GE(coming, std::min(vm.guarantee - vm.resident, vm.far))
          << "vm " << vm.id.value << ", tick " << tick << ": " << decision_of(plan, vm.id.value).detail;
    }
    if (tick % 500 != 0) continue;
    for (const TestVm& vm : life.host.vms) ASSERT_TRUE(life.host.engine.heat_of(vm.view.id)->consistent()) << tick;
  }
}

TEST(Property, SettlesUnderConstantInput) {
  TestHost host;
  host.add(1, 100).view.limit = 120_MiB;
  host.vm(1).view.stall_budget = 1;
  host.add(2, 100);
  std::set<std::uint32_t> hot;
  for (std::uint32_t r = 0; r < 30; ++r) hot.insert(r);
  std::size_t late = 0;
  for (int i = 0; i < 1200; ++i) {
    host.look_at_all(hot);
    const Plan plan = host.tick();
    host.carry_out(plan);
    if (i > 600) late += plan.demotions.size() + plan.restores.size();
  }
  EXPECT_EQ(late, 0u);
  EXPECT_LE(host.engine.heat_of(VmId{2})->resident_pages(), 31u * kRegionPages);
}

// Whatever a tracker, a kernel or a bug may send: nothing breaks, sums stay sums, bounds stay bounds.
TEST(Property, SurvivesInputThatMakesNoSense) {
  const unsigned seed = seed_of_run();
  SCOPED_TRACE("TIDEPOOL_SEED=" + std::to_string(seed));
  Random random(seed);
  const double absurd[] = {std::numeric_limits<double>::quiet_NaN(), -1, 1e300, 0, 0.5, -1e300};
  const std::uint64_t sizes[] = {0, 1, 4096, 1ull << 21, 1ull << 40, ~0ull, 1ull << 63};
  Engine engine;
  IntakeCounts sum;
  for (int tick = 0; tick < 3000; ++tick) {
    Snapshot snapshot;
    const auto any_size = [&] { return Bytes{sizes[random.below(std::size(sizes))]}; };
    const auto any_double = [&] { return absurd[random.below(std::size(absurd))]; };
    snapshot.now = MonoTime{
        Nanoseconds{static_cast<std::int64_t>(random.one_in(20) ? random.below(1ull << 62) : tick * 1'000'000'000ull)}};
    snapshot.time_of_day = std::chrono::seconds(static_cast<std::int64_t>(random.below(1ull << 40)) - (1ll << 39));
    snapshot.host.total = any_size();
    snapshot.host.available = any_size();
    snapshot.host.reserve = any_size();
    snapshot.host.max_far = any_size();
    snapshot.host.memory_pressure = any_double();
    for (std::uint64_t i = random.below(3); i > 0; --i) {
      TierView tier{
          .name = "t", .usable = random.one_in(2), .capacity = any_size(), .used = any_size(), .ratio = any_double()};
      tier.fault_cost = Nanoseconds{static_cast<std::int64_t>(random.below(1ull << 50)) - 1000};
      snapshot.host.tiers.push_back(tier);
    }
    std::vector<std::vector<RegionNews>> news(6);
    std::vector<ObjectView> objects(6);
    for (std::size_t v = 0; v < 6; ++v) {
      if (random.one_in(10)) continue;
      VmView vm;
      vm.id = VmId{static_cast<std::uint32_t>(random.below(8))};
      vm.mode = static_cast<Mode>(random.below(3));
      vm.partial = random.one_in(2);
      vm.service_class = static_cast<ServiceClass>(random.below(256));
      vm.promised = any_size(), vm.resident = any_size(), vm.leaving = any_size(), vm.far = any_size();
      vm.guarantee = any_size();
      if (random.one_in(2)) vm.limit = any_size();
      if (random.one_in(2)) vm.shallow_tier = static_cast<unsigned>(random.below(5));
      vm.shallow = any_size();
      if (random.one_in(3)) vm.leased = {static_cast<TierMask>(random.below(1ull << 32)), any_size()};
      vm.stall = any_double();
      vm.stall_budget = any_double();
      vm.weight = any_double();
      vm.min_cold_age = Nanoseconds{static_cast<std::int64_t>(random.below(1ull << 62)) - (1ll << 61)};
      vm.threads = static_cast<unsigned>(random.below(1ull << 32));
      vm.fault_cost = Nanoseconds{static_cast<std::int64_t>(random.below(1ull << 60)) - 100};
      for (std::uint64_t n = random.below(40); n > 0; --n) {
        news[v].push_back({static_cast<std::uint32_t>(random.one_in(10) ? random.below(1ull << 32) : random.below(64)),
                           static_cast<std::uint16_t>(random.below(700)), static_cast<std::uint16_t>(random.below(700)),
                           static_cast<std::uint16_t>(random.below(700)),
                           static_cast<std::uint16_t>(random.below(700))});
      }
      objects[v] = {static_cast<std::uint32_t>(random.below(3)),
                    PageCount{random.one_in(300) ? random.below(1 << 20) : random.below(64 * kRegionPages)}, news[v]};
      vm.objects = std::span(&objects[v], 1);
      snapshot.vms.push_back(vm);
    }
    std::vector<AccessSample> samples;
    for (std::uint64_t n = random.below(60); n > 0; --n) {
      AccessSample sample;
      sample.object = {VmId{static_cast<std::uint32_t>(random.below(9))}, static_cast<std::uint32_t>(random.below(4))};
      sample.pages = {PageIndex{random.one_in(8) ? random.below(~0ull) : random.below(64 * kRegionPages)},
                      random.one_in(8) ? random.below(~0ull) : random.below(2000)};
      sample.since = MonoTime{Nanoseconds{static_cast<std::int64_t>(random.below(1ull << 62))}};
      sample.until = random.one_in(4) ? MonoTime{} : sample.since + std::chrono::seconds(random.below(100));
      sample.window = Nanoseconds{static_cast<std::int64_t>(random.below(1ull << 36)) - 10};
      sample.watched = static_cast<std::uint32_t>(random.below(600));
      sample.used = static_cast<std::uint32_t>(random.one_in(8) ? random.below(1ull << 32) : random.below(600));
      sample.sees = static_cast<Sees>(random.below(3));
      sample.evidence = static_cast<Evidence>(random.below(2));
      sample.far = random.one_in(3);
      sample.confidence = random.one_in(4) ? static_cast<float>(any_double()) : 1;
      samples.push_back(sample);
    }
    snapshot.samples = samples;
    PolicyConfig config;
    config.demote_per_second = any_size();
    config.restore_per_second = any_size();
    config.max_regions_per_tick = static_cast<std::uint32_t>(random.below(2000));
    const Plan plan = engine.tick(snapshot, config);
    sum.samples_absurd += plan.intake.samples_absurd;
    sum.samples_stale += plan.intake.samples_stale;
    sum.news_absurd += plan.intake.news_absurd;
    sum.values_absurd += plan.intake.values_absurd;
    sum.duplicate_vms += plan.intake.duplicate_vms;
    sum.clock_jumps += plan.intake.clock_jumps;
    ASSERT_LE(plan.demotions.size(), config.moves_under_way);
    for (const Move& move : plan.demotions) {
      engine.not_taken(move);
      if (random.one_in(3)) engine.not_taken(move);
    }
    for (std::uint32_t id = 0; id < 8; ++id) {
      const VmHeat* heat = engine.heat_of(VmId{id});
      if (heat == nullptr) continue;
      ASSERT_TRUE(heat->consistent()) << tick;
      ASSERT_GE(heat->fault_rate(), 0) << tick;
      ASSERT_TRUE(std::isfinite(heat->rate_at(0, 3))) << tick;
    }
    engine.fits(any_size(), any_size());
    const auto any_vm = [&] { return VmId{static_cast<std::uint32_t>(random.below(9))}; };
    const VmSizes now[] = {{any_vm(), any_size(), any_size(), any_size()}};
    for (const Move& move : engine.relieve(any_vm(), now, config).demotions) engine.not_taken(move);
    ASSERT_LT(engine.footprint(), 400_MiB) << tick;
  }
  EXPECT_GT(sum.samples_absurd, 0u);
  EXPECT_GT(sum.samples_stale, 0u);
  EXPECT_GT(sum.news_absurd, 0u);
  EXPECT_GT(sum.values_absurd, 0u);
  EXPECT_GT(sum.duplicate_vms, 0u);
  EXPECT_GT(sum.clock_jumps, 0u);
}

}  // namespace
}  // namespace tidepool::policy
