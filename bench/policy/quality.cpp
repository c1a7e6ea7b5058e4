// How well the engine decides, against an oracle that knows the distribution, in simulated time:
// build/release/bin/policy_quality [SCENARIO]; figures in docs/policy.md. With --trace FILE, what it decides for a VM
// whose trace was recorded (tidectl vm record).
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "base/text.h"
#include "bench/policy/patterns.h"
#include "bench/policy/replay.h"

namespace tidepool::simulator {
namespace {

constexpr std::uint64_t kPages = 1 << 20;  // 4 GiB

Bytes part_of(std::uint64_t pages, double part) {
  return Bytes{static_cast<std::uint64_t>(static_cast<double>(pages) * part) * kPageSize};
}

double miss_ratio(const VmTick& sum) {
  return static_cast<double>(sum.faults) / static_cast<double>(std::max<std::uint64_t>(1, sum.accesses));
}

void trace(SimulatedHost& sim, VmId vm, int ticks, int every = 10) {
  static const bool verbose = std::getenv("VERBOSE") != nullptr;
  for (int i = 0; i < ticks; ++i) {
    sim.tick();
    if (!verbose || static_cast<int>(sim.seconds()) % every != 0) continue;
    const VmTick& now = sim.last(vm);
    std::printf("  %4.0f s: %lu accesses, misses %.4f, resident %.1f%%, demoted %lu, restored %lu, stall %.2f%%\n",
                sim.seconds(), now.accesses, miss_ratio(now),
                100.0 * static_cast<double>(now.resident) / static_cast<double>(sim.spec(vm).pages), now.demoted,
                now.restored, now.stall * 100);
    for (const policy::Decision& d : sim.plan().decisions) {
      std::printf("         %s: %s, %u regions (%s)\n", std::string(word(d.action)).c_str(),
                  std::string(word(d.reason)).c_str(), d.regions, d.detail.c_str());
    }
  }
}

void zipf_at_half(bool clustered, HostSpec host, const char* name) {
  SimulatedHost sim(std::move(host));
  const VmId vm = sim.add(
      {.pages = kPages, .next = zipf(kPages, 0.99, clustered), .limit = part_of(kPages, 0.5), .stall_budget = 1.0});
  trace(sim, vm, 300);
  const VmTick late = sim.sum(vm, 200);
  const double oracle = oracle_of_zipf(kPages, 0.99, kPages / 2);
  std::printf("%-34s misses %.4f, oracle %.4f, ratio %.2f, resident %.1f%%\n", name, miss_ratio(late), oracle,
              miss_ratio(late) / oracle, 100.0 * static_cast<double>(late.resident) / kPages);
}

void zipfs() {
  HostSpec host;
  zipf_at_half(true, host, "zipf clustered");
  HostSpec rounds = host;
  rounds.watch_ticks = 8;
  zipf_at_half(true, rounds, "zipf clustered, watched 8 s");
  rounds.samples_per_second = 5000;
  zipf_at_half(true, rounds, "zipf clustered, 10x the samples");
  zipf_at_half(false, host, "zipf scattered");
}

// Nothing is ordered: what is cold goes, within a stall budget.
void trimming() {
  for (const double budget : {0.002, 0.01, 0.05}) {
    SimulatedHost sim({});
    const VmId vm = sim.add({.pages = kPages,
                             .next = zipf(kPages, 0.99, true),
                             .stall_budget = budget,
                             .min_cold_age = std::chrono::seconds(30)});
    trace(sim, vm, 900, 30);
    const VmTick late = sim.sum(vm, 600);
    std::printf("trim zipf, stall budget %.1f%%         stall %.2f%%, resident %.1f%%, moved %.0f pages/s\n",
                budget * 100, late.stall * 100, 100.0 * static_cast<double>(late.resident) / kPages,
                static_cast<double>(late.demoted + late.restored) / 300);
  }
}

void phases() {
  SimulatedHost sim({});
  const VmId vm =
      sim.add({.pages = kPages, .next = phase_shift(kPages, 120), .limit = part_of(kPages, 0.5), .stall_budget = 1.0});
  trace(sim, vm, 600);
  for (int phase = 1; phase < 5; ++phase) {
    const auto& history = sim.history(vm);
    double steady = 0;
    for (int i = phase * 120 + 90; i < phase * 120 + 120; ++i) steady += static_cast<double>(history[i].accesses) / 30;
    int back = 0;
    while (back < 120 && static_cast<double>(history[phase * 120 + back].accesses) < 0.9 * steady) ++back;
    std::printf("phase shift %d: 90%% of %.0f accesses/s after %d s\n", phase, steady, back);
  }
}

void scan() {
  SimulatedHost sim({});
  const VmId vm = sim.add(
      {.pages = kPages, .next = scan_with_core(kPages, 0.25), .limit = part_of(kPages, 0.5), .stall_budget = 1.0});
  trace(sim, vm, 300);
  const VmTick late = sim.sum(vm, 200);
  // The oracle keeps the core and as much of the rest as fits: of the scan, two thirds miss.
  const double oracle = 0.1 * 0.5;
  std::printf("scan with hot core                 misses %.4f, oracle %.4f, ratio %.2f, resident %.1f%%\n",
              miss_ratio(late), oracle, miss_ratio(late) / oracle, 100.0 * static_cast<double>(late.resident) / kPages);
}

void days() {
  SimulatedHost sim({});
  const VmId vm = sim.add({.pages = kPages,
                           .next = diurnal(kPages, 0.2, 0.8, 7200),
                           .operation = 1e-3,
                           .stall_budget = 0.01,
                           .min_cold_age = std::chrono::seconds(60)});
  trace(sim, vm, 14400, 60);
  const VmTick late = sim.sum(vm, 7200);
  double resident = 0;
  const auto& history = sim.history(vm);
  for (std::size_t i = 7200; i < history.size(); ++i)
    resident += static_cast<double>(history[i].resident) / 7200 / kPages;
  std::printf("diurnal 20%%..80%%, budget 1%%         stall %.2f%%, resident %.1f%% on average (used: 50%%)\n",
              late.stall * 100, resident * 100);
}

void bad_start() {
  SimulatedHost sim({});
  const VmId vm = sim.add({.pages = kPages, .next = uniform(0, kPages / 2), .stall_budget = 0.01});
  trace(sim, vm, 30);
  sim.banish(vm, 0, kPages / 2);  // all that is hot
  int below = 0;
  double stall = 1;
  for (int i = 0; i < 120 && stall > 0.01; ++i) {
    trace(sim, vm, 1, 1);
    stall = sim.last(vm).stall;
    below = i + 1;
  }
  std::printf("bad start: stall below 1%% after %d s; restored unasked %lu of %lu pages\n", below,
              sim.sum(vm, 0).restored, kPages / 2);
}

void unequal() {
  HostSpec host;
  host.total = Bytes{8ull << 30};
  host.others = Bytes{768ull << 20};
  host.reserve = Bytes{512ull << 20};
  host.samples_per_second = 2000;
  SimulatedHost sim(host);
  constexpr std::uint64_t kSmall = 1 << 18;  // 1 GiB each
  std::vector<VmId> vms;
  for (int i = 0; i < 8; ++i) {
    VmSpec spec{.pages = kSmall};
    spec.service_class = i < 2   ? policy::ServiceClass::kLatencySensitive
                         : i < 6 ? policy::ServiceClass::kStandard
                                 : policy::ServiceClass::kBatch;
    spec.next = zipf(kSmall, i % 2 == 0 ? 0.99 : 0.6, true);
    spec.guarantee = part_of(kSmall, 0.3);
    spec.operation = i % 2 == 0 ? 20e-6 : 100e-6;
    vms.push_back(sim.add(spec));
    sim.banish(vms.back(), kSmall / 4 * 3, kSmall / 4);
  }
  trace(sim, vms[0], 600, 60);
  std::printf("8 GiB of VMs on 8 GiB, 0.75 GiB taken: available %.2f GiB (reserve 0.5), level %s\n",
              static_cast<double>(sim.available().value) / (1 << 30),
              std::string(word(sim.plan().pressure.level)).c_str());
  for (int i = 0; i < 8; ++i) {
    const VmTick late = sim.sum(vms[i], 500);
    std::printf("   vm %d %-10s %s uses/s %6.0f: resident %.1f%%, stall %.2f%%\n", i,
                i < 2   ? "latency"
                : i < 6 ? "standard"
                        : "batch",
                i % 2 == 0 ? "skewed" : "flat  ", static_cast<double>(late.accesses) / 100,
                100.0 * static_cast<double>(late.resident) / kSmall, late.stall * 100);
  }
}

void show(const char* name, const Replayed& played) {
  const double all = static_cast<double>(played.pages) * kPageSize / (1 << 30);
  std::printf("%-34s faults %lu of %.0f uses, oracle %.0f, resident %.1f%%, saved %.2f GiB, stall %.2f%%\n", name,
              played.faults, played.uses, played.oracle_faults, played.resident * 100, (1 - played.resident) * all,
              played.stall * 100);
  for (const auto& [what, decided] : played.decisions) {
    std::printf("   %s: %s, in %lu rounds, %lu regions\n", std::string(word(what.first)).c_str(),
                std::string(word(what.second)).c_str(), decided.times, decided.regions);
  }
}

// What is cold goes by itself, and an operator's order: as the agent would have had it.
int play(const std::string& path) {
  const std::pair<const char*, ReplaySpec> specs[] = {
      {"what is cold, budget 1%", {.stall_budget = 0.01}},
      {"limit 75%", {.limit = 0.75, .stall_budget = 1.0}},
      {"limit 50%", {.limit = 0.5, .stall_budget = 1.0}},
  };
  bool first = true;
  for (const auto& [name, spec] : specs) {
    auto reader = telemetry::TraceReader::open(path, VmId{1});
    if (!reader) return std::fprintf(stderr, "policy_quality: %s\n", reader.error().message().c_str()), 1;
    const auto played = replay(std::move(*reader), spec);
    if (!played) return std::fprintf(stderr, "policy_quality: %s\n", played.error().message().c_str()), 1;
    if (std::exchange(first, false)) {
      std::printf("%s: %lu rounds in %.0f s, %lu samples (%lu of other memory), %.2f GiB%s\n",
                  printable(played->vm).c_str(), played->rounds, played->seconds, played->samples, played->strays,
                  static_cast<double>(played->pages) * kPageSize / (1 << 30), played->whole ? "" : "; cut off");
    }
    show(name, *played);
  }
  return 0;
}

}  // namespace
}  // namespace tidepool::simulator

int main(int argc, char** argv) {
  using namespace tidepool::simulator;
  if (argc > 1 && std::string_view(argv[1]) == "--trace") {
    if (argc == 3) return play(argv[2]);
    std::fputs("usage: policy_quality [SCENARIO] | --trace FILE\n", stderr);
    return 2;
  }
  const std::string_view only = argc > 1 ? argv[1] : "";
  const auto run = [&](std::string_view name, void (*scenario)()) {
    if (only.empty() || only == name) scenario();
  };
  run("zipf", zipfs);
  run("trim", trimming);
  run("phase", phases);
  run("scan", scan);
  run("day", days);
  run("bad", bad_start);
  run("unequal", unequal);
  return 0;
}
