// What each page should hold, kept outside of the memory that may be moved: if the pages lie, this does not.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "base/mapping.h"
#include "base/result.h"
#include "base/units.h"

namespace tidepool::load {

// One atomic word per page: a lock for writers, a "given back, reads as zero" mark, and the version. Thread-safe.
class TruthTable {
 public:
  struct State {
    std::uint64_t version = 0;
    bool zero = false;
    bool operator==(const State&) const = default;
  };

  // Its mapping is marked (name where the kernel allows it, left out of dumps), so that whoever adopts this process can
  // tell it from the workload's memory.
  static Result<TruthTable> create(PageCount pages);

  PageCount pages() const { return PageCount{words_.size()}; }
  // Waits while a writer holds the page.
  State read(std::uint64_t page) const;
  // True when the page still is what read() said and no writer has it: a difference in content is then a finding, not a
  // race.
  bool unchanged_since(std::uint64_t page, State seen) const;
  // Waits for the page; nobody else writes it until unlock().
  State lock(std::uint64_t page);
  void unlock(std::uint64_t page, State now);

 private:
  TruthTable(Mapping memory, std::span<std::atomic<std::uint64_t>> words) : memory_(std::move(memory)), words_(words) {}

  Mapping memory_;
  std::span<std::atomic<std::uint64_t>> words_;
};

}  // namespace tidepool::load
