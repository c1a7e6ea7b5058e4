#include "tests/unit/pool/client/simulated_network.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace tidepool::pool::testing {

using protocol::ErrorCode;

std::size_t SimulatedServer::pages() const {
  std::size_t sum = 0;
  for (const auto& [id, slice] : slices) sum += slice.pages.size();
  return sum;
}

namespace {

// A request as it is on the wire: a copy, because what was sent may arrive after its sender has given it up.
struct Flight {
  LinkRequest* request = nullptr;  // null: answered
  LinkOp op = LinkOp::kRead;
  std::uint64_t slice = 0;
  std::uint64_t epoch = 0;
  std::uint64_t boot = 0;
  bool sent = false;
  struct Item {
    std::uint32_t slot = 0;
    StoredPage page;
    ErrorCode status = ErrorCode::kOk;
  };
  std::vector<Item> items;
  ErrorCode refusal = ErrorCode::kOk;
};

}  // namespace

class SimulatedLink final : public Link {
 public:
  SimulatedLink(SimulatedNetwork& network, SimulatedServer& server)
      : network_(network), server_(server), alive_(std::make_shared<bool>(true)) {
    server_.links.push_back(this);
  }
  ~SimulatedLink() override {
    std::erase(server_.links, this);
    *alive_ = false;
    fail_all();
    for (auto& answer : std::exchange(attaching_, {})) answer.second(AttachOutcome::kLost, ErrorCode::kOk);
  }

  const std::string& server() const override { return server_.name; }
  void listen(LinkEvents events) override {
    events_ = std::move(events);
    schedule([this] { connect(); });
  }

  void attach(const Lease& lease, std::function<void(AttachOutcome, ErrorCode)> done) override {
    const std::uint64_t number = next_attach_++;
    attaching_[number] = std::move(done);
    schedule([this, number, claims = lease.claims] { answer_attach(number, claims); });
  }
  void release(protocol::SliceId slice) override {
    const auto lease = leases_.extract(static_cast<std::uint64_t>(slice));
    if (lease.empty()) return;
    if (!up_) {
      to_release_.emplace_back(lease.key(), lease.mapped());
      return;
    }
    network_.later(network_.delay(server_),
                   [this, alive = alive_, &server = server_, id = lease.key(), epoch = lease.mapped()] {
                     const auto found = server.slices.find(id);
                     if (*alive && up_ && found != server.slices.end() && found->second.epoch == epoch)
                       server.slices.erase(found);
                   });
  }

  void submit(LinkRequest& request) override {
    auto flight = std::make_shared<Flight>();
    flight->request = &request;
    flight->op = request.op;
    flight->slice = static_cast<std::uint64_t>(request.slice);
    flights_.push_back(flight);
    ++submitted_;
    if (!up_ && network_.chance(0.5)) return finish(flight, LinkOutcome::kLost);
    schedule([this, flight] { send(flight); });
  }

  bool cancel(LinkRequest& request) override {
    for (const auto& flight : flights_) {
      if (flight->request != &request || flight->sent) continue;
      finish(flight, LinkOutcome::kCancelled);
      return true;
    }
    return false;
  }

  int answers_descriptor() const override { return -1; }
  void take_answers() override {}
  LinkFigures figures() const override {
    LinkFigures figures;
    figures.state = up_ ? LinkState::kUp : LinkState::kLost;
    figures.typical_read = server_.faults.least + server_.faults.most;
    figures.slow_read = server_.faults.most * 2;
    figures.requests = submitted_;
    return figures;
  }

  void connect() {
    if (up_ || !server_.reachable) return;
    up_ = true;
    const bool same = known_boot_ == server_.boot;
    if (!same) leases_.clear();
    for (const auto& [id, epoch] : std::exchange(to_release_, {}))
      if (const auto found = server_.slices.find(id);
          same && found != server_.slices.end() && found->second.epoch == epoch)
        server_.slices.erase(found);
    known_boot_ = server_.boot;
    if (events_.up) events_.up(same);
    if (server_.draining) announce_draining();
    for (const auto& [number, claims] : std::exchange(waiting_, {}))
      schedule([this, number = number, claims = claims] { answer_attach(number, claims); });
  }
  void announce_draining() {
    if (up_ && events_.draining) events_.draining();
  }
  void disconnect() {
    if (!up_) return;
    up_ = false;
    const bool first = network_.chance(0.5);
    if (first && events_.down) events_.down("cut");
    fail_all();
    if (!first && events_.down) events_.down("cut");
  }

 private:
  void schedule(std::function<void()> what) {
    network_.later(network_.delay(server_), [alive = alive_, what = std::move(what)] {
      if (*alive) what();
    });
  }

  void fail_all() {
    const auto all = flights_;
    for (const auto& flight : all) finish(flight, LinkOutcome::kLost);
  }

  void finish(const std::shared_ptr<Flight>& flight, LinkOutcome outcome) {
    LinkRequest* request = std::exchange(flight->request, nullptr);
    if (request == nullptr) return;
    std::erase(flights_, flight);
    if (outcome == LinkOutcome::kAnswered) {
      for (std::size_t i = 0; i < flight->items.size(); ++i) {
        LinkItem& item = request->items[i];
        const Flight::Item& answer = flight->items[i];
        item.status = answer.status;
        item.slot = answer.slot;
        if (flight->op != LinkOp::kRead || answer.status != ErrorCode::kOk) continue;
        item.version = answer.page.version;
        item.length = answer.page.length;
        item.tag = answer.page.tag;
        std::memcpy(item.payload, answer.page.bytes.data(), answer.page.bytes.size());
      }
    }
    request->refusal = flight->refusal;
    request->done(*request, outcome);
  }

  void send(const std::shared_ptr<Flight>& flight) {
    if (flight->request == nullptr) return;
    if (!up_) return finish(flight, LinkOutcome::kLost);
    flight->sent = true;
    flight->boot = known_boot_;
    const auto lease = leases_.find(flight->slice);
    flight->epoch = lease == leases_.end() ? 0 : lease->second;
    for (const LinkItem& item : flight->request->items) {
      Flight::Item copy{.slot = item.slot,
                        .page = {.version = item.version, .length = item.length, .tag = item.tag, .bytes = {}}};
      if (flight->op == LinkOp::kWrite) copy.page.bytes.assign(item.payload, item.payload + item.length);
      flight->items.push_back(std::move(copy));
    }
    const NetworkFaults& faults = server_.faults;
    if (network_.chance(faults.request_lost)) {
      schedule([this, flight] { finish(flight, LinkOutcome::kLost); });
      return;
    }
    const bool late = network_.chance(faults.late);
    const bool silent = network_.chance(faults.answer_lost);
    const Nanoseconds arrival = network_.delay(server_) * (late ? 50 : 1);
    if (late) schedule([this, flight] { finish(flight, LinkOutcome::kLate); });
    // What is on the wire arrives, whatever becomes of the sender.
    network_.later(arrival, [this, alive = alive_, &server = server_, &network = network_, flight, silent] {
      serve(network, server, *flight);
      if (!*alive) return;
      schedule([this, flight, silent] {
        finish(flight, silent                              ? LinkOutcome::kLost
                       : flight->refusal != ErrorCode::kOk ? LinkOutcome::kRefused
                                                           : LinkOutcome::kAnswered);
      });
    });
    if (network_.chance(faults.twice) && flight->op != LinkOp::kRead)
      network_.later(
          arrival + network_.delay(server_) * 20,
          [&server = server_, &network = network_, again = *flight]() mutable { serve(network, server, again); });
  }

  static void serve(SimulatedNetwork& network, SimulatedServer& server, Flight& flight) {
    const auto found = server.slices.find(flight.slice);
    if (flight.boot != server.boot)
      flight.refusal = ErrorCode::kWrongBoot;
    else if (found == server.slices.end())
      flight.refusal = ErrorCode::kNoSuchSlice;
    else if (flight.epoch < found->second.epoch)
      flight.refusal = ErrorCode::kStaleEpoch;
    else if (flight.op != LinkOp::kRead && found->second.expires != MonoTime{} &&
             network.clock_.now() >= found->second.expires)
      flight.refusal = ErrorCode::kExpired;
    if (flight.refusal != ErrorCode::kOk) return;
    if (network.chance(server.faults.overloaded)) {
      flight.refusal = ErrorCode::kOverloaded;
      return;
    }
    if (flight.op == LinkOp::kWrite) ++server.write_frames;
    for (Flight::Item& item : flight.items) serve_item(network, server, found->second, flight.op, item);
  }

  static void serve_item(SimulatedNetwork& network, SimulatedServer& server, SimulatedSlice& slice, LinkOp op,
                         Flight::Item& item) {
    const auto stored = slice.pages.find(item.slot);
    if (item.slot >= slice.slots) {
      item.status = ErrorCode::kOutOfRange;
    } else if (op == LinkOp::kRead) {
      ++server.reads;
      read(network, server, slice, item);
    } else if (stored != slice.pages.end() && item.page.version <= stored->second.version) {
      item.status = ErrorCode::kStaleVersion;
    } else {
      ++(op == LinkOp::kWrite ? server.writes : server.discards);
      if (op == LinkOp::kWrite && network.chance(server.lies.drops_writes)) return;
      if (stored != slice.pages.end() && stored->second.length != 0) slice.before[item.slot].push_back(stored->second);
      slice.pages[item.slot] = item.page;
      if (op == LinkOp::kDiscard) slice.pages[item.slot].length = 0;
    }
  }

  static void read(SimulatedNetwork& network, SimulatedServer& server, SimulatedSlice& slice, Flight::Item& item) {
    const ServerLies& lies = server.lies;
    const auto stored = slice.pages.find(item.slot);
    if (stored == slice.pages.end() || stored->second.length == 0 || network.chance(lies.not_there)) {
      item.status = ErrorCode::kEmpty;
      return;
    }
    item.page = stored->second;
    const auto& before = slice.before[item.slot];
    if (network.chance(lies.bit_flipped))
      item.page.bytes[network.below(item.page.bytes.size())] ^= std::byte{1} << network.below(8);
    if (network.chance(lies.other_page)) {
      auto other = slice.pages.begin();
      std::advance(other, network.below(slice.pages.size()));
      const std::uint64_t version = item.page.version;
      if (other->second.length != 0) item.page = other->second;
      if (network.chance(0.5)) item.page.version = version;
    }
    if (!before.empty() && network.chance(lies.old_as_it_was)) item.page = before[network.below(before.size())];
    if (!before.empty() && network.chance(lies.old_version)) {
      const std::uint64_t version = item.page.version;
      item.page = before[network.below(before.size())];
      item.page.version = version;
    }
    if (network.chance(lies.wrong_length)) {
      item.page.length = static_cast<std::uint16_t>(1 + network.below(kPageSize));
      item.page.bytes.resize(item.page.length);
    }
  }

  void answer_attach(std::uint64_t number, const protocol::Claims& claims) {
    if (!up_) {
      waiting_.emplace_back(number, claims);
      return;
    }
    auto done = std::move(attaching_.extract(number).mapped());
    if (network_.chance(server_.faults.request_lost)) return done(AttachOutcome::kLost, ErrorCode::kOk);
    const auto id = static_cast<std::uint64_t>(claims.slice);
    const auto epoch = static_cast<std::uint64_t>(claims.epoch);
    const auto found = server_.slices.find(id);
    MonoTime expires{};
    if (claims.lease_ms != 0)
      expires =
          network_.clock_.now() +
          Nanoseconds{static_cast<std::int64_t>(static_cast<double>(claims.lease_ms) * 1e6 / server_.clock_speed)};
    ++server_.attaches;
    if (found != server_.slices.end()) {
      if (epoch < found->second.epoch) return done(AttachOutcome::kRefused, ErrorCode::kStaleEpoch);
      found->second.epoch = epoch;
      found->second.expires = expires;
      leases_[id] = epoch;
      return done(AttachOutcome::kAttached, ErrorCode::kOk);
    }
    if ((claims.rights & protocol::kRightCreate) == 0) return done(AttachOutcome::kRefused, ErrorCode::kNoSuchSlice);
    if (server_.draining) return done(AttachOutcome::kRefused, ErrorCode::kDrainingNow);
    if (server_.slices.size() >= server_.most_slices) return done(AttachOutcome::kRefused, ErrorCode::kFull);
    server_.slices[id] = {.epoch = epoch, .expires = expires, .slots = claims.slots, .pages = {}, .before = {}};
    leases_[id] = epoch;
    done(AttachOutcome::kCreated, ErrorCode::kOk);
  }

  SimulatedNetwork& network_;
  SimulatedServer& server_;
  std::shared_ptr<bool> alive_;
  LinkEvents events_;
  bool up_ = false;
  std::uint64_t known_boot_ = 0;
  std::map<std::uint64_t, std::uint64_t> leases_;                    // slice: epoch
  std::vector<std::pair<std::uint64_t, std::uint64_t>> to_release_;  // when it is up again
  std::vector<std::shared_ptr<Flight>> flights_;
  std::map<std::uint64_t, std::function<void(AttachOutcome, ErrorCode)>> attaching_;
  std::vector<std::pair<std::uint64_t, protocol::Claims>> waiting_;  // for the link to be up
  std::uint64_t next_attach_ = 0;
  std::uint64_t submitted_ = 0;
};

SimulatedServer& SimulatedNetwork::add(const std::string& name) {
  servers_.push_back(std::make_unique<SimulatedServer>());
  servers_.back()->name = name;
  return *servers_.back();
}

std::unique_ptr<Link> SimulatedNetwork::link_to(SimulatedServer& server) {
  return std::make_unique<SimulatedLink>(*this, server);
}

void SimulatedNetwork::cut(SimulatedServer& server) {
  server.reachable = false;
  for (SimulatedLink* link : std::vector(server.links)) link->disconnect();
}

void SimulatedNetwork::heal(SimulatedServer& server) {
  server.reachable = true;
  for (SimulatedLink* link : std::vector(server.links)) link->connect();
}

void SimulatedNetwork::drain(SimulatedServer& server) {
  server.draining = true;
  for (SimulatedLink* link : std::vector(server.links)) link->announce_draining();
}

void SimulatedNetwork::restart(SimulatedServer& server) {
  cut(server);
  ++server.boot;
  server.draining = false;
  server.slices.clear();
}

void SimulatedNetwork::later(Nanoseconds delay, std::function<void()> what) {
  events_[{clock_.now().since_boot + delay, order_++}] = std::move(what);
}

Nanoseconds SimulatedNetwork::delay(const SimulatedServer& server) {
  const auto spread = (server.faults.most - server.faults.least).count();
  return server.faults.least + Nanoseconds{static_cast<std::int64_t>(below(static_cast<std::uint64_t>(spread) + 1))};
}

bool SimulatedNetwork::chance(double probability) {
  return probability > 0 && std::uniform_real_distribution<double>(0, 1)(random_) < probability;
}

bool SimulatedNetwork::step() {
  if (events_.empty()) return false;
  const auto next = events_.begin();
  const Nanoseconds at = next->first.first;
  if (at > clock_.now().since_boot) clock_.advance(at - clock_.now().since_boot);
  const auto what = std::move(next->second);
  events_.erase(next);
  what();
  return true;
}

void SimulatedNetwork::pass(Nanoseconds time) {
  const MonoTime until = clock_.now() + time;
  while (!events_.empty() && events_.begin()->first.first <= until.since_boot) step();
  if (clock_.now() < until) clock_.advance(until - clock_.now());
}

}  // namespace tidepool::pool::testing
