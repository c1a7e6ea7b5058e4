// A host as tests of policy build it: VMs of whole regions, time that passes when told, and moves that take effect at
// once.
#pragma once

#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <vector>

#include "policy/engine.h"

namespace tidepool::policy {

inline constexpr std::uint16_t kFull = kRegionPages;

struct TestVm {
  VmView view;
  std::vector<RegionNews> regions;
  ObjectView object;

  TestVm(std::uint32_t id, std::size_t count) {
    view.id = VmId{id};
    view.mode = Mode::kActive;
    view.threads = 2;
    view.fault_cost = std::chrono::microseconds(20);
    for (std::uint32_t r = 0; r < count; ++r) regions.push_back({r, kFull, 0, 0});
    view.promised = Bytes{count << 21};
  }
  RegionNews& region(std::size_t r) { return regions[r]; }
  void make_far(std::size_t r) { regions[r].resident = 0, regions[r].far = kFull; }
};

class TestHost {
 public:
  TestHost() {
    HostView& host = snapshot.host;
    host.total = Bytes{64ull << 30};
    host.available = Bytes{32ull << 30};
    host.reserve = Bytes{2ull << 30};
    host.max_far = Bytes{16ull << 30};
    host.tiers.push_back({.name = "pool", .capacity = Bytes{8ull << 30}});
    snapshot.now = MonoTime{std::chrono::hours(1)};
  }

  TestVm& add(std::uint32_t id, std::size_t regions) { return vms.emplace_back(id, regions); }
  TestVm& vm(std::uint32_t id) {
    for (TestVm& each : vms) {
      if (each.view.id.value == id) return each;
    }
    std::abort();
  }

  // One sample of a whole region, watched for the time that passed.
  void look(std::uint32_t vm, std::uint32_t region, std::uint32_t used, std::uint32_t watched = 8,
            Sees sees = Sees::kReadsAndWrites) {
    AccessSample sample;
    sample.object = {VmId{vm}, 0};
    sample.pages = {PageIndex{std::uint64_t{region} * kRegionPages}, kRegionPages};
    sample.watched = watched;
    sample.used = used;
    sample.sees = sees;
    samples.push_back(sample);
  }
  // Far pages of a region come home.
  void refault(std::uint32_t id, std::uint32_t region, std::uint16_t pages) {
    RegionNews& news = vm(id).regions[region];
    AccessSample sample;
    sample.object = {VmId{id}, 0};
    sample.pages = {PageIndex{std::uint64_t{region} * kRegionPages}, kRegionPages};
    sample.watched = news.far;
    sample.used = pages;
    sample.far = true;
    samples.push_back(sample);
    news.far = static_cast<std::uint16_t>(news.far - pages);
    news.resident = static_cast<std::uint16_t>(news.resident + pages);
  }
  // All VMs' resident regions are looked at; those in `hot` are in use.
  void look_at_all(const std::set<std::uint32_t>& hot) {
    for (TestVm& vm : vms) {
      for (const RegionNews& region : vm.regions) {
        if (region.resident > 0) look(vm.view.id.value, region.region, hot.contains(region.region) ? 8 : 0);
      }
    }
  }

  Plan tick(std::chrono::nanoseconds passed = std::chrono::seconds(1)) {
    snapshot.now = snapshot.now + passed;
    for (AccessSample& sample : samples) {
      sample.until = snapshot.now;
      sample.since = snapshot.now - passed;
      sample.window = passed;
    }
    snapshot.samples = samples;
    snapshot.vms.clear();
    for (TestVm& vm : vms) {
      vm.view.resident = vm.view.far = Bytes{};
      for (const RegionNews& region : vm.regions) {
        vm.view.resident += to_bytes(PageCount{region.resident});
        vm.view.far += to_bytes(PageCount{region.far});
      }
      vm.object = {0, PageCount{vm.regions.size() * kRegionPages}, vm.regions};
      vm.view.objects = std::span(&vm.object, 1);
      snapshot.vms.push_back(vm.view);
    }
    Plan plan = engine.tick(snapshot, config);
    samples.clear();
    return plan;
  }
  // As things are now, since the last tick.
  Plan relieve(std::uint32_t id) {
    std::vector<VmSizes> sizes;
    for (TestVm& each : vms) {
      VmSizes& now = sizes.emplace_back(VmSizes{.vm = each.view.id});
      for (const RegionNews& region : each.regions) {
        now.resident += to_bytes(PageCount{region.resident});
        now.far += to_bytes(PageCount{region.far});
      }
    }
    return engine.relieve(VmId{id}, sizes, config);
  }
  // As a pager that moves whole regions at once would.
  void carry_out(const Plan& plan) {
    for (const Move& move : plan.demotions) {
      RegionNews& region = vm(move.vm.value).regions[move.region.region];
      region.resident = static_cast<std::uint16_t>(region.resident - move.pages);
      region.far = static_cast<std::uint16_t>(region.far + move.pages);
    }
    for (const Move& move : plan.restores) {
      RegionNews& region = vm(move.vm.value).regions[move.region.region];
      region.resident = static_cast<std::uint16_t>(region.resident + region.far);
      region.far = 0;
    }
  }

  Snapshot snapshot;
  PolicyConfig config;
  Engine engine;
  std::deque<TestVm> vms;
  std::vector<AccessSample> samples;
};

inline Bytes demoted(const Plan& plan) {
  Bytes bytes;
  for (const Move& move : plan.demotions) bytes += to_bytes(PageCount{move.pages});
  return bytes;
}

// The decision of a VM; a test that expects one fails visibly when there is none.
inline Decision decision_of(const Plan& plan, std::uint32_t vm) {
  for (const Decision& decision : plan.decisions) {
    if (decision.vm.value == vm) return decision;
  }
  Decision none;
  none.detail = "there is no decision";
  return none;
}

inline std::set<std::uint32_t> up_to(std::uint32_t count) {
  std::set<std::uint32_t> all;
  for (std::uint32_t r = 0; r < count; ++r) all.insert(r);
  return all;
}

// Lets everything but `hot` prove that it is cold. Nothing moves meanwhile: the VM is held.
inline void let_cool(TestHost& host, int seconds, const std::set<std::uint32_t>& hot = {}) {
  for (TestVm& vm : host.vms) vm.view.held = true;
  for (int i = 0; i < seconds; i += 5) {
    host.look_at_all(hot);
    host.tick(std::chrono::seconds(5));
  }
  for (TestVm& vm : host.vms) vm.view.held = false;
}

}  // namespace tidepool::policy
