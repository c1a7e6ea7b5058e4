// Random requests of several holders against a model that knows what must come of each.
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>

#include "tests/unit/pool/server/slices_kit.h"

namespace tidepool::pool::server {
namespace {

using namespace testing;

constexpr std::uint64_t kChunks = 12;
constexpr std::uint8_t kHolders = 4;
constexpr std::uint64_t kSliceIds = 8;

struct KnownSlot {
  std::uint64_t version = 0;
  std::optional<std::uint8_t> value;
};

struct KnownSlice {
  std::uint8_t owner = 0;
  std::uint64_t epoch = 0;
  std::uint32_t slots = 0;
  std::optional<MonoTime> expires;
  std::map<std::uint32_t, KnownSlot> content;
  std::shared_ptr<Slice> real;
};

class Walk {
 public:
  Walk(std::uint64_t seed, Lends lends) : random_(seed), store_(make_store(clock_, kChunks, {}, lends)) {}

  void step() {
    clock_.advance(std::chrono::milliseconds(pick(20)));
    switch (pick(20)) {
      case 0:
      case 1:
      case 2:
        return attach();
      case 3:
        return release();
      case 4:
        store_->scrub(1 + pick(4));
        return;
      default:
        return use();
    }
  }

  void check_bounds() const {
    std::uint64_t chunks = 0;
    for (const auto& [id, slice] : known_) {
      chunks += slice.real->chunks();
    }
    const SliceFigures figures = store_->figures();
    ASSERT_EQ(figures.lent, Bytes{chunks * kChunkBytes});
    ASSERT_LE(figures.lent + figures.scrubbing, figures.capacity);
    ASSERT_EQ(figures.slices, known_.size());
  }

 private:
  std::uint64_t pick(std::uint64_t below) { return random_() % below; }

  void attach() {
    const std::uint64_t id = pick(kSliceIds);
    const auto who = static_cast<std::uint8_t>(1 + pick(kHolders));
    const std::uint64_t epoch = 1 + highest_[id] + pick(4) - std::min<std::uint64_t>(highest_[id] + 1, pick(3));
    const std::uint64_t lease_ms = pick(2) == 0 ? 0 : 1 + pick(500);
    const auto known = known_.find(id);
    const auto slots =
        static_cast<std::uint32_t>(known != known_.end() && pick(4) != 0 ? known->second.slots : 1 + pick(300));
    const AttachResult result = store_->attach(claims(id, who, epoch, slots, lease_ms), true);
    if (known == known_.end()) {
      const auto grave = buried_.find(id);
      if (grave != buried_.end() &&
          (epoch < grave->second.epoch || (epoch == grave->second.epoch && who != grave->second.owner))) {
        ASSERT_EQ(result.status, ErrorCode::kStaleEpoch);
        return;
      }
      const SliceFigures figures = store_->figures();
      if (result.status == ErrorCode::kFull) {
        const std::uint64_t wanted = (slots + kSlotsPerChunk - 1) / kSlotsPerChunk;
        ASSERT_GT(figures.lent + figures.scrubbing + Bytes{wanted * kChunkBytes}, figures.capacity);
        return;
      }
      ASSERT_EQ(result.status, ErrorCode::kOk);
      ASSERT_TRUE(result.created);
      known_[id] = {who, epoch, slots, {}, {}, result.slice};
      renew(known_[id], lease_ms, true);
    } else if (known->second.owner != who || known->second.slots != slots) {
      ASSERT_EQ(result.status, ErrorCode::kDenied);
      return;
    } else if (epoch < known->second.epoch) {
      ASSERT_EQ(result.status, ErrorCode::kStaleEpoch);
      return;
    } else {
      ASSERT_EQ(result.status, ErrorCode::kOk);
      ASSERT_FALSE(result.created);
      ASSERT_EQ(result.slice, known->second.real);
      renew(known->second, lease_ms, epoch > known->second.epoch);
      known->second.epoch = epoch;
    }
    highest_[id] = std::max(highest_[id], epoch);
  }

  void renew(KnownSlice& slice, std::uint64_t lease_ms, bool anew) {
    std::optional<MonoTime> until;
    if (lease_ms != 0) until = clock_.now() + std::chrono::milliseconds(lease_ms);
    if (!anew) until = until && slice.expires ? std::optional(std::max(*until, *slice.expires)) : std::nullopt;
    slice.expires = until;
  }

  void release() {
    if (known_.empty()) return;
    auto at = std::next(known_.begin(), static_cast<std::ptrdiff_t>(pick(known_.size())));
    const bool stale = pick(3) == 0;
    const std::uint64_t epoch = at->second.epoch - (stale ? 1 : 0);
    ASSERT_EQ(store_->release(*at->second.real, LeaseEpoch{epoch}), stale ? ErrorCode::kStaleEpoch : ErrorCode::kOk);
    if (stale) return;
    PageBytes page;
    ASSERT_EQ(get(*at->second.real, 0, page, epoch).status, ErrorCode::kNoSuchSlice);
    buried_[at->first] = {at->second.owner, epoch, 0, {}, {}, {}};
    known_.erase(at);
  }

  void use() {
    if (known_.empty()) return;
    KnownSlice& slice = std::next(known_.begin(), static_cast<std::ptrdiff_t>(pick(known_.size())))->second;
    const auto slot = static_cast<std::uint32_t>(pick(slice.slots));
    const bool stale = pick(10) == 0;
    const std::uint64_t epoch = stale ? slice.epoch - 1 : slice.epoch;
    KnownSlot& known = slice.content[slot];
    const std::uint64_t version = known.version + pick(4) - std::min<std::uint64_t>(known.version, pick(3));
    const bool expired = slice.expires && clock_.now() >= *slice.expires;
    const ErrorCode change = stale                      ? ErrorCode::kStaleEpoch
                             : expired                  ? ErrorCode::kExpired
                             : version <= known.version ? ErrorCode::kStaleVersion
                                                        : ErrorCode::kOk;
    switch (pick(4)) {
      case 0: {
        ASSERT_EQ(slice.real->discard(LeaseEpoch{epoch}, {slot, version}), change);
        if (change == ErrorCode::kOk) known = {version, {}};
        return;
      }
      case 1: {
        const auto value = static_cast<std::uint8_t>(slice.owner << 5 | pick(32));
        ASSERT_EQ(put(*slice.real, slot, version, value, epoch), change);
        if (change == ErrorCode::kOk) known = {version, value};
        return;
      }
      default: {
        PageBytes page;
        const auto answer = get(*slice.real, slot, page, epoch);
        if (stale) {
          ASSERT_EQ(answer.status, ErrorCode::kStaleEpoch);
          ASSERT_EQ(page, PageBytes{});
          return;
        }
        ASSERT_EQ(answer.version, known.version);
        ASSERT_EQ(answer.status, known.value ? ErrorCode::kOk : ErrorCode::kEmpty);
        ASSERT_EQ(page, known.value ? page_of(*known.value) : PageBytes{});
      }
    }
  }

  std::mt19937_64 random_;
  ManualClock clock_;
  std::unique_ptr<SliceStore> store_;
  std::map<std::uint64_t, KnownSlice> known_;
  std::map<std::uint64_t, KnownSlice> buried_;
  std::map<std::uint64_t, std::uint64_t> highest_;
};

TEST(SlicesProperty, AnswerAsTheModelDoes) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Walk walk(seed, seed % 2 == 0 ? Lends::kMedium : Lends::kFiles);
    for (int step = 0; step < 2000; ++step) {
      walk.step();
      if (step % 16 == 0) walk.check_bounds();
      if (::testing::Test::HasFatalFailure()) FAIL() << "step " << step;
    }
  }
}

}  // namespace
}  // namespace tidepool::pool::server
