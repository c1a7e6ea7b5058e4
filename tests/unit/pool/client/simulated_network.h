// Memory servers and the network to them, as hostile as they come, in one thread and under one seed: requests and
// answers are delayed, lost, late, done twice and out of order; servers restart empty and lie.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/units.h"
#include "pool/client/link.h"

namespace tidepool::pool::testing {

struct NetworkFaults {
  Nanoseconds least{std::chrono::microseconds(10)};  // from one end to the other
  Nanoseconds most{std::chrono::microseconds(100)};
  double request_lost = 0;  // never done, answered kLost
  double answer_lost = 0;   // done, answered kLost
  double late = 0;          // answered kLate, done afterwards
  double twice = 0;         // done again some time later
  double overloaded = 0;    // refused as a whole
};

// How probable each is, for every page that is read.
struct ServerLies {
  double bit_flipped = 0;
  double other_page = 0;   // another slot's
  double old_version = 0;  // replayed, with the version that is asked for in front
  double old_as_it_was = 0;
  double not_there = 0;
  double wrong_length = 0;
  double drops_writes = 0;  // says that it is stored

  static ServerLies all(double probability) {
    return {probability, probability, probability, probability, probability, probability, probability};
  }
};

class SimulatedLink;

struct StoredPage {
  std::uint64_t version = 0;
  std::uint16_t length = 0;
  protocol::Tag tag{};
  std::vector<std::byte> bytes;
};

struct SimulatedSlice {
  std::uint64_t epoch = 0;
  MonoTime expires{};  // MonoTime{}: never
  std::uint32_t slots = 0;
  std::map<std::uint32_t, StoredPage> pages;
  std::map<std::uint32_t, std::vector<StoredPage>> before;  // for replays
};

struct SimulatedServer {
  std::string name;
  std::uint64_t boot = 1;
  bool reachable = true;
  bool draining = false;
  double clock_speed = 1;  // its leases are over so much sooner
  std::size_t most_slices = 1000;
  NetworkFaults faults;
  ServerLies lies;
  std::map<std::uint64_t, SimulatedSlice> slices;
  std::vector<SimulatedLink*> links;
  // What was asked of it:
  std::uint64_t reads = 0;
  std::uint64_t writes = 0;
  std::uint64_t discards = 0;
  std::uint64_t write_frames = 0;
  std::uint64_t attaches = 0;

  std::size_t pages() const;
};

class SimulatedNetwork {
 public:
  explicit SimulatedNetwork(std::uint64_t seed) : random_(seed) {}

  SimulatedServer& add(const std::string& name);
  SimulatedServer& server(std::size_t index) { return *servers_[index]; }
  std::size_t servers() const { return servers_.size(); }
  std::unique_ptr<Link> link_to(SimulatedServer& server);

  // Cuts all its connections; what is under way is answered kLost, and perhaps done all the same.
  void cut(SimulatedServer& server);
  void heal(SimulatedServer& server);
  // It makes no more slices, and says so.
  void drain(SimulatedServer& server);
  // It loses everything, and is another one from now on. Reachable again only after heal().
  void restart(SimulatedServer& server);

  // Lets the next thing happen, at its time; false when nothing is about to.
  bool step();
  void pass(Nanoseconds time);
  const Clock& clock() const { return clock_; }
  std::size_t upcoming() const { return events_.size(); }

 private:
  friend class SimulatedLink;
  void later(Nanoseconds delay, std::function<void()> what);
  Nanoseconds delay(const SimulatedServer& server);
  bool chance(double probability);
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }

  std::mt19937_64 random_;
  ManualClock clock_;
  std::uint64_t order_ = 0;
  std::map<std::pair<Nanoseconds, std::uint64_t>, std::function<void()>> events_;
  std::vector<std::unique_ptr<SimulatedServer>> servers_;
};

}  // namespace tidepool::pool::testing
