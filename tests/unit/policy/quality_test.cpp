// How well the engine decides, in simulated time against what an oracle would do. Small versions of the scenarios of
// bench/policy/quality.cpp, which has the figures of docs/policy.md.
#include <gtest/gtest.h>

#include <cstdio>
#include <map>

#include "bench/policy/patterns.h"

namespace tidepool::simulator {
namespace {

using namespace literals;
using namespace std::chrono_literals;

constexpr std::uint64_t kPages = 1 << 17;  // 512 MiB

Bytes part(double share) {
  return Bytes{static_cast<std::uint64_t>(share * kPages) * kPageSize};
}

double misses(const VmTick& sum) {
  return static_cast<double>(sum.faults) / static_cast<double>(sum.accesses);
}

// A host whose tracker sees this small VM as thinly as it would see 4 GiB.
HostSpec thin() {
  HostSpec host;
  host.samples_per_second = 64;
  return host;
}

TEST(Quality, MissesLittleMoreThanAnOracleUnderALimit) {
  SimulatedHost sim(thin());
  const VmId vm = sim.add(
      {.pages = kPages, .next = zipf(kPages, 0.99, true), .operation = 50e-6, .limit = part(0.5), .stall_budget = 1.0});
  for (int i = 0; i < 240; ++i) sim.tick();
  const VmTick late = sim.sum(vm, 140);
  EXPECT_LT(misses(late), 1.3 * oracle_of_zipf(kPages, 0.99, kPages / 2));
  for (std::size_t i = 140; i < 240; ++i) {
    EXPECT_LT(static_cast<double>(sim.history(vm)[i].resident), 0.53 * kPages) << i << ": the limit is one";
  }
}

// Warm pages and cold ones beyond what fits: the first to the fast tier, the others from there to the one that takes no
// DRAM.
TEST(Quality, TwoTiersAreWorthMoreThanThePoolUnderTheSameLimit) {
  HostSpec host = thin();
  host.tiers = {{.name = "pool", .capacity = 32_GiB, .host_dram = false, .fault_cost = 25us},
                {.name = "kernel", .capacity = 32_GiB, .ratio = 0.4, .fault_cost = 5us}};
  host.fault_cost = 25e-6;
  host.shallow = 1;
  std::map<policy::TierMask, VmTick> late;
  for (const policy::TierMask tiers : {policy::TierMask{1}, policy::TierMask{3}}) {
    SimulatedHost sim(host);
    const VmId vm = sim.add({.pages = kPages,
                             .next = zipf(kPages, 1.3, true),
                             .operation = 50e-6,
                             .limit = part(0.2),
                             .stall_budget = 1.0,
                             .tiers = tiers});
    for (int i = 0; i < 300; ++i) sim.tick();
    late[tiers] = sim.sum(vm, 200);
    std::printf("tiers %u: %.0f accesses/s, %.4f faults per access, %llu resident, %llu shallow, %llu deeper\n", tiers,
                static_cast<double>(late[tiers].accesses) / 100, misses(late[tiers]),
                static_cast<unsigned long long>(late[tiers].resident),
                static_cast<unsigned long long>(late[tiers].shallow),
                static_cast<unsigned long long>(late[tiers].deeper));
    for (std::size_t i = 200; i < 300; ++i) {
      const VmTick& tick = sim.history(vm)[i];
      EXPECT_LT(static_cast<double>(tick.resident) + 0.4 * static_cast<double>(tick.shallow), 0.22 * kPages) << i;
    }
  }
  // Waiting, not accesses, which are mostly of what never leaves.
  EXPECT_LT(late[3].stall, 0.8 * late[1].stall);
  EXPECT_GT(late[3].shallow, 0u);
  EXPECT_LT(late[3].shallow, kPages / 2) << "what is cold went on";
}

TEST(Quality, IsBackWithinThirtySecondsOfAPhaseShift) {
  SimulatedHost sim(thin());
  const VmId vm = sim.add(
      {.pages = kPages, .next = phase_shift(kPages, 60), .operation = 50e-6, .limit = part(0.5), .stall_budget = 1.0});
  for (int i = 0; i < 240; ++i) sim.tick();
  const auto& history = sim.history(vm);
  for (std::size_t phase = 1; phase < 4; ++phase) {
    double steady = 0;
    for (std::size_t i = phase * 60 + 40; i < phase * 60 + 60; ++i)
      steady += static_cast<double>(history[i].accesses) / 20;
    EXPECT_GT(static_cast<double>(history[phase * 60 + 30].accesses), 0.9 * steady) << phase;
  }
}

TEST(Quality, KeepsAHotCoreWhileEverythingIsScanned) {
  SimulatedHost sim(thin());
  const VmId vm = sim.add({.pages = kPages,
                           .next = scan_with_core(kPages, 0.25),
                           .operation = 50e-6,
                           .limit = part(0.5),
                           .stall_budget = 1.0});
  for (int i = 0; i < 240; ++i) sim.tick();
  // An LRU of this size would lose all of the scan outside of the core, 0.075, and some of the core.
  EXPECT_LT(misses(sim.sum(vm, 140)), 0.078);
}

TEST(Quality, RecoversFromABadStartWithoutAnOperator) {
  SimulatedHost sim(thin());
  const VmId vm = sim.add({.pages = kPages, .next = uniform(0, kPages / 2), .operation = 200e-6, .stall_budget = 0.01});
  for (int i = 0; i < 20; ++i) sim.tick();
  sim.banish(vm, 0, kPages / 2);  // all that is used
  sim.tick();
  ASSERT_GT(sim.last(vm).stall, 0.01) << "the start is not bad";
  int seconds = 0;
  while (sim.last(vm).stall > 0.01 && seconds < 30) sim.tick(), ++seconds;
  EXPECT_LT(seconds, 15);
  EXPECT_GT(sim.sum(vm, 20).restored, 1000u) << "what is missed came home before it was asked for";
  for (int i = 0; i < 60; ++i) {
    sim.tick();
    EXPECT_LT(sim.last(vm).stall, 0.01) << i;
  }
}

TEST(Quality, TakesColdMemoryAndLeavesItAtThat) {
  SimulatedHost sim(thin());
  const VmId vm = sim.add({.pages = kPages,
                           .next = uniform(0, kPages / 4),
                           .operation = 100e-6,
                           .stall_budget = 0.01,
                           .min_cold_age = 60s});
  for (int i = 0; i < 400; ++i) sim.tick();
  EXPECT_LT(static_cast<double>(sim.last(vm).resident), 0.28 * kPages) << "three quarters are cold";
  EXPECT_GE(sim.last(vm).resident, kPages / 4);
  // Nothing changes any more: nothing moves any more.
  const VmTick late = sim.sum(vm, 300);
  EXPECT_LT(late.stall, 0.001);
  EXPECT_LT(late.demoted + late.restored, kPages / 100);
}

TEST(Quality, DoesNotPayMoreThanItsBudgetForWhatItSaves) {
  SimulatedHost sim(thin());
  const VmId vm = sim.add({.pages = kPages,
                           .next = diurnal(kPages, 0.2, 0.8, 300),
                           .operation = 100e-6,
                           .stall_budget = 0.01,
                           .min_cold_age = 30s});
  for (int i = 0; i < 900; ++i) sim.tick();
  EXPECT_LT(sim.sum(vm, 300).stall, 0.01);
}

TEST(Quality, GivesScarceMemoryToWhomItIsWorthMost) {
  HostSpec host = thin();
  host.samples_per_second = 500;
  host.total = Bytes{4 * part(1).value};
  host.others = part(0.3);
  host.reserve = part(0.25);
  SimulatedHost sim(host);
  std::vector<VmId> vms;
  for (const auto service_class : {policy::ServiceClass::kLatencySensitive, policy::ServiceClass::kStandard,
                                   policy::ServiceClass::kStandard, policy::ServiceClass::kBatch}) {
    vms.push_back(sim.add({.pages = kPages,
                           .next = zipf(kPages, 0.8, true),
                           .operation = 100e-6,
                           .service_class = service_class,
                           .guarantee = part(0.3)}));
    sim.banish(vms.back(), kPages / 4 * 3, kPages / 4);
  }
  for (int i = 0; i < 240; ++i) sim.tick();
  std::vector<std::uint64_t> resident;
  for (const VmId vm : vms) {
    resident.push_back(sim.last(vm).resident);
    EXPECT_GE(sim.last(vm).resident, kPages * 3 / 10) << "guarantees come first";
  }
  EXPECT_GT(resident[0], resident[1]);
  EXPECT_GT(resident[1], resident[3]);
  EXPECT_GT(resident[2], resident[3]);
  EXPECT_GE(sim.available(), Bytes{host.reserve.value * 9 / 10});
}

TEST(Quality, FindsColdMemoryThoughItSeesOnlyWrites) {
  SimulatedHost sim(thin());
  // Half is read and never written, a quarter is written, a quarter is neither.
  const NextPage next = [](double, load::Random& random) { return random.below(kPages / 4 * 3); };
  const VmId vm = sim.add({.pages = kPages,
                           .next = next,
                           .operation = 100e-6,
                           .write_share = 0,
                           .stall_budget = 0.01,
                           .min_cold_age = 60s,
                           .writes_only = true});
  for (int i = 0; i < 900; ++i) sim.tick();
  const VmTick late = sim.sum(vm, 600);
  EXPECT_LT(static_cast<double>(late.resident), 0.85 * kPages) << "what nobody reads was found by its silence when far";
  EXPECT_LT(late.stall, 0.01);
}

}  // namespace
}  // namespace tidepool::simulator
