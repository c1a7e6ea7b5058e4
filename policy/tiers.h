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

  // The best tier of `among` with room for so many pages that are used `rate` times a second each; -1: none has.
  // `price` is the VM's own of DRAM, where that is dearer to it than to the host.
  int choose(float rate, std::uint16_t pages, TierMask among = kAllTiers, double price = 0) const;
  void take(int tier, std::uint16_t pages);

  // Page bytes that these tiers together have room for.
  Bytes room(TierMask among = kAllTiers) const;
  // Seconds, and DRAM bytes per far byte, of the cheapest choice for pages of that rate.
  double fault_cost(float rate, TierMask among = kAllTiers) const;
  double dram_per_byte(float rate, TierMask among = kAllTiers) const;
  // DRAM that a byte takes more in this tier than in another of `among`; 0 where there is no other.
  double excess(unsigned tier, TierMask among) const;
  // What is far in tier `from` and used less than `below` times a second each page does better in `tier`, the move
  // included; -1: nothing does.
  struct Further {
    int tier = -1;
    float below = 0;
  };
  Further further(unsigned from, TierMask among, double price) const;
  // DRAM bytes that a byte frees which goes far because the host is short: a tier may take some itself.
  double freed_per_byte(TierMask among) const;

 private:
  struct Tier {
    bool usable;
    double room;  // page bytes
    double fault_cost;
    double store_cost;
    double dram;  // per byte
  };
  int cheapest(float rate, double bytes, TierMask among, double price) const;

  std::vector<Tier> tiers_;
  double price_;
};

}  // namespace tidepool::policy
