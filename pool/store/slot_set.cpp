#include "pool/store/slot_set.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace tidepool::pool {
namespace {

constexpr std::uint64_t kWordBits = 64;

std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

std::uint64_t bits(std::uint64_t first, std::uint64_t count) {
  return (count >= kWordBits ? ~0ull : (1ull << count) - 1) << first;
}

// The first run of `want` bits of `word`, or else its longest.
SlotRun find_run(std::uint64_t word, std::uint64_t want) {
  SlotRun best;
  while (word != 0) {
    const auto first = static_cast<std::uint64_t>(std::countr_zero(word));
    const auto length = static_cast<std::uint64_t>(std::countr_one(word >> first));
    if (length >= want) return {first, want};
    if (length > best.count) best = {first, length};
    word &= ~bits(first, length);
  }
  return best;
}

}  // namespace

Result<SlotSet> SlotSet::create(std::uint64_t slots, Initially initially, Order order) {
  SlotSet set;
  set.slots_ = slots;
  set.order_ = order;
  set.flip_ = initially == Initially::kFull ? ~0ull : 0;
  set.word_count_ = round_up(slots, kWordBits) / kWordBits;
  const std::uint64_t summaries = round_up(set.word_count_, kWordBits) / kWordBits;
  auto words = Mapping::anonymous(Bytes{round_up(std::max<std::uint64_t>(set.word_count_ * 8, 1), kPageSize)});
  if (!words) return Failure{words.error()};
  auto summary = Mapping::anonymous(Bytes{round_up(std::max<std::uint64_t>(summaries * 8, 1), kPageSize)});
  if (!summary) return Failure{summary.error()};
  set.words_map_ = std::move(*words);
  set.summary_map_ = std::move(*summary);
  set.words_ = reinterpret_cast<std::uint64_t*>(set.words_map_.data());
  set.summary_ = reinterpret_cast<std::uint64_t*>(set.summary_map_.data());
  if (initially == Initially::kFull) {
    set.count_ = slots;
    // The last words' bits that belong to no slot are not in the set.
    if (slots % kWordBits != 0) set.words_[set.word_count_ - 1] = ~bits(0, slots % kWordBits);
    if (set.word_count_ % kWordBits != 0) set.summary_[summaries - 1] = ~bits(0, set.word_count_ % kWordBits);
  }
  set.set_bound(slots);
  return set;
}

Bytes SlotSet::cost(std::uint64_t slots) {
  return Bytes{round_up(slots / 8 + 1, kPageSize) + round_up(slots / 512 + 1, kPageSize)};
}

void SlotSet::set_bound(std::uint64_t slots) {
  const std::uint64_t words = std::min(round_up(slots, kWordBits) / kWordBits, word_count_);
  bound_words_ = words;
  if (order_ == Order::kLowest) return;
  for (unsigned i = 0; i < kThreadShards; ++i) cursors_[i].word = words * i / kThreadShards;
}

SlotSet::SlotSet(SlotSet&& other) noexcept {
  *this = std::move(other);
}

SlotSet& SlotSet::operator=(SlotSet&& other) noexcept {
  flip_ = other.flip_;
  slots_ = other.slots_;
  word_count_ = other.word_count_;
  order_ = other.order_;
  bound_words_ = other.bound_words_.load();
  words_map_ = std::move(other.words_map_);
  summary_map_ = std::move(other.summary_map_);
  words_ = std::exchange(other.words_, nullptr);
  summary_ = std::exchange(other.summary_, nullptr);
  count_ = other.count_.load();
  for (unsigned i = 0; i < kThreadShards; ++i) cursors_[i].word = other.cursors_[i].word.load();
  return *this;
}

std::uint64_t SlotSet::next_word(std::uint64_t from, std::uint64_t end) const {
  while (from < end) {
    const std::uint64_t promising = (summary(from / kWordBits).load() ^ flip_) >> (from % kWordBits);
    if (promising != 0) return std::min(from + static_cast<std::uint64_t>(std::countr_zero(promising)), end);
    from = (from / kWordBits + 1) * kWordBits;
  }
  return end;
}

void SlotSet::note_empty(std::uint64_t index) {
  const std::uint64_t bit = 1ull << (index % kWordBits);
  const auto clear = [&] {
    flip_ != 0 ? summary(index / kWordBits).fetch_or(bit) : summary(index / kWordBits).fetch_and(~bit);
  };
  clear();
  // A slot may have been given since the word was seen empty; whoever gave it may have set the mark before it was
  // cleared here.
  if ((word(index).load() ^ flip_) != 0) note_filled(index);
}

void SlotSet::note_filled(std::uint64_t index) {
  const std::uint64_t bit = 1ull << (index % kWordBits);
  auto of = summary(index / kWordBits);
  if (((of.load() ^ flip_) & bit) != 0) return;
  flip_ != 0 ? of.fetch_and(~bit) : of.fetch_or(bit);
}

SlotRun SlotSet::take_from_word(std::uint64_t index, std::uint64_t want) {
  auto at = word(index);
  std::uint64_t seen = at.load();
  while ((seen ^ flip_) != 0) {
    const SlotRun run = find_run(seen ^ flip_, std::min(want, kWordBits));
    const std::uint64_t next = seen ^ bits(run.first, run.count);
    if (!at.compare_exchange_weak(seen, next)) continue;
    count_.fetch_sub(run.count, std::memory_order_relaxed);
    if ((next ^ flip_) == 0) note_empty(index);
    return {index * kWordBits + run.first, run.count};
  }
  note_empty(index);
  return {};
}

SlotRun SlotSet::take_between(std::uint64_t from, std::uint64_t end, std::uint64_t want, Cursor& cursor) {
  for (std::uint64_t index = next_word(from, end); index < end; index = next_word(index + 1, end)) {
    const SlotRun run = take_from_word(index, want);
    if (run.count == 0) continue;
    cursor.word.store(index, std::memory_order_relaxed);
    return run;
  }
  return {};
}

SlotRun SlotSet::take(std::uint64_t want) {
  if (want == 0 || count_.load(std::memory_order_relaxed) == 0) return {};
  Cursor& mine = cursor();
  const std::uint64_t bound = bound_words_.load(std::memory_order_relaxed);
  const std::uint64_t start = std::min(mine.word.load(std::memory_order_relaxed), bound);
  const SlotRun run = take_between(start, bound, want, mine);
  return run.count != 0 ? run : take_between(0, start, want, mine);
}

void SlotSet::give(SlotRun run) {
  // Counted first, so that the count is never below what is there.
  count_.fetch_add(run.count, std::memory_order_relaxed);
  while (run.count > 0) {
    const std::uint64_t index = run.first / kWordBits;
    const std::uint64_t in_word = std::min(run.count, kWordBits - run.first % kWordBits);
    const std::uint64_t mask = bits(run.first % kWordBits, in_word);
    flip_ != 0 ? word(index).fetch_and(~mask) : word(index).fetch_or(mask);
    note_filled(index);
    if (order_ == Order::kLowest) {
      std::uint64_t low = cursors_[0].word.load(std::memory_order_relaxed);
      while (index < low && !cursors_[0].word.compare_exchange_weak(low, index, std::memory_order_relaxed)) {
      }
    }
    run = {run.first + in_word, run.count - in_word};
  }
}

bool SlotSet::take_one(std::uint64_t slot) {
  const std::uint64_t index = slot / kWordBits;
  const std::uint64_t mask = bits(slot % kWordBits, 1);
  const std::uint64_t before = flip_ != 0 ? word(index).fetch_or(mask) : word(index).fetch_and(~mask);
  if (((before ^ flip_) & mask) == 0) return false;
  count_.fetch_sub(1, std::memory_order_relaxed);
  if (((before ^ flip_) & ~mask) == 0) note_empty(index);
  return true;
}

}  // namespace tidepool::pool
