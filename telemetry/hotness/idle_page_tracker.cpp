#include "telemetry/hotness/idle_page_tracker.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace tidepool::telemetry {
namespace {

// What is seen is told in pieces of this many pages where enough of them were looked at, else of the whole unit.
constexpr std::uint64_t kPiece = 64;
constexpr std::uint32_t kLooksWorthPieces = 128;
constexpr double kCostMemory = 0.2;  // weight of the newest measurement
constexpr unsigned kLargestOrder = 9;

Result<kernel::Pagemap> open_own_pagemap(const kernel::KernelRoots& roots) {
  auto self = kernel::Process::open(roots, ::getpid());
  if (!self) return Failure{self.error()};
  return kernel::Pagemap::open(roots, self->id());
}

}  // namespace

IdlePageTracker::IdlePageTracker(const IdlePageConfig& config, const kernel::KernelRoots& roots, const Clock& clock,
                                 const Clock& cpu)
    : config_(config),
      roots_(roots),
      clock_(clock),
      cpu_(cpu),
      budget_(clock),
      plan_(config.windows),
      random_(config.seed),
      pagemaps_(roots),
      entries_(kPagesPerHugePage) {
  if (const auto opened = open(); !opened) {
    const bool absent = opened.error().code.value() == ENOENT;
    why_not_ = absent ? "not in this kernel (CONFIG_IDLE_PAGE_TRACKING)" : opened.error().message();
  }
}

Result<> IdlePageTracker::open() {
  auto bitmap = kernel::PageIdleBitmap::open(roots_);
  if (!bitmap) return Failure{bitmap.error()};
  auto flags = kernel::PageFlagsTable::open(roots_);
  if (!flags) return Failure{flags.error()};
  auto pagemap = open_own_pagemap(roots_);
  if (!pagemap) return Failure{pagemap.error()};
  auto check = SelfCheck::create();
  if (!check) return Failure{check.error()};
  kernel::PagemapEntry entry;
  const auto seen = pagemap->entries(check->used().start, {&entry, 1});
  if (!seen || *seen == 0 || entry.frame() == 0) {
    return failure(std::errc::operation_not_permitted, "learn page frame numbers", "/proc/self/pagemap",
                   "grant CAP_SYS_ADMIN");
  }
  bitmap_ = std::move(*bitmap);
  flags_ = std::move(*flags);
  own_pagemap_ = std::move(*pagemap);
  self_check_ = std::move(*check);
  return {};
}

TrackerInfo IdlePageTracker::info() const {
  TrackerInfo info;
  info.name = "idle-page";
  info.usable = why_not_.empty();
  info.why_not = why_not_;
  info.covers = Coverage::kResident;
  info.blind_spots = {"who used a page that several processes map",
                      "accesses through a processor's cached translation, until that is evicted",
                      "frames that are on no LRU list, and the parts of a huge page"};
  info.cpu = budget_.spent();
  info.samples = samples_;
  info.self_checks_failed = self_check_ ? self_check_->failures() : 0;
  return info;
}

void IdlePageTracker::set_memory(const MemoryList& memory) {
  for (const ScanPlan::Slot slot : plan_.set_memory(memory, clock_.now())) {
    if (slot < watches_.size()) watches_[slot] = {};
  }
  watches_.resize(plan_.slots());
  pagemaps_.set_memory(memory);
}

void IdlePageTracker::round(SampleSink& sink) {
  if (!why_not_.empty() || plan_.size() == 0) return;
  const Spending spending(budget_, cpu_);
  if (spending.used_up()) return;
  looks_this_round_ = 0;
  Result<> outcome = check_self();
  const MonoTime now = clock_.now();
  while (outcome && !spending.used_up()) {
    const auto slot = plan_.next(now);
    if (!slot) break;
    const auto share = check(*slot, sink);
    outcome = share ? mark(*slot) : Result<>{Failure{share.error()}};
    plan_.watch(*slot, clock_.now(), share ? *share : std::nullopt);
  }
  steer(spending.so_far());
  failures_in_a_row_ = outcome ? 0 : failures_in_a_row_ + 1;
  if (failures_in_a_row_ >= kToleratedFailures) why_not_ = outcome.error().message();
  if (!self_check_->trusted()) why_not_ = self_check_->verdict();
}

// The sample of each unit is what the budget leaves room for when all of them are looked at once in a pass.
void IdlePageTracker::steer(Nanoseconds spent) {
  if (looks_this_round_ > 0) {
    const double cost = static_cast<double>(spent.count()) / static_cast<double>(looks_this_round_);
    cost_per_look_ += (cost - cost_per_look_) * kCostMemory;
  }
  const double affordable = budget_.share() * static_cast<double>(config_.pass.count()) /
                            (std::max(1.0, cost_per_look_) * static_cast<double>(plan_.size()));
  looks_per_unit_ = static_cast<std::uint32_t>(
      std::clamp(affordable, static_cast<double>(config_.fewest_looks), static_cast<double>(kPagesPerHugePage)));
}

bool IdlePageTracker::read_entries(const ScanUnit& unit) {
  entries_.assign(unit.pages.count, {});
  const kernel::Pagemap* pagemap = pagemaps_.of(unit.seen_from().process);
  return pagemap != nullptr && pagemap->entries(unit.addresses.start, entries_).value_or(0) > 0;
}

Result<std::optional<double>> IdlePageTracker::check(ScanPlan::Slot slot, SampleSink& sink) {
  Watch& watch = watches_[slot];
  if (watch.looks.empty()) return std::nullopt;
  const ScanUnit& unit = plan_.unit(slot);
  frames_.clear();
  for (const Look& look : watch.looks) frames_.push_back(look.head());
  idle_.assign(frames_.size(), kernel::PageIdleBitmap::kBeyondMemory);
  if (auto read = bitmap_->read_frames(frames_, idle_); !read) {
    watch.looks.clear();  // so that the same frames are not asked for again and again
    return Failure{read.error()};
  }
  // A page that lies in another frame by now (migrated, dropped, fetched) was not watched to the end.
  if (!read_entries(unit)) std::ranges::fill(idle_, kernel::PageIdleBitmap::kBeyondMemory);
  std::uint32_t watched = 0;
  std::uint32_t used = 0;
  for (std::size_t i = 0; i < watch.looks.size(); ++i) {
    if (entries_[watch.looks[i].offset].frame() != watch.looks[i].frame)
      idle_[i] = kernel::PageIdleBitmap::kBeyondMemory;
    if (idle_[i] == kernel::PageIdleBitmap::kBeyondMemory) continue;
    ++watched;
    used += idle_[i] == 0 ? 1 : 0;
  }
  if (watched == 0) return std::nullopt;
  report(unit, watch, sink);
  return static_cast<double>(used) / watched;
}

void IdlePageTracker::report(const ScanUnit& unit, const Watch& watch, SampleSink& sink) {
  struct Piece {
    std::uint32_t watched = 0;
    std::uint32_t used = 0;
  };
  const std::uint64_t size = watch.looks.size() >= kLooksWorthPieces ? kPiece : kPagesPerHugePage;
  std::array<Piece, kPagesPerHugePage / kPiece> pieces{};
  for (std::size_t i = 0; i < watch.looks.size(); ++i) {
    if (idle_[i] == kernel::PageIdleBitmap::kBeyondMemory) continue;
    Piece& piece = pieces[watch.looks[i].offset / size];
    ++piece.watched;
    piece.used += idle_[i] == 0 ? 1 : 0;
  }
  policy::AccessSample sample;
  sample.object = unit.of().id;
  sample.since = watch.since;
  sample.until = clock_.now();
  sample.window = sample.until - sample.since;
  for (std::uint64_t p = 0; p * size < unit.pages.count; ++p) {
    if (pieces[p].watched == 0) continue;
    sample.pages = {PageIndex{unit.pages.first.value + p * size}, std::min(size, unit.pages.count - p * size)};
    sample.watched = pieces[p].watched;
    sample.used = pieces[p].used;
    ++samples_;
    sink.add(sample);
  }
}

// Reads what the page's frame is part of. Nothing when it cannot be watched.
std::optional<IdlePageTracker::Look> IdlePageTracker::look_at(std::size_t offset) {
  const std::uint64_t frame = entries_[offset].frame();
  if (frame == 0) return std::nullopt;
  kernel::PageFlags flags;
  if (flags_->read(frame, {&flags, 1}).value_or(0) == 0) return std::nullopt;
  Look look{frame, 0, static_cast<std::uint16_t>(offset), 1};
  // A compound page begins at a multiple of its size: the first of these that is a head is its head.
  for (unsigned order = 1; flags.compound_tail() && order <= kLargestOrder; ++order) {
    const std::uint64_t candidate = frame & ~((1ull << order) - 1);
    if (flags_->read(candidate, {&flags, 1}).value_or(0) == 0) return std::nullopt;
    look.behind_head = static_cast<std::uint16_t>(frame - candidate);
  }
  if (flags.compound_tail() || !flags.on_lru() || flags.zero_page() || flags.absent()) return std::nullopt;
  if (flags.huge() && flags.compound_head() && offset == 0 && look.behind_head == 0 &&
      entries_.size() == kPagesPerHugePage && entries_.back().frame() == frame + kPagesPerHugePage - 1) {
    look.pages = static_cast<std::uint16_t>(kPagesPerHugePage);
  }
  return look;
}

void IdlePageTracker::choose_looks(const ScanUnit& unit, std::vector<Look>& looks) {
  looks.clear();
  if (unit.of().may_be_huge) {
    const auto first = look_at(0);
    if (first && first->pages == kPagesPerHugePage) {
      looks.push_back(*first);
      return;
    }
  }
  const std::uint64_t pages = unit.pages.count;
  const std::uint64_t wanted = std::min<std::uint64_t>(pages, std::max(1u, looks_per_unit_));
  for (std::uint64_t i = 0; i < wanted; ++i) {
    // One of each of `wanted` equal parts, at random: spread out, and never in step with the workload.
    const std::uint64_t from = pages * i / wanted;
    const std::uint64_t to = pages * (i + 1) / wanted;
    if (const auto look = look_at(from + random_() % (to - from))) looks.push_back(*look);
  }
  std::ranges::sort(looks, {}, &Look::head);
  looks.erase(
      std::unique(looks.begin(), looks.end(), [](const Look& a, const Look& b) { return a.head() == b.head(); }),
      looks.end());
}

Result<> IdlePageTracker::mark(ScanPlan::Slot slot) {
  Watch& watch = watches_[slot];
  watch.looks.clear();
  const ScanUnit& unit = plan_.unit(slot);
  if (!read_entries(unit)) return {};
  choose_looks(unit, watch.looks);
  frames_.clear();
  for (const Look& look : watch.looks) frames_.push_back(look.head());
  auto marked = bitmap_->mark_frames(frames_);
  if (!marked) watch.looks.clear();
  watch.since = clock_.now();
  looks_this_round_ += watch.looks.size();
  return marked;
}

// The frame behind a page of the self-check; nothing while it cannot be marked (right after it was made it is on no LRU
// list).
std::optional<std::uint64_t> IdlePageTracker::own_frame(AddressRange page) const {
  kernel::PagemapEntry entry;
  kernel::PageFlags flags;
  if (own_pagemap_->entries(page.start, {&entry, 1}).value_or(0) == 0 || entry.frame() == 0) return std::nullopt;
  if (flags_->read(entry.frame(), {&flags, 1}).value_or(0) == 0) return std::nullopt;
  return flags.on_lru() && !flags.compound_tail() ? std::optional(entry.frame()) : std::nullopt;
}

// Judges the marks of the round before; then marks both pages anew and touches the one.
Result<> IdlePageTracker::check_self() {
  const auto used = own_frame(self_check_->used());
  const auto idle = own_frame(self_check_->idle());
  if (!used || !idle) {
    self_marked_.reset();
    return {};
  }
  std::uint8_t used_is_idle = 0;
  std::uint8_t idle_is_idle = 0;
  if (auto read = bitmap_->read_frames({&*used, 1}, {&used_is_idle, 1}); !read) return read;
  if (auto read = bitmap_->read_frames({&*idle, 1}, {&idle_is_idle, 1}); !read) return read;
  constexpr auto kBeyond = kernel::PageIdleBitmap::kBeyondMemory;
  // A page that moved to another frame was not watched.
  if (self_marked_ == std::pair(*used, *idle) && used_is_idle != kBeyond && idle_is_idle != kBeyond)
    self_check_->judge(used_is_idle == 0, idle_is_idle == 0);
  const std::array<std::uint64_t, 2> frames{std::min(*used, *idle), std::max(*used, *idle)};
  if (auto marked = bitmap_->mark_frames(frames); !marked) return marked;
  self_marked_ = std::pair(*used, *idle);
  self_check_->touch();
  return {};
}

}  // namespace tidepool::telemetry
