// Thousands of random schedules against a model: whatever the network and the servers do, no read gives anything but
// what was written, and pages are lost only when all that have them are.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>

#include "tests/unit/pool/client/remote_kit.h"

namespace tidepool::pool::testing {
namespace {

struct Chaos {
  bool cuts = false;
  bool losses = false;
  bool successors = false;
  unsigned restarts = 0;  // servers that may restart, the first ones
  unsigned liars = 0;     // likewise
  bool rolling = false;   // any server restarts, again and again, once all pages are at two
  bool drains = false;
};

class Schedule {
 public:
  Schedule(std::uint64_t seed, const Chaos& chaos)
      : chaos_(chaos), random_(seed), world_(seed, static_cast<unsigned>(2 + any(2))) {
    world_.options.replicas = 2;
    if (any(3) == 0) world_.options.codec = any(2) == 0 ? CodecKind::kLz4 : CodecKind::kZstd;
    world_.options.most_reads = 8;
    world_.options.refused_pause = std::chrono::milliseconds(20);
    if (any(2) == 0) world_.options.lost_after = std::chrono::milliseconds(30);
    if (any(2) == 0) world_.options.copying = std::make_shared<ByteBudget>(Bytes{4u << 20});
    world_.create();
    NetworkFaults faults;
    if (any(2) == 0) faults.most = std::chrono::milliseconds(2);
    faults.twice = 0.1;
    faults.overloaded = any(2) == 0 ? 0.05 : 0;
    if (chaos.losses) faults.request_lost = faults.answer_lost = faults.late = 0.03;
    for (std::size_t i = 0; i < world_.network.servers(); ++i) world_.network.server(i).faults = faults;
    for (unsigned i = 0; i < chaos.liars; ++i) world_.network.server(i).lies = ServerLies::all(any(2) == 0 ? 1.0 : 0.2);
    restarts_left_ = chaos.restarts;
  }

  void run(unsigned steps) {
    for (unsigned i = 0; i < steps && !::testing::Test::HasFailure(); ++i) act();
    settle();
  }

  // With everything back and well: how many pages cannot be read.
  std::size_t unreadable() {
    for (std::size_t i = 0; i < world_.network.servers(); ++i) {
      SimulatedServer& server = world_.network.server(i);
      server.faults = {};
      server.lies = {};
      world_.network.heal(server);
    }
    settle();
    for (int i = 0; i < 10; ++i) {
      world_.network.pass(std::chrono::milliseconds(50));
      world_.store->work();
    }
    world_.pass(std::chrono::milliseconds(5));
    std::size_t count = 0;
    for (const auto& [location, page] : live_) count += world_.read(location, page.seed) != PageStatus::kOk;
    world_.network.pass(std::chrono::milliseconds(200));
    for (const auto& read : answered_) RemoteWorld::expect_untouched(*read);
    EXPECT_EQ(world_.store->usage().pages, PageCount{live_.size()});
    return count;
  }
  std::uint64_t corrupt() const { return corrupt_; }
  std::size_t pages() const { return live_.size(); }

 private:
  struct Kept {
    std::uint64_t seed = 0;
    unsigned reads = 0;  // under way: it must not be released
    unsigned owners = 1;
  };

  std::uint64_t any(std::uint64_t below) { return random_() % below; }
  SimulatedServer& any_server() { return world_.network.server(any(world_.network.servers())); }

  void act() {
    switch (any(12)) {
      case 0:
      case 1:
        writes_.push_back(world_.begin_write(seeds_from(next_seed_, 1 + any(any(4) == 0 ? 100 : 12))));
        next_seed_ += writes_.back()->seeds.size();
        break;
      case 2:
      case 3:
      case 4:
        begin_read();
        break;
      case 5:
        release();
        break;
      case 6:
        if (!writes_.empty() && any(4) == 0) world_.store->cancel(writes_[any(writes_.size())]->batch);
        if (!reads_.empty() && any(4) == 0) world_.store->cancel(reads_[any(reads_.size())].first->batch);
        break;
      case 7:
        disturb();
        break;
      default:
        for (std::uint64_t i = any(30); i > 0; --i) world_.step();
    }
    harvest();
  }

  // Every page is at two servers, and any of them may go.
  bool whole() {
    for (std::size_t i = 0; i < world_.network.servers(); ++i) world_.network.heal(world_.network.server(i));
    // Whoever is new finds out who has what: an ATTACH may be lost, and is sent again.
    for (int i = 0; i < 60; ++i) {
      world_.network.pass(std::chrono::milliseconds(10));
      world_.store->work();
    }
    for (int i = 0; i < 20'000; ++i) {
      const RemoteFigures figures = world_.store->figures();
      if (figures.degraded_slices == 0 && figures.filling_slices == 0) return true;
      world_.step();
      harvest();
    }
    return false;
  }

  void disturb() {
    if (chaos_.rolling && any(2) == 0) {
      if (!whole()) ADD_FAILURE() << "it is never whole again";
      world_.network.restart(any_server());
    } else if (chaos_.drains && any(6) == 0) {
      world_.network.drain(any_server());
    } else if (chaos_.cuts && any(2) == 0) {
      SimulatedServer& server = any_server();
      server.reachable ? world_.network.cut(server) : world_.network.heal(server);
    } else if (restarts_left_ != 0 && any(6) == 0) {
      SimulatedServer& server = world_.network.server(--restarts_left_);
      world_.network.restart(server);
      if (any(2) == 0) world_.network.heal(server);
    } else if (chaos_.successors && any(8) == 0) {
      // In good order: what is under way is answered, one way or the other.
      settle();
      ASSERT_TRUE(world_.succeed());
    }
  }

  void begin_read() {
    if (live_.empty()) return;
    std::vector<Location> locations;
    std::vector<std::uint64_t> seeds;
    auto at = std::next(live_.begin(), static_cast<std::ptrdiff_t>(any(live_.size())));
    for (std::uint64_t wanted = 1 + any(any(3) == 0 ? 80 : 2); wanted > 0 && at != live_.end(); --wanted, ++at) {
      locations.push_back(at->first);
      seeds.push_back(at->second.seed);
      ++at->second.reads;
    }
    auto read = world_.begin_read(locations, seeds, any(2) == 0 ? Priority::kDemand : Priority::kPrefetch);
    reads_.emplace_back(std::move(read), std::move(locations));
  }

  void release() {
    std::vector<Location> going;
    for (std::uint64_t tries = any(20); tries > 0 && !live_.empty(); --tries) {
      const auto at = std::next(live_.begin(), static_cast<std::ptrdiff_t>(any(live_.size())));
      if (at->second.reads != 0) continue;
      if (any(4) == 0) {
        EXPECT_TRUE(world_.store->retain(at->first));
        ++at->second.owners;
        continue;
      }
      going.push_back(at->first);
      if (--at->second.owners == 0) live_.erase(at);
    }
    world_.store->release(going);
  }

  void harvest() {
    for (std::size_t i = 0; i < writes_.size();) {
      if (!writes_[i]->done) {
        ++i;
        continue;
      }
      for (std::size_t k = 0; k < writes_[i]->items.size(); ++k) {
        const WriteItem& item = writes_[i]->items[k];
        EXPECT_NE(item.status, PageStatus::kPending);
        EXPECT_EQ(item.status == PageStatus::kOk, item.location != kNoLocation);
        if (item.status != PageStatus::kOk) continue;
        EXPECT_FALSE(live_.contains(item.location)) << "a location was given twice";
        live_[item.location] = {.seed = writes_[i]->seeds[k]};
      }
      writes_.erase(writes_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    for (std::size_t i = 0; i < reads_.size();) {
      if (!reads_[i].first->done) {
        ++i;
        continue;
      }
      for (std::size_t k = 0; k < reads_[i].second.size(); ++k) {
        --live_[reads_[i].second[k]].reads;
        EXPECT_NE(reads_[i].first->items[k].status, PageStatus::kPending);
        corrupt_ += reads_[i].first->items[k].status == PageStatus::kCorrupt;
      }
      answered_.push_back(std::move(reads_[i].first));
      reads_.erase(reads_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  void settle() {
    for (int i = 0; i < 100'000 && !(writes_.empty() && reads_.empty()); ++i) {
      world_.step();
      harvest();
    }
    EXPECT_TRUE(writes_.empty() && reads_.empty()) << "somebody waits for ever";
  }

  const Chaos chaos_;
  std::mt19937_64 random_;
  RemoteWorld world_;
  unsigned restarts_left_ = 0;
  std::uint64_t next_seed_ = 1;
  std::map<Location, Kept> live_;
  std::vector<std::unique_ptr<Write>> writes_;
  std::vector<std::pair<std::unique_ptr<Read>, std::vector<Location>>> reads_;
  std::vector<std::unique_ptr<Read>> answered_;
  std::uint64_t corrupt_ = 0;
};

// Programs that are watched by a sanitizer take twenty times as long.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr unsigned kFewer = 10;
#else
constexpr unsigned kFewer = 1;
#endif

// Calls back with a schedule that has been run; its seed stands beside whatever fails.
// TIDEPOOL_SCHEDULES: how many times as many. TIDEPOOL_SCHEDULE_SEED: the first one.
template <class Verdict>
void schedules(unsigned count, const Chaos& chaos, Verdict&& verdict) {
  std::uint64_t first = std::random_device{}();
  if (const char* seed = std::getenv("TIDEPOOL_SCHEDULE_SEED")) first = std::strtoull(seed, nullptr, 10);
  if (const char* times = std::getenv("TIDEPOOL_SCHEDULES")) count *= static_cast<unsigned>(std::atoi(times));
  count /= kFewer;
  std::size_t pages = 0;
  for (std::uint64_t i = 0; i < count && !::testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE("seed " + std::to_string(first + i));
    Schedule schedule(first + i, chaos);
    schedule.run(120);
    pages += schedule.pages();
    verdict(schedule);
  }
  EXPECT_GT(pages, 20 * count) << "hardly a page was stored: nothing was tested";
}

TEST(RemoteStoreSchedules, NothingIsLostWhileServersKeepWhatTheyHave) {
  schedules(250, {.cuts = true, .losses = true, .successors = true}, [](Schedule& schedule) {
    EXPECT_EQ(schedule.unreadable(), 0u);
    EXPECT_EQ(schedule.corrupt(), 0u);
  });
}

TEST(RemoteStoreSchedules, WhatWasAcknowledgedSurvivesTheLossOfAnyOneServer) {
  schedules(250, {.restarts = 1}, [](Schedule& schedule) {
    EXPECT_EQ(schedule.unreadable(), 0u);
    EXPECT_EQ(schedule.corrupt(), 0u);
  });
}

TEST(RemoteStoreSchedules, WhatWasRebuiltSurvivesTheLossOfAnyOther) {
  schedules(150, {.losses = true, .successors = true, .rolling = true}, [](Schedule& schedule) {
    EXPECT_EQ(schedule.unreadable(), 0u);
    EXPECT_EQ(schedule.corrupt(), 0u);
  });
}

TEST(RemoteStoreSchedules, NothingIsLostInMoves) {
  schedules(150, {.cuts = true, .losses = true, .successors = true, .drains = true}, [](Schedule& schedule) {
    EXPECT_EQ(schedule.unreadable(), 0u);
    EXPECT_EQ(schedule.corrupt(), 0u);
  });
}

TEST(RemoteStoreSchedules, OneServerThatLiesIsFoundOutEveryTime) {
  schedules(250, {.successors = true, .liars = 1}, [](Schedule& schedule) { EXPECT_EQ(schedule.corrupt(), 0u); });
}

TEST(RemoteStoreSchedules, NothingWrongIsEverHandedOut) {
  // That a page reads as what was written is looked at whenever one is answered.
  schedules(250, {.cuts = true, .losses = true, .successors = true, .restarts = 2, .liars = 2, .drains = true},
            [](Schedule& schedule) { schedule.unreadable(); });
}

// Memory that a successor finds damaged costs pages, and nothing else.
TEST(RemoteStoreSchedules, DamagedTablesNeverGiveWrongPages) {
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  // Some damage is noticed on opening, and then there is nothing more to ask: rounds until enough were opened.
  unsigned opened = 0;
  for (unsigned round = 0; opened < 40 / kFewer; ++round) {
    ASSERT_LT(round, 1000u) << "hardly any damaged memory is opened";
    RemoteWorld world(seed + round, 2);
    world.create();
    const auto locations = world.write(seeds_from(0, 300));
    const UniqueFd damaged = world.held(random() % 3 == 0 ? "slices" : "table");
    const auto size = static_cast<std::size_t>([&] {
      struct stat status {};
      EXPECT_EQ(::fstat(damaged.get(), &status), 0);
      return status.st_size;
    }());
    auto* memory = static_cast<std::byte*>(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, damaged.get(), 0));
    ASSERT_NE(memory, MAP_FAILED);
    // Headers seldom, entries often.
    const bool header = random() % 8 == 0;
    for (std::uint64_t bits = 1 + random() % 200; bits > 0; --bits) {
      const std::size_t at =
          header ? random() % 64 : kPageSize + random() % std::min<std::size_t>(size - kPageSize, 9000);
      memory[at] ^= std::byte{1} << random() % 8;
    }
    ::munmap(memory, size);
    if (!world.succeed()) continue;
    ++opened;
    for (std::uint64_t i = 0; i < locations.size(); ++i) world.read(locations[i], i);
    const std::vector<Location> fresh = [&] {
      auto write = world.begin_write(seeds_from(1000, 100));
      EXPECT_TRUE(world.await(write->done));
      std::vector<Location> stored;
      for (const WriteItem& item : write->items)
        stored.push_back(item.status == PageStatus::kOk ? item.location : kNoLocation);
      return stored;
    }();
    for (std::uint64_t i = 0; i < fresh.size(); ++i) {
      if (fresh[i] == kNoLocation) continue;
      ASSERT_EQ(world.read(fresh[i], 1000 + i), PageStatus::kOk);
    }
  }
}

}  // namespace
}  // namespace tidepool::pool::testing
