// Which tier a page goes to: the one whose waits and memory together cost least.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "policy/snapshot.h"

namespace tidepool::policy {

// Room in the tiers while a plan is made.
class TierChooser {
 public:
  // `dram_price`: what a page of DRAM is worth, in seconds of waiting per second.
  TierChooser(std::span<const TierView> tiers, double dram_price);

  void set_dram_price(double price) { price_ = price > 0 ? price : 0; }

  // The best tier with room for so many pages that are used `rate` times a second each; -1: none has.
  int choose(float rate, std::uint16_t pages) const;
  void take(int tier, std::uint16_t pages);

  // Page bytes that tiers together have room for.
  Bytes room() const;
  // Seconds, and DRAM bytes per far byte, of the cheapest choice for pages of that rate.
  double fault_cost(float rate) const;
  double dram_per_byte(float rate) const;

 private:
  struct Tier {
    bool usable;
    double room;  // page bytes
    double fault_cost;
    double dram;  // per byte
  };
  int cheapest(float rate, double bytes) const;

  std::vector<Tier> tiers_;
  double price_;
};

}  // namespace tidepool::policy
