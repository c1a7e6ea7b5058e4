// Sums samples up by region of 2 MiB, until they are taken: what a plan that thinks in regions needs to know.
//
// Bounded by the memory it was told of; samples of anything else are counted and dropped. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "policy/access_sample.h"
#include "telemetry/hotness/tracker.h"

namespace tidepool::telemetry {

class RegionTally final : public SampleSink {
 public:
  struct Region {
    std::uint32_t watched = 0;   // looks at resident pages
    std::uint32_t used = 0;      // of them, accesses found
    std::uint32_t events = 0;    // accesses noticed by chance
    std::uint32_t refaults = 0;  // far pages that came home because they were touched
  };

  // Which memory there is; what was tallied of memory that is still there is kept.
  void set_memory(const MemoryList& memory);
  void add(const policy::AccessSample& sample) override;
  // Hands out what was tallied of an object and starts anew; empty when it is not known.
  std::vector<Region> take(const policy::ObjectId& object);

  std::uint64_t malformed() const { return malformed_; }
  std::uint64_t unknown() const { return unknown_; }  // of memory that is not, or no longer, there

 private:
  std::map<policy::ObjectId, std::vector<Region>> objects_;
  std::uint64_t malformed_ = 0;
  std::uint64_t unknown_ = 0;
};

}  // namespace tidepool::telemetry
