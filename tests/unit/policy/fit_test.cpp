// `tidectl host fits --guaranteed G --oversubscribed V`, as docs/policy.md has the arithmetic:
//
//   sum of PA + G + the largest window's (sum of VA + V)  <=  total - reserve - what others use
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "policy/admission.h"

namespace tidepool::policy {
namespace {

using namespace literals;

constexpr std::uint64_t kGiB = 1ull << 30;

Bytes gib(double value) {
  return Bytes{static_cast<std::uint64_t>(value * static_cast<double>(kGiB))};
}

// A VM by what it holds, in GiB.
struct Held {
  double pa;
  std::vector<double> va;
};

struct Case {
  const char* what;
  double total, reserve, others;  // GiB
  std::vector<Held> held;
  double g, v;
  // What follows, worked out by hand.
  double guaranteed, oversubscribed, capacity;
  unsigned window;
  bool fits;
};

const Case kCases[] = {
    // The example of the documentation: one needs 3 more at night, one by day. 2 + 3, not 2 + 6.
    {"the example", 8, 1, 0, {{1, {3, 0}}, {1, {0, 3}}}, 0, 0, 2, 3, 7, 0, true},
    {"the example, with one more that is just right", 8, 1, 0, {{1, {3, 0}}, {1, {0, 3}}}, 2, 0, 4, 3, 7, 0, true},
    {"and with a little too much", 8, 1, 0, {{1, {3, 0}}, {1, {0, 3}}}, 2.25, 0, 4.25, 3, 7, 0, false},
    // V comes on top in whichever window is the largest, and is no guarantee.
    {"V in every window", 8, 1, 0, {{1, {3, 0}}, {1, {0, 3.5}}}, 1, 0.5, 3, 4, 7, 1, true},
    {"V a little too much", 8, 1, 0, {{1, {3, 0}}, {1, {0, 3.5}}}, 1, 0.75, 3, 4.25, 7, 1, false},
    {"windows add up over VMs", 16, 0, 0, {{1, {1, 2, 3}}, {2, {3, 2, 1}}, {0, {0, 1, 0}}}, 0, 1, 3, 6, 16, 1, true},
    {"nobody is there", 8, 1, 3, {}, 3, 1, 3, 1, 4, 0, true},
    {"nobody is there, and it is too large", 8, 1, 3, {}, 3, 1.25, 3, 1.25, 4, 0, false},
    {"others take their part", 8, 1, 4, {{1, {0, 0}}}, 2, 0, 3, 0, 3, 0, true},
    {"others take more than there is", 8, 4, 6, {}, 0, 0, 0, 0, 0, 0, true},
    {"others take more than there is, for any VM", 8, 4, 6, {}, 0.25, 0, 0.25, 0, 0, 0, false},
    {"a VM without a history of some window", 8, 0, 0, {{1, {2}}, {1, {1, 1, 5}}}, 0, 0, 2, 5, 8, 2, true},
};

TEST(Fits, IsTheSumThatIsDocumented) {
  for (const Case& each : kCases) {
    std::vector<Commitment> held;
    for (const Held& vm : each.held) {
      held.push_back({gib(vm.pa), {}});
      for (const double va : vm.va) held.back().oversubscribed.push_back(gib(va));
    }
    const Fit fit = fits(gib(each.total), gib(each.reserve), gib(each.others), held, gib(each.g), gib(each.v), 3,
                         PressureLevel::kNone);
    EXPECT_EQ(fit.guaranteed, gib(each.guaranteed)) << each.what;
    EXPECT_EQ(fit.oversubscribed, gib(each.oversubscribed)) << each.what;
    EXPECT_EQ(fit.capacity, gib(each.capacity)) << each.what;
    EXPECT_EQ(fit.window, each.window) << each.what;
    EXPECT_EQ(fit.fits, each.fits) << each.what << ": " << fit.arithmetic;
    const Bytes need = fit.guaranteed + fit.oversubscribed;
    EXPECT_EQ(fit.spare, saturating_sub(fit.capacity, need)) << each.what;
    EXPECT_EQ(fit.shortfall, saturating_sub(need, fit.capacity)) << each.what;
    // A host that refuses VMs says no to all of them, and says why.
    const Fit refused = fits(gib(each.total), gib(each.reserve), gib(each.others), held, gib(each.g), gib(each.v), 3,
                             PressureLevel::kRefuseVms);
    EXPECT_FALSE(refused.fits) << each.what;
    EXPECT_NE(refused.arithmetic.find("under pressure"), std::string::npos) << refused.arithmetic;
  }
}

// What a VM of 64 GiB with a guarantee holds, after so many minutes in each of two windows at a need, and some at
// another.
struct NeedCase {
  const char* what;
  double guarantee;
  struct {
    unsigned minutes;
    double need;
  } day, day_peak, night, night_peak;
  double pa, va_day, va_night;  // GiB
};

const NeedCase kNeedCases[] = {
    // A 64th of what was promised is 1 GiB: needs are whole ones.
    {"a steady need, no guarantee", 0, {100, 10}, {0, 0}, {100, 6}, {0, 0}, 10, 0, 0},
    {"a guarantee above it", 20, {100, 10}, {0, 0}, {100, 6}, {0, 0}, 20, 0, 0},
    {"peaks rarer than one in twenty are oversubscribed", 0, {96, 10}, {4, 30}, {100, 6}, {0, 0}, 10, 20, 0},
    {"peaks more frequent than that are guaranteed", 0, {90, 10}, {10, 30}, {100, 6}, {0, 0}, 30, 0, 0},
    {"each window has its own", 0, {100, 10}, {0, 0}, {96, 6}, {4, 40}, 10, 0, 30},
    {"a guarantee takes the peak's place", 35, {96, 10}, {4, 30}, {96, 6}, {4, 40}, 35, 0, 5},
    {"a need is rounded up to a 64th", 0, {100, 9.25}, {0, 0}, {100, 6}, {0, 0}, 10, 0, 0},
    {"an hour is missing in one window: it may want everything", 5, {100, 10}, {0, 0}, {59, 6}, {0, 0}, 5, 59, 59},
    {"it has an hour", 5, {100, 10}, {0, 0}, {60, 6}, {0, 0}, 10, 0, 0},
    {"no more than was promised is guaranteed", 80, {0, 0}, {0, 0}, {0, 0}, {0, 0}, 64, 0, 0},
};

TEST(Commitments, AreThePercentilesThatAreDocumented) {
  for (const NeedCase& each : kNeedCases) {
    Utilisation history(2);
    const auto record = [&](unsigned window, const auto& part) {
      for (unsigned minute = 0; minute < part.minutes; ++minute) history.record(window, gib(part.need), 64_GiB);
    };
    record(0, each.day);
    record(0, each.day_peak);
    record(1, each.night);
    record(1, each.night_peak);
    const Commitment held = commitment_of(gib(each.guarantee), 64_GiB, history, 0.95);
    EXPECT_EQ(held.guaranteed, gib(each.pa)) << each.what;
    ASSERT_EQ(held.oversubscribed.size(), 2u) << each.what;
    EXPECT_EQ(held.oversubscribed[0], gib(each.va_day)) << each.what;
    EXPECT_EQ(held.oversubscribed[1], gib(each.va_night)) << each.what;
  }
}

}  // namespace
}  // namespace tidepool::policy
