#include "telemetry/hotness/soft_dirty_tracker.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace tidepool::telemetry {
namespace {

constexpr std::uint64_t kPagesOfSample = 64;  // pages of one sample
constexpr std::size_t kFewestUnits = 8;       // of a look, whatever they cost: clearing for less is a waste
constexpr auto kLongestSoftDirtySaving = std::chrono::seconds(60);
// Before it was done once: 15 ms per GiB.
constexpr double kFirstClearCostPerByte = 15e6 / static_cast<double>(1ull << 30);
// A page that the pager fetched counts as written, whatever it was fetched for.
constexpr float kConfidenceOfManaged = 0.9F;

bool process_is_gone(const Error& error) {
  return error.code.value() == ESRCH || error.code.value() == ENOENT;
}

}  // namespace

SoftDirtyTracker::SoftDirtyTracker(const SoftDirtyConfig& config, const kernel::KernelRoots& roots, const Clock& clock,
                                   const Clock& cpu, Open open_process)
    : config_(config),
      roots_(roots),
      clock_(clock),
      cpu_(cpu),
      open_(std::move(open_process)),
      budget_(clock, kLongestSoftDirtySaving) {
  if (!config_.allowed) {
    why_not_ =
        "off: it would clear bits that others (CRIU) may go by; trackers.soft_dirty = true says that nobody does";
  } else if (auto opened = open(); !opened) {
    why_not_ = opened.error().message();
  }
}

Result<> SoftDirtyTracker::open() {
  auto check = SelfCheck::create();
  if (!check) return Failure{check.error()};
  const auto self = kernel::Process::open(roots_, ::getpid());
  if (!self) return Failure{self.error()};
  auto opened = open_(roots_, self->id());
  if (!opened) return Failure{opened.error()};
  self_ = std::move(*opened);
  self_check_ = std::move(*check);
  // Memory that was just mapped and written has the bit wherever the kernel keeps it.
  if (!own_page_written(self_check_->used()).value_or(false))
    return failure(std::errc::not_supported, "find", "soft-dirty bits", "not in this kernel (CONFIG_MEM_SOFT_DIRTY)");
  return {};
}

Coverage SoftDirtyTracker::all_that_is_seen() const {
  const Coverage managed = Coverage::kWritesPrivate | Coverage::kWritesShared;
  return config_.managed ? Coverage::kWritesUnmanaged | managed : Coverage::kWritesUnmanaged;
}

TrackerInfo SoftDirtyTracker::info() const {
  TrackerInfo info;
  info.name = "soft-dirty";
  info.usable = why_not_.empty();
  info.why_not = why_not_;
  info.covers = all_that_is_seen();
  info.sees = policy::Sees::kWrites;
  info.blind_spots = {"reads", "writes through descriptors and by devices, and by other processes that map the memory",
                      "what was mapped since the last look: all of it counts as written",
                      "what others do who clear these bits, such as CRIU, whom this tracker disturbs in turn"};
  if (!config_.managed) info.blind_spots.emplace_back("memory that the pager manages");
  const auto left_out = std::ranges::count_if(watched_, &Watched::left_out);
  if (left_out > 0)
    info.blind_spots.push_back(std::to_string(left_out) +
                               " processes too large to be cleared without a noticeable pause");
  info.cpu = budget_.spent();
  info.samples = samples_;
  info.self_checks_failed = self_check_ ? self_check_->failures() : 0;
  return info;
}

// What is divided for trackers has a better one (WriteTracker).
bool SoftDirtyTracker::sees(const TrackedSpace& space, const TrackedObject& object) const {
  return object.paged == nullptr ? space.divided == nullptr : config_.managed;
}

Coverage SoftDirtyTracker::covers(const MemoryList& memory) const {
  Coverage covered = Coverage::kNone;
  for (const auto& of : memory) {
    for (const TrackedSpace& space : of->spaces) {
      for (const TrackedSegment& segment : space.segments) {
        const TrackedObject& object = of->objects[segment.object];
        if (!sees(space, object)) continue;
        covered = covered | (object.paged == nullptr ? Coverage::kWritesUnmanaged
                             : object.shared         ? Coverage::kWritesShared
                                                     : Coverage::kWritesPrivate);
      }
    }
  }
  return covered;
}

SoftDirtyTracker::Watched SoftDirtyTracker::watch(const std::shared_ptr<const TrackedMemory>& memory,
                                                  std::uint32_t space) const {
  Watched watched;
  watched.memory = memory;
  watched.space = space;
  std::uint64_t bytes = 0;
  for (ScanUnit& unit : scan_units(memory)) {
    if (unit.space != space || !sees(memory->spaces[space], unit.of())) continue;
    bytes += unit.addresses.size();
    watched.units.push_back(std::move(unit));
  }
  watched.clear_cost = Nanoseconds{static_cast<std::int64_t>(static_cast<double>(bytes) * kFirstClearCostPerByte)};
  watched.left_out = watched.clear_cost > config_.longest_stall;
  return watched;
}

void SoftDirtyTracker::set_memory(const MemoryList& memory) {
  std::vector<Watched> next;
  for (const auto& of : memory) {
    for (std::uint32_t s = 0; s < of->spaces.size(); ++s) {
      const auto known =
          std::ranges::find_if(watched_, [&](const Watched& w) { return w.memory == of && w.space == s; });
      Watched watched = known == watched_.end() ? watch(of, s) : std::move(*known);
      if (known != watched_.end()) watched_.erase(known);
      if (!watched.units.empty()) next.push_back(std::move(watched));
    }
  }
  watched_ = std::move(next);
}

// The process that has been due for longest, if its clearing can be afforded.
SoftDirtyTracker::Watched* SoftDirtyTracker::next(MonoTime now, Nanoseconds affordable) {
  Watched* chosen = nullptr;
  for (Watched& watched : watched_) {
    if (watched.left_out || now < watched.due) continue;
    if (chosen == nullptr || watched.due < chosen->due) chosen = &watched;
  }
  if (chosen == nullptr) return nullptr;
  // What costs more than can ever be saved is done once the savings are full, and paid back afterwards.
  return affordable >= std::min(chosen->clear_cost, budget_.most()) ? chosen : nullptr;
}

void SoftDirtyTracker::round(SampleSink& sink) {
  if (!why_not_.empty() || watched_.empty() || budget_.share() <= 0) return;
  const Spending spending(budget_, cpu_);
  if (spending.used_up()) return;
  const MonoTime now = clock_.now();
  Result<> outcome = check_self(now);
  for (Watched* watched = nullptr; outcome && !spending.used_up();) {
    watched = next(now, spending.allowed() - spending.so_far());
    if (watched == nullptr) break;
    outcome = look(*watched, spending, sink);
    watched->due = clock_.now() + config_.windows.at(watched->level);
    if (outcome || !process_is_gone(outcome.error())) continue;
    // A process that ended is taken out by whoever hands out memory; until then it is left alone.
    watched->cleared = {};
    watched->due = clock_.now() + config_.windows.longest();
    outcome = {};
  }
  failures_ = outcome ? 0 : failures_ + 1;
  if (failures_ >= kToleratedFailures) why_not_ = outcome.error().message();
  if (!self_check_->trusted()) why_not_ = self_check_->verdict();
}

Result<> SoftDirtyTracker::look(Watched& watched, const Spending& spending, SampleSink& sink) {
  if (watched.process == nullptr) {
    auto opened = open_(roots_, watched.memory->spaces[watched.space].process);
    if (!opened) return Failure{opened.error()};
    watched.process = std::move(*opened);
  }
  if (watched.cleared != MonoTime{}) {
    const auto seen = read(watched, spending, sink);
    if (!seen) return Failure{seen.error()};
    if (seen->resident > 0) {
      const double share = static_cast<double>(seen->written) / static_cast<double>(seen->resident);
      watched.level = config_.windows.next(watched.level, share);
      // What was not looked at was written to as well.
      const double all = static_cast<double>(seen->written) * static_cast<double>(watched.units.size()) /
                         static_cast<double>(seen->units);
      budget_.spend(config_.cost_per_write * static_cast<std::int64_t>(all));
    }
  }
  return clear(watched);
}

// As many units as the budget affords beside the clearing, in turn.
Result<SoftDirtyTracker::Seen> SoftDirtyTracker::read(Watched& watched, const Spending& spending, SampleSink& sink) {
  std::array<kernel::PagemapEntry, kPagesPerHugePage> room;
  Seen seen;
  while (seen.units < watched.units.size() &&
         (seen.units < kFewestUnits || spending.so_far() + watched.clear_cost < spending.allowed())) {
    const ScanUnit& unit = watched.units[watched.next_unit];
    watched.next_unit = (watched.next_unit + 1) % watched.units.size();
    const std::span entries(room.data(), std::min<std::size_t>(unit.pages.count, room.size()));
    const auto got = watched.process->entries(unit.addresses.start, entries);
    if (!got) return Failure{got.error()};
    const Seen of_unit = report(unit, entries.first(std::min(*got, entries.size())), watched.cleared, sink);
    ++seen.units;
    seen.resident += of_unit.resident;
    seen.written += of_unit.written;
  }
  return seen;
}

SoftDirtyTracker::Seen SoftDirtyTracker::report(const ScanUnit& unit, std::span<const kernel::PagemapEntry> entries,
                                                MonoTime since, SampleSink& sink) {
  Seen seen;
  policy::AccessSample sample;
  sample.object = unit.of().id;
  sample.since = since;
  sample.until = std::max(since, clock_.now());
  sample.window = sample.until - sample.since;
  sample.sees = policy::Sees::kWrites;
  if (unit.of().paged != nullptr) sample.confidence = kConfidenceOfManaged;
  for (std::uint64_t first = 0; first < entries.size(); first += kPagesOfSample) {
    const auto piece = entries.subspan(first, std::min<std::size_t>(kPagesOfSample, entries.size() - first));
    sample.pages = {PageIndex{unit.pages.first.value + first}, piece.size()};
    sample.watched = static_cast<std::uint32_t>(std::ranges::count_if(piece, &kernel::PagemapEntry::present));
    sample.used = static_cast<std::uint32_t>(std::ranges::count_if(
        piece, [](const kernel::PagemapEntry& entry) { return entry.present() && entry.soft_dirty(); }));
    if (sample.watched == 0) continue;
    seen.resident += sample.watched;
    seen.written += sample.used;
    ++samples_;
    sink.add(sample);
  }
  return seen;
}

Result<> SoftDirtyTracker::clear(Watched& watched) {
  const MonoTime before = cpu_.now();
  if (auto cleared = watched.process->clear(); !cleared) return cleared;
  watched.clear_cost = cpu_.now() - before;
  watched.left_out = watched.clear_cost > config_.longest_stall;
  watched.cleared = clock_.now();
  return {};
}

std::optional<bool> SoftDirtyTracker::own_page_written(AddressRange page) const {
  kernel::PagemapEntry entry;
  const auto got = self_->entries(page.start, {&entry, 1});
  return got && *got == 1 ? std::optional(entry.present() && entry.soft_dirty()) : std::nullopt;
}

Result<> SoftDirtyTracker::check_self(MonoTime now) {
  if (self_checked_ != MonoTime{} && now < self_checked_ + config_.self_check) return {};
  if (self_checked_ != MonoTime{}) {
    self_check_->judge(own_page_written(self_check_->used()).value_or(false),
                       own_page_written(self_check_->idle()).value_or(true));
  }
  if (auto cleared = self_->clear(); !cleared) return cleared;
  self_checked_ = now;
  self_check_->touch();
  return {};
}

}  // namespace tidepool::telemetry
