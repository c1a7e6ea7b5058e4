// Several loops at work in the same slices.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "tests/unit/pool/server/slices_kit.h"

namespace tidepool::pool::server {
namespace {

using namespace testing;

TEST(SlicesThreads, ShowEachPageWholeAndInOneVersion) {
  const ManualClock clock;
  auto store = make_store(clock, 4);
  const auto slice = store->attach(claims(1, 1, 1, 130), true).slice;
  std::atomic<std::uint64_t> next_version{1};
  std::atomic<int> torn{0};
  std::atomic<int> backwards{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t + 1);
      std::vector<std::uint64_t> seen(130, 0);
      PageBytes page;
      for (int i = 0; i < 5000; ++i) {
        const auto slot = static_cast<std::uint32_t>(random() % 130);
        if (random() % 2 == 0) {
          const std::uint64_t version = next_version.fetch_add(1);
          put(*slice, slot, version, static_cast<std::uint8_t>(version));
          continue;
        }
        const auto answer = get(*slice, slot, page);
        if (answer.version < seen[slot]) ++backwards;
        seen[slot] = answer.version;
        if (answer.status == ErrorCode::kOk && page != page_of(static_cast<std::uint8_t>(answer.version))) ++torn;
      }
    });
  }
  for (std::thread& each : threads) each.join();
  EXPECT_EQ(torn, 0);
  EXPECT_EQ(backwards, 0);
}

TEST(SlicesThreads, ShowNobodyWhatAnotherHolderWrote) {
  const ManualClock clock;
  auto store = make_store(clock, 6);
  std::atomic<bool> stop{false};
  std::atomic<int> foreign{0};
  std::atomic<int> rounds{0};
  std::thread scrubber([&] {
    while (!stop) {
      if (!store->scrub(1)) std::this_thread::yield();
    }
  });
  std::vector<std::thread> threads;
  for (std::uint8_t who = 1; who <= 4; ++who) {
    threads.emplace_back([&, who] {
      PageBytes page;
      for (std::uint64_t epoch = 1; epoch <= 200; ++epoch) {
        const AttachResult made = store->attach(claims(who, who, epoch, 120), true);
        if (made.status == ErrorCode::kFull) {
          std::this_thread::yield();
          continue;
        }
        ++rounds;
        std::thread reader([&] {  // a second connection, at work when the slice is released
          PageBytes mine;
          for (std::uint32_t i = 0; i < 200; ++i) {
            const auto answer = get(*made.slice, i % 120, mine, epoch);
            if (answer.status == ErrorCode::kOk && mine != page_of(who)) ++foreign;
          }
        });
        for (std::uint32_t slot = 0; slot < 120; slot += 3) {
          if (get(*made.slice, slot, page, epoch).status == ErrorCode::kOk) ++foreign;
          put(*made.slice, slot, 1, who, epoch);
        }
        store->release(*made.slice, LeaseEpoch{epoch});
        reader.join();
      }
    });
  }
  for (std::thread& each : threads) each.join();
  stop = true;
  scrubber.join();
  EXPECT_EQ(foreign, 0);
  EXPECT_GT(rounds, 4);
  while (store->scrub(8)) {
  }
  EXPECT_EQ(store->figures().lent + store->figures().scrubbing, Bytes{});
  EXPECT_EQ(store->figures().stored_pages, 0u);
}

}  // namespace
}  // namespace tidepool::pool::server
