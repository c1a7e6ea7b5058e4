// How well a tracker knows what is hot: the rates that its samples tell of, region by region, against counted accesses.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "telemetry/hotness/tracker.h"

namespace tidepool::test {

// Estimates each region's rate of accesses per page and second from the samples of one object.
class RateEstimate final : public telemetry::SampleSink {
 public:
  explicit RateEstimate(PageCount pages) : regions_((pages.value + kPagesPerHugePage - 1) / kPagesPerHugePage) {}
  void add(const policy::AccessSample& sample) override;

  std::vector<double> rates() const;
  std::uint64_t samples() const { return samples_; }
  std::uint64_t malformed() const { return malformed_; }
  std::uint64_t looks() const { return looks_; }  // at single pages
  // Regions of which nothing was heard.
  std::size_t unseen() const;

 private:
  struct Region {
    double weighted_rate = 0;
    double weight = 0;
  };
  static void add_to(Region& region, const policy::AccessSample& sample, double pages);

  std::vector<Region> regions_;
  std::uint64_t samples_ = 0;
  std::uint64_t malformed_ = 0;
  std::uint64_t looks_ = 0;
};

enum class Counted { kReadsAndWrites, kWrites };

// What `tidepool-load --access-counts` wrote.
class TrueCounts {
 public:
  explicit TrueCounts(std::string path) : path_(std::move(path)) {}
  // From here on accesses count; without it, all of them.
  void start() { base_ = read(); }
  // Accesses per region since.
  std::vector<double> regions(Counted what) const;

 private:
  std::vector<std::uint32_t> read() const;

  std::string path_;
  std::vector<std::uint32_t> base_;
};

// Of the hottest fifth of the regions: how many of those named are (precision), how many of those that are were named
// (recall), and what share of the accesses that the hottest fifth gets the named ones get. Named is as many as there
// are: precision and recall are equal unless too few were seen at all.
struct Accuracy {
  double precision = 0;
  double recall = 0;
  double captured = 0;
};
Accuracy accuracy_of(const std::vector<double>& estimated, const std::vector<double>& truth);

}  // namespace tidepool::test
