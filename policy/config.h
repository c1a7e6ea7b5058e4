// What policy is told. Every default has its reason in docs/policy.md.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/clock.h"
#include "base/units.h"
#include "policy/snapshot.h"

namespace tidepool::policy {

// A service class is a set of parameters, nothing more.
struct ClassSettings {
  double stall_budget;  // share of its threads' time that may go into waiting for far pages
  Nanoseconds min_cold_age;
  double weight;  // what a second of its waiting is worth beside another class's
};

// "latency-sensitive", "standard", "batch".
std::string_view word(ServiceClass service_class);
std::optional<ServiceClass> parse_service_class(std::string_view text);

struct HeatConfig {
  // Evidence halves in this time, or in four rounds of the tracker when those take longer.
  Nanoseconds half_life = std::chrono::seconds(60);
  Nanoseconds scan_period = std::chrono::seconds(10);  // the unit of age
  unsigned sweep_ticks = 10;                           // all regions are brought up to date once in so many ticks
  float prior_watch = 16;                              // page-seconds that the neighbourhood's rate counts for
  float unknown_rate = 0.02f;                          // uses per page and second of memory of which nothing is known
  float proof_watch = 8;            // page-seconds of seeing reads below which a region counts as unknown
  std::uint16_t max_parts = 16384;  // split regions per memory object
  Nanoseconds move_timeout = std::chrono::seconds(10);  // a planned move that has not begun by then did nothing
};

inline constexpr std::array<ClassSettings, kServiceClasses> kClassSettings{{{0.002, std::chrono::minutes(10), 4.0},
                                                                            {0.01, std::chrono::minutes(2), 1.0},
                                                                            {0.05, std::chrono::seconds(30), 0.25}}};

struct PolicyConfig {
  HeatConfig heat;
  std::array<ClassSettings, kServiceClasses> classes = kClassSettings;
  Bytes demote_per_second{256ull << 20};
  Bytes restore_per_second{1024ull << 20};
  std::uint32_t max_regions_per_tick = 1024;  // demotions, all VMs together; restores likewise
  // Moves that whoever carries them out works on at once, all VMs together and per VM: more would wait in a queue, and
  // be old when their turn comes.
  std::uint32_t moves_under_way = 1024;
  std::uint32_t moves_under_way_per_vm = 512;

  // Cold-age threshold: the percentile of the past minutes' thresholds that the next minute uses.
  double threshold_percentile = 0.98;
  // Of the faults that the stall budget allows, the part that trimming cold memory may use up.
  double fault_headroom = 0.5;
  // Unknown memory (writes seen at most): a part of a region goes first; at most this share of a VM at a time.
  double canary_share = 0.005;

  // A far page that is used within this time of its demotion should not have gone.
  Nanoseconds regret_window = std::chrono::minutes(5);
  std::uint8_t max_backoff = 6;
  double pingpong_share = 0.05;  // of the pages trimmed within the window
  std::uint32_t pingpong_min_pages = 8192;
  Nanoseconds pingpong_pause = std::chrono::minutes(1);  // doubles with each repetition, up to 16 times
  Nanoseconds stall_pause = std::chrono::seconds(10);    // likewise, up to 32 times

  // A page comes home ahead of its use when the wait it saves within this time is more than bringing it costs.
  Nanoseconds gate_horizon = std::chrono::seconds(30);
  Nanoseconds restore_cost{2500};  // work for a page that comes home unasked

  // Host pressure.
  double trim_margin = 0.25;    // trimming starts when less than this much more than the reserve is to be free
  double pressure_high = 0.10;  // PSI "some"
  Nanoseconds pressure_patience = std::chrono::seconds(30);  // at one level before the next, and before one down

  // Windows of the day for what a VM needs (Coach: 6 x 4 h).
  unsigned day_windows = 6;
  double window_percentile = 0.95;
};

}  // namespace tidepool::policy
