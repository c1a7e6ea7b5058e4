#include "telemetry/hotness/write_tracker.h"

#include <unistd.h>

#include <algorithm>
#include <array>

namespace tidepool::telemetry {
namespace {

// Alternating pages of a region, written and not.
constexpr std::size_t kMostRanges = kPagesPerHugePage / 2 + 1;
constexpr std::uint64_t kPiece = 64;  // pages of one sample

}  // namespace

std::bitset<kPagesPerHugePage> pages_in(AddressRange range, std::span<const kernel::uapi::page_region> regions,
                                        std::uint64_t& malformed) {
  std::bitset<kPagesPerHugePage> pages;
  const std::uint64_t most = std::min<std::uint64_t>(range.size() >> kPageShift, kPagesPerHugePage);
  for (const kernel::uapi::page_region& region : regions) {
    const bool sound = region.start < region.end && region.start >= range.start && region.end <= range.end &&
                       region.start % kPageSize == 0 && region.end % kPageSize == 0;
    malformed += sound ? 0 : 1;
    if (!sound) continue;
    const std::uint64_t end = std::min<std::uint64_t>((region.end - range.start) >> kPageShift, most);
    for (std::uint64_t page = (region.start - range.start) >> kPageShift; page < end; ++page) pages.set(page);
  }
  return pages;
}

WriteTracker::WriteTracker(const ScanWindows& windows, const kernel::KernelRoots& roots, const Clock& clock,
                           const Clock& cpu)
    : roots_(roots), clock_(clock), cpu_(cpu), budget_(clock), plan_(windows), pagemaps_(roots) {
  if (auto opened = open(); !opened) why_not_ = opened.error().message();
}

Result<> WriteTracker::open() {
  auto check = SelfCheck::create();
  if (!check) return Failure{check.error()};
  const auto self = kernel::Process::open(roots_, ::getpid());
  if (!self) return Failure{self.error()};
  auto pagemap = kernel::Pagemap::open(roots_, self->id());
  if (!pagemap) return Failure{pagemap.error()};
  auto first = kernel::Userfaultfd::create_for_self();
  if (!first) return Failure{first.error()};
  auto second = kernel::Userfaultfd::create_for_self();
  if (!second) return Failure{second.error()};
  auto divided = DividedMappings::divide(std::move(*first), std::move(*second), {check->used(), check->idle()},
                                         Bytes{kHugePageSize});
  if (!divided) return Failure{divided.error()};
  own_pagemap_ = std::move(*pagemap);
  self_check_ = std::move(*check);
  own_memory_.emplace(std::move(*divided));
  return {};
}

TrackerInfo WriteTracker::info() const {
  TrackerInfo info;
  info.name = "write-tracking";
  info.usable = why_not_.empty();
  info.why_not = why_not_;
  info.covers = Coverage::kWritesUnmanaged;
  info.sees = policy::Sees::kWrites;
  info.blind_spots = {"reads", "memory that the pager manages", "writes through descriptors and by devices"};
  info.cpu = budget_.spent();
  info.samples = samples_;
  info.malformed = malformed_;
  info.self_checks_failed = self_check_ ? self_check_->failures() : 0;
  return info;
}

Coverage WriteTracker::covers(const MemoryList& memory) const {
  const bool any = std::ranges::any_of(memory, [](const auto& of) {
    return std::ranges::any_of(of->spaces, [](const TrackedSpace& space) { return space.divided != nullptr; });
  });
  return any ? Coverage::kWritesUnmanaged : Coverage::kNone;
}

void WriteTracker::set_memory(const MemoryList& memory) {
  for (const ScanPlan::Slot slot : plan_.set_memory(memory, clock_.now())) {
    if (slot < since_.size()) since_[slot] = {};
  }
  since_.resize(plan_.slots());
  pagemaps_.set_memory(memory);
}

void WriteTracker::round(SampleSink& sink) {
  if (!why_not_.empty() || plan_.size() == 0) return;
  const Spending spending(budget_, cpu_);
  if (spending.used_up()) return;
  check_self();
  const MonoTime now = clock_.now();
  while (!spending.used_up()) {
    const auto slot = plan_.next(now);
    if (!slot) break;
    const auto share = look(*slot, sink);
    plan_.watch(*slot, clock_.now(), share);
  }
  if (!self_check_->trusted()) why_not_ = self_check_->verdict();
}

// Share of the unit's pages that were written; nothing at the first look, which only protects them.
std::optional<double> WriteTracker::look(ScanPlan::Slot slot, SampleSink& sink) {
  const ScanUnit& unit = plan_.unit(slot);
  const kernel::Pagemap* pagemap = unit.seen_from().divided ? pagemaps_.of(unit.seen_from().process) : nullptr;
  if (pagemap == nullptr) return std::nullopt;
  std::array<kernel::uapi::page_region, kMostRanges> written{};
  std::uint64_t scanned_to = 0;
  const auto found = pagemap->take_written(unit.addresses, written, scanned_to);
  // The process is gone, or unmapped this: whoever hands out memory will say so.
  if (!found || scanned_to < unit.addresses.end) return since_[slot] = {}, std::nullopt;
  policy::AccessSample sample;
  sample.object = unit.of().id;
  sample.since = std::exchange(since_[slot], clock_.now());
  sample.until = since_[slot];
  sample.window = sample.until - sample.since;
  sample.sees = policy::Sees::kWrites;
  if (sample.since == MonoTime{}) return std::nullopt;
  const auto pages = pages_in(unit.addresses, std::span(written).first(*found), malformed_);
  for (std::uint64_t first = 0; first < unit.pages.count; first += kPiece) {
    sample.pages = {PageIndex{unit.pages.first.value + first}, std::min(kPiece, unit.pages.count - first)};
    sample.watched = static_cast<std::uint32_t>(sample.pages.count);
    sample.used = 0;
    for (std::uint64_t page = first; page < first + sample.pages.count; ++page) sample.used += pages[page] ? 1 : 0;
    ++samples_;
    sink.add(sample);
  }
  return static_cast<double>(pages.count()) / static_cast<double>(unit.pages.count);
}

void WriteTracker::check_self() {
  const auto written = [&](AddressRange range) -> std::optional<bool> {
    kernel::uapi::page_region region{};
    std::uint64_t scanned_to = 0;
    const auto found = own_pagemap_->take_written(range, {&region, 1}, scanned_to);
    return found ? std::optional(*found > 0) : std::nullopt;
  };
  const auto used = written(self_check_->used());
  const auto idle = written(self_check_->idle());
  if (self_watched_) self_check_->judge(used.value_or(false), idle.value_or(true));
  self_watched_ = true;
  self_check_->touch();
}

}  // namespace tidepool::telemetry
