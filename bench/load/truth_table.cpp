#include "bench/load/truth_table.h"

#include <sched.h>

#include <chrono>
#include <new>
#include <thread>

#include "bench/load/workload_memory.h"

namespace tidepool::load {
namespace {

constexpr std::uint64_t kLocked = 1ull << 63;
constexpr std::uint64_t kZero = 1ull << 62;

TruthTable::State decode(std::uint64_t word) {
  return {.version = word & ~(kLocked | kZero), .zero = (word & kZero) != 0};
}
std::uint64_t encode(TruthTable::State state) {
  return state.version | (state.zero ? kZero : 0);
}

// The holder may be waiting for a page fault that takes a second: spin a little, then let others run.
class Backoff {
 public:
  void wait() {
    constexpr int kSpins = 64;
    constexpr int kYields = 512;
    if (++rounds_ <= kSpins) return;
    if (rounds_ <= kYields) {
      ::sched_yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

 private:
  int rounds_ = 0;
};

}  // namespace

Result<TruthTable> TruthTable::create(PageCount pages) {
  auto memory = Mapping::anonymous(Bytes{pages.value * sizeof(std::uint64_t)});
  if (!memory) return Failure(memory.error());
  mark_as_bookkeeping(memory->bytes());
  auto* words = reinterpret_cast<std::atomic<std::uint64_t>*>(memory->data());
  for (std::uint64_t i = 0; i < pages.value; ++i) new (words + i) std::atomic<std::uint64_t>{kZero};
  return TruthTable(std::move(*memory), {words, pages.value});
}

TruthTable::State TruthTable::read(std::uint64_t page) const {
  for (Backoff backoff;; backoff.wait()) {
    const std::uint64_t word = words_[page].load(std::memory_order_acquire);
    if ((word & kLocked) == 0) return decode(word);
  }
}

bool TruthTable::unchanged_since(std::uint64_t page, State seen) const {
  // A read-modify-write, so that the reads of the page's content before it cannot be reordered after it.
  return words_[page].fetch_add(0, std::memory_order_acq_rel) == encode(seen);
}

TruthTable::State TruthTable::lock(std::uint64_t page) {
  for (Backoff backoff;; backoff.wait()) {
    std::uint64_t word = words_[page].load(std::memory_order_relaxed);
    if ((word & kLocked) != 0) continue;
    if (words_[page].compare_exchange_weak(word, word | kLocked, std::memory_order_acq_rel)) return decode(word);
  }
}

void TruthTable::unlock(std::uint64_t page, State now) {
  words_[page].store(encode(now), std::memory_order_release);
}

}  // namespace tidepool::load
