#include "policy/tiers.h"

#include <algorithm>
#include <cmath>

namespace tidepool::policy {
namespace {

double sane(double value, double low, double high, double otherwise) {
  return std::isfinite(value) ? std::clamp(value, low, high) : otherwise;
}

constexpr double kFurtherHorizon = 300;  // seconds
constexpr double kMostRate = 1e6;        // a page is not used more often than once a microsecond

bool is_in(TierMask mask, std::size_t tier) {
  return tier < 32 && ((mask >> tier) & 1) != 0;
}

}  // namespace

TierChooser::TierChooser(std::span<const TierView> tiers, double dram_price) : price_(std::max(0.0, dram_price)) {
  for (const TierView& tier : tiers) {
    const double ratio = sane(tier.ratio, 0.01, 1.0, 1.0);
    const double fault = std::chrono::duration<double>(tier.fault_cost).count();
    const double store = std::chrono::duration<double>(tier.store_cost).count();
    tiers_.push_back({tier.usable, static_cast<double>(saturating_sub(tier.capacity, tier.used).value) / ratio,
                      sane(fault, 1e-7, 10.0, 20e-6), sane(store, 0, 10.0, 5e-6), tier.host_dram ? ratio : 0.0});
  }
}

// Expected waiting per second of a page there, and the DRAM that it still takes, at its price.
int TierChooser::cheapest(float rate, double bytes, TierMask among, double price) const {
  int best = -1;
  double best_cost = 0;
  for (std::size_t i = 0; i < tiers_.size(); ++i) {
    const Tier& tier = tiers_[i];
    if (!tier.usable || tier.room < bytes || !is_in(among, i)) continue;
    const double cost = static_cast<double>(rate) * tier.fault_cost + tier.dram * price;
    if (best < 0 || cost < best_cost) {
      best = static_cast<int>(i);
      best_cost = cost;
    }
  }
  return best;
}

int TierChooser::choose(float rate, std::uint16_t pages, TierMask among, double price) const {
  return cheapest(rate, static_cast<double>(pages) * kPageSize, among, std::max(price, price_));
}

double TierChooser::excess(unsigned tier, TierMask among) const {
  double most = 0;
  for (std::size_t i = 0; i < tiers_.size() && tier < tiers_.size(); ++i) {
    if (i != tier && tiers_[i].usable && is_in(among, i)) most = std::max(most, tiers_[tier].dram - tiers_[i].dram);
  }
  return most;
}

TierChooser::Further TierChooser::further(unsigned from, TierMask among, double price) const {
  Further best;
  if (from >= tiers_.size()) return best;
  const Tier& here = tiers_[from];
  for (std::size_t i = 0; i < tiers_.size(); ++i) {
    const Tier& there = tiers_[i];
    if (i == from || !there.usable || there.room < kRegionPages * kPageSize || !is_in(among, i)) continue;
    // It comes out of one and goes into the other, which has to pay within the horizon.
    const double move = (here.fault_cost + there.store_cost) / kFurtherHorizon;
    const double saved = (here.dram - there.dram) * std::max(price, price_) - move;
    if (saved <= 0) continue;
    const double dearer = there.fault_cost - here.fault_cost;
    const double below = dearer > 0 ? saved / dearer : kMostRate;
    if (below <= static_cast<double>(best.below)) continue;
    best = {static_cast<int>(i), static_cast<float>(std::min(below, kMostRate))};
  }
  return best;
}

void TierChooser::take(int tier, std::uint16_t pages) {
  double& room = tiers_[static_cast<std::size_t>(tier)].room;
  room = std::max(0.0, room - static_cast<double>(pages) * kPageSize);
}

Bytes TierChooser::room(TierMask among) const {
  double room = 0;
  for (std::size_t i = 0; i < tiers_.size(); ++i) room += tiers_[i].usable && is_in(among, i) ? tiers_[i].room : 0;
  return Bytes{static_cast<std::uint64_t>(std::min(room, 1e18))};
}

double TierChooser::fault_cost(float rate, TierMask among) const {
  const int tier = cheapest(rate, 0, among, price_);
  return tier < 0 ? 20e-6 : tiers_[static_cast<std::size_t>(tier)].fault_cost;
}

double TierChooser::dram_per_byte(float rate, TierMask among) const {
  const int tier = cheapest(rate, 0, among, price_);
  return tier < 0 ? 0 : tiers_[static_cast<std::size_t>(tier)].dram;
}

double TierChooser::freed_per_byte(TierMask among) const {
  return std::max(0.05, 1 - dram_per_byte(0.01f, among));
}

}  // namespace tidepool::policy
