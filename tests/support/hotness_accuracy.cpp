#include "tests/support/hotness_accuracy.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <set>

namespace tidepool::test {

void RateEstimate::add(const policy::AccessSample& sample) {
  ++samples_;
  if (!policy::well_formed(sample) || (sample.pages.end() - 1) / kPagesPerHugePage >= regions_.size()) {
    ++malformed_;
    return;
  }
  looks_ += sample.watched;
  for (std::uint64_t page = sample.pages.first.value; page < sample.pages.end();) {
    const std::uint64_t region = page / kPagesPerHugePage;
    const std::uint64_t end = std::min(sample.pages.end(), (region + 1) * kPagesPerHugePage);
    add_to(regions_[region], sample, static_cast<double>(end - page));
    page = end;
  }
}

void RateEstimate::add_to(Region& region, const policy::AccessSample& sample, double pages) {
  if (sample.evidence == policy::Evidence::kEvents) {
    region.weighted_rate += sample.used * pages / static_cast<double>(sample.pages.count);
    region.weight = 1;
    return;
  }
  const double window = std::chrono::duration<double>(sample.window).count();
  if (window <= 0) return;
  // Accesses come at random: a page goes unused for a window with probability exp(-rate * window). The estimate of each
  // sample counts as the inverse of its variance.
  const double looks = sample.watched;
  const double share = std::min(sample.used / looks, 1 - 0.5 / (looks + 1));
  const double rate = -std::log1p(-share) / window;
  const double weight = looks * pages * window * window * (1 - share + 0.01) / (share + 0.01);
  region.weighted_rate += weight * rate;
  region.weight += weight;
}

std::vector<double> RateEstimate::rates() const {
  std::vector<double> rates;
  for (const Region& region : regions_) rates.push_back(region.weight > 0 ? region.weighted_rate / region.weight : -1);
  return rates;
}

std::size_t RateEstimate::unseen() const {
  return static_cast<std::size_t>(std::ranges::count_if(regions_, [](const Region& r) { return r.weight <= 0; }));
}

std::vector<std::uint32_t> TrueCounts::read() const {
  std::ifstream file(path_, std::ios::binary | std::ios::ate);
  std::vector<std::uint32_t> counts(file ? static_cast<std::size_t>(file.tellg()) / sizeof(std::uint32_t) : 0);
  file.seekg(0);
  file.read(reinterpret_cast<char*>(counts.data()),
            static_cast<std::streamsize>(counts.size() * sizeof(std::uint32_t)));
  return counts;
}

std::vector<double> TrueCounts::regions(Counted what) const {
  const std::vector<std::uint32_t> now = read();
  std::vector<double> sums((now.size() / 2 + kPagesPerHugePage - 1) / kPagesPerHugePage);
  for (std::size_t i = 0; i < now.size(); ++i) {
    const bool is_write = i % 2 == 1;
    const std::uint32_t before = i < base_.size() ? base_[i] : 0;
    if (what == Counted::kReadsAndWrites || is_write) sums[i / 2 / kPagesPerHugePage] += now[i] - before;
  }
  return sums;
}

Accuracy accuracy_of(const std::vector<double>& estimated, const std::vector<double>& truth) {
  const auto hottest = [](const std::vector<double>& values, std::size_t count) {
    std::vector<std::size_t> order(values.size());
    std::iota(order.begin(), order.end(), 0u);
    std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
    std::set<std::size_t> named;
    for (std::size_t i = 0; i < count && i < order.size() && values[order[i]] > 0; ++i) named.insert(order[i]);
    return named;
  };
  const std::size_t count = std::max<std::size_t>(1, truth.size() / 5);
  const auto is = hottest(truth, count);
  const auto named = hottest(estimated, count);
  Accuracy accuracy;
  if (is.empty() || named.empty()) return accuracy;
  double right = 0;
  double captured = 0;
  double all = 0;
  for (const std::size_t region : is) all += truth[region];
  for (const std::size_t region : named) {
    right += is.contains(region) ? 1 : 0;
    captured += truth[region];
  }
  accuracy.precision = right / static_cast<double>(named.size());
  accuracy.recall = right / static_cast<double>(is.size());
  accuracy.captured = captured / all;
  return accuracy;
}

}  // namespace tidepool::test
