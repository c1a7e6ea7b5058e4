// A remote store over simulated servers, and the steps that its tests take.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "pool/client/local_server.h"
#include "pool/client/remote_store.h"
#include "tests/unit/pool/client/simulated_network.h"
#include "tests/unit/pool/store/store_kit.h"

namespace tidepool::pool::testing {

inline void any_lease(const LeaseWish& wish, const LeaseAnswer& answer) {
  answer(Lease{wish.claims, {}});
}

// Like make_page's mixed content, and cheaper: schedules make millions of them.
inline Page quick_page(std::uint64_t seed) {
  Page page;
  const std::size_t noise = seed % 4 == 3 ? kPageSize : 1024;
  std::uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
  for (std::size_t at = 0; at < noise; at += 8) {
    state += 0x9e3779b97f4a7c15ull;
    const std::uint64_t word = (state ^ state >> 30) * 0xbf58476d1ce4e5b9ull;
    std::memcpy(page.bytes.data() + at, &word, sizeof(word));
  }
  return page;
}

// A batch with memory of its own. Once answered, nobody may touch its buffers: they are overwritten, and looked at
// again.
template <class Item, class Batch>
struct Transfer {
  std::vector<Page> pages;
  std::vector<Item> items;
  std::vector<std::uint64_t> seeds;
  Batch batch;
  bool done = false;
};
using Write = Transfer<WriteItem, WriteBatch>;
using Read = Transfer<ReadItem, ReadBatch>;

class RemoteWorld {
 public:
  RemoteWorld(std::uint64_t seed, unsigned servers) : network(seed) {
    for (unsigned i = 0; i < servers; ++i) network.add("server-" + std::to_string(i));
    options.capacity = Bytes{16ull << 20};
    options.slice = Bytes{2ull << 20};
    options.most_in_flight = Bytes{512ull << 10};
    options.most_reads = 16;
    options.own_thread = false;
    options.clock = &network.clock();
    options.seed = seed;
    secret = std::move(*VmSecret::create());
  }
  ~RemoteWorld() { store.reset(); }

  std::vector<RemoteServer> links() {
    std::vector<RemoteServer> all;
    for (std::size_t i = 0; i < network.servers(); ++i) {
      RemoteServer server;
      server.link = network.link_to(network.server(i));
      if (i < domains.size()) server.domain = domains[i];
      all.push_back(std::move(server));
    }
    if (spill != nullptr) all.push_back({make_local_link(spill), 1, {}, options.capacity, true});
    return all;
  }

  void create() {
    auto made = create_remote_store(links(), any_lease, secret, options);
    ASSERT_TRUE(made) << made.error().message();
    store = std::move(*made);
    pass(std::chrono::milliseconds(2));
  }

  UniqueFd held(const std::string& name) const {
    for (const auto& [known, fd] : store->held_descriptors())
      if (known == name) return UniqueFd{::fcntl(fd, F_DUPFD_CLOEXEC, 0)};
    return {};
  }

  // The agent ends, another one takes over.
  Result<> succeed() {
    RemoteHeld tables{held("table"), held("slices")};
    UniqueFd key = held("secret");
    store.reset();
    secret.reset();
    auto opened = VmSecret::open(std::move(key));
    if (!opened) return Failure{opened.error()};
    secret = std::move(*opened);
    auto made = open_remote_store(std::move(tables), links(), any_lease, secret, options);
    if (!made) return Failure{made.error()};
    store = std::move(*made);
    pass(std::chrono::milliseconds(2));
    return {};
  }

  void step() {
    if (!network.step()) network.pass(std::chrono::milliseconds(1));
    store->work();
  }
  void pass(Nanoseconds time) {
    for (Nanoseconds at{0}; at < time; at += std::chrono::microseconds(100)) {
      network.pass(std::chrono::microseconds(100));
      store->work();
    }
  }
  bool await(const bool& done) {
    for (int i = 0; i < 200'000 && !done; ++i) step();
    return done;
  }

  std::unique_ptr<Write> begin_write(const std::vector<std::uint64_t>& seeds) {
    auto write = std::make_unique<Write>();
    write->seeds = seeds;
    for (const std::uint64_t seed : seeds) write->pages.push_back(quick_page(seed));
    write->items.resize(seeds.size());
    for (std::size_t i = 0; i < seeds.size(); ++i) write->items[i].buffer = write->pages[i].bytes.data();
    write->batch = {write->items, Priority::kWriteBack, [raw = write.get()](WriteBatch&) {
                      EXPECT_FALSE(raw->done) << "told twice";
                      raw->done = true;
                      for (Page& page : raw->pages) page.bytes.fill(std::byte{0xee});
                    }};
    store->submit_write(write->batch);
    return write;
  }
  std::vector<Location> write(const std::vector<std::uint64_t>& seeds) {
    auto write = begin_write(seeds);
    EXPECT_TRUE(await(write->done));
    std::vector<Location> locations;
    for (const WriteItem& item : write->items) {
      EXPECT_EQ(item.status, PageStatus::kOk);
      locations.push_back(item.location);
    }
    return locations;
  }
  PageStatus try_write(std::uint64_t seed) {
    auto write = begin_write({seed});
    EXPECT_TRUE(await(write->done));
    return write->items[0].status;
  }

  std::unique_ptr<Read> begin_read(const std::vector<Location>& locations, const std::vector<std::uint64_t>& seeds,
                                   Priority priority = Priority::kDemand) {
    auto read = std::make_unique<Read>();
    read->seeds = seeds;
    read->pages.resize(locations.size());
    read->items.resize(locations.size());
    for (std::size_t i = 0; i < locations.size(); ++i) {
      read->items[i].location = locations[i];
      read->items[i].buffer = read->pages[i].bytes.data();
    }
    read->batch = {read->items, priority, [raw = read.get()](ReadBatch&) {
                     EXPECT_FALSE(raw->done) << "told twice";
                     raw->done = true;
                     for (std::size_t i = 0; i < raw->items.size(); ++i) {
                       if (raw->items[i].status != PageStatus::kOk) continue;
                       ASSERT_EQ(raw->items[i].page, raw->pages[i].bytes.data());
                       EXPECT_EQ(raw->pages[i], quick_page(raw->seeds[i])) << "WRONG BYTES";
                     }
                     for (Page& page : raw->pages) page.bytes.fill(std::byte{0xdd});
                   }};
    store->submit_read(read->batch);
    return read;
  }
  // A read that was answered long ago: nothing has come since.
  static void expect_untouched(const Read& read) {
    Page mark;
    mark.bytes.fill(std::byte{0xdd});
    for (const Page& page : read.pages) EXPECT_EQ(page, mark) << "written to after it was answered";
  }
  PageStatus read(Location location, std::uint64_t seed, Priority priority = Priority::kDemand) {
    auto read = begin_read({location}, {seed}, priority);
    EXPECT_TRUE(await(read->done));
    return read->items[0].status;
  }

  SimulatedNetwork network;
  RemoteStoreOptions options;
  std::vector<std::string> domains;
  std::shared_ptr<LocalServer> spill;  // of last resort
  std::shared_ptr<VmSecret> secret;
  std::unique_ptr<RemoteStore> store;
};

inline std::vector<std::uint64_t> seeds_from(std::uint64_t first, std::size_t count) {
  std::vector<std::uint64_t> seeds;
  for (std::size_t i = 0; i < count; ++i) seeds.push_back(first + i);
  return seeds;
}

// Every slice has all its replicas, and these every page.
inline bool is_whole(const RemoteWorld& world) {
  const RemoteFigures figures = world.store->figures();
  return figures.degraded_slices == 0 && figures.filling_slices == 0 && figures.rebuild_remaining == Bytes{};
}

inline void expect_all(RemoteWorld& world, const std::vector<Location>& locations, std::uint64_t first = 0) {
  for (std::uint64_t i = 0; i < locations.size(); ++i) ASSERT_EQ(world.read(locations[i], first + i), PageStatus::kOk);
}

}  // namespace tidepool::pool::testing
