#include "pool/server/server.h"

#include <algorithm>

#include "base/quantity_text.h"
#include "pool/server/tcp_listener.h"

namespace tidepool::pool::server {
namespace {

constexpr unsigned kMostThreadsOfItself = 8;
constexpr std::size_t kChunksPerScrub = 16;

SliceLimits slice_limits(const MemdConfig& config) {
  return {config.slices.most, config.slices.size, config.slices.per_holder, config.slices.holder_size};
}

ConnectionLimits connection_limits(const MemdConfig& config) {
  return {config.limits.handshake_time, config.limits.stall_time};
}

std::string_view name_of(MediumKind kind) {
  switch (kind) {
    case MediumKind::kMemfd:
      return "memfd";
    case MediumKind::kFile:
      return "file";
    case MediumKind::kHugetlb:
      return "hugetlb";
    case MediumKind::kDax:
      return "dax";
  }
  return "?";
}

// The sockets of a server that was killed live on until the kernel has taken its rings apart, which it does after the
// process has gone.
constexpr auto kPatienceWithTheDead = std::chrono::seconds(3);
constexpr auto kBetweenAttempts = std::chrono::milliseconds(20);

template <class Open>
auto once_it_is_free(const Clock& clock, const Open& open) {
  const MonoTime until = clock.now() + kPatienceWithTheDead;
  while (true) {
    auto opened = open();
    if (opened || opened.error().code != std::errc::address_in_use || clock.now() >= until) return opened;
    std::this_thread::sleep_for(kBetweenAttempts);
  }
}

Result<std::unique_ptr<Donation>> open_memory(const MemdConfig::Memory& memory) {
  Bytes size = medium_within(memory.capacity);
  if (memory.kind == MediumKind::kMemfd) return lend_memory_files(size);
  if (memory.kind == MediumKind::kHugetlb) size = Bytes{size.value / kHugePageSize * kHugePageSize};
  if (size == Bytes{})
    return failure(std::errc::invalid_argument, "lend", "memory", "memory.capacity is less than one huge page");
  auto medium = Medium::create(memory.path, {size, size}, {});
  if (!medium) return Failure{medium.error()};
  if (medium->kind() != memory.kind)
    return failure(std::errc::invalid_argument, "lend", memory.path,
                   "memory.kind says " + std::string(name_of(memory.kind)) + ", and it is " +
                       std::string(name_of(medium->kind())));
  return lend_medium(std::move(*medium));
}

}  // namespace

Server::Server(const MemdConfig& config, std::unique_ptr<ServerState> state)
    : state_(std::move(state)), most_connections_(config.limits.connections), most_pending_(config.limits.pending) {
  state_->slices_per_connection = config.slices.most;
}

Result<std::unique_ptr<Server>> Server::start(const MemdConfig& config, const protocol::ServerKey& key,
                                              const Clock& clock) {
  auto memory = open_memory(config.memory);
  if (!memory) return Failure{memory.error()};
  auto store = std::make_unique<SliceStore>(std::move(*memory), slice_limits(config), clock);
  const auto boot = protocol::fresh_boot_id();
  if (!boot) return Failure{boot.error()};
  std::unique_ptr<Server> server(new Server(
      config, std::make_unique<ServerState>(std::move(store), config.name, *boot, key, config.limits.credit_pages)));
  if (auto opened = server->open_listeners(config, clock); !opened) return Failure{opened.error()};
  server->scrubber_ = std::thread([&server = *server] { server.scrub(); });
  if (auto started = server->start_loops(config, clock); !started) return Failure{started.error()};
  return server;
}

Server::~Server() {
  // The last loop hands connections to the others, so it ends first.
  while (!loops_.empty()) loops_.pop_back();
  state_->end_scrubber();
  if (scrubber_.joinable()) scrubber_.join();
}

Result<> Server::open_listeners(const MemdConfig& config, const Clock& clock) {
  for (const std::string& text : config.listen) {
    const ListenAddress address = parse_listen(text);
    if (address.tcp) {
      auto fd = once_it_is_free(clock, [&] { return listen_on_tcp(address.where); });
      if (!fd) return Failure{fd.error()};
      listening_.push_back({fd->get(), {.must_authenticate = true, .takes_files = false}, true});
      tcp_.push_back(std::move(*fd));
    } else {
      auto listener =
          once_it_is_free(clock, [&] { return UnixListener::bind(address.where, config.group, "memory server"); });
      if (!listener) return Failure{listener.error()};
      listening_.push_back({listener->fd(), {config.authenticate_unix, config.memory.share}, false});
      unix_.push_back(std::make_unique<UnixListener>(std::move(*listener)));
    }
  }
  return {};
}

Result<> Server::start_loops(const MemdConfig& config, const Clock& clock) {
  unsigned threads = config.limits.threads;
  if (threads == 0) threads = std::clamp(std::thread::hardware_concurrency(), 1u, kMostThreadsOfItself);
  // The last one accepts: when a connection comes, the others are there.
  for (unsigned i = 0; i < threads; ++i) {
    const bool accepts = i + 1 == threads;
    auto loop = EventLoop::start(*state_, clock, accepts ? listening_ : std::vector<Listening>{},
                                 [this](Accepted connection) { accept(std::move(connection)); });
    if (!loop) return Failure{loop.error()};
    (*loop)->set_limits(connection_limits(config));
    loops_.push_back(std::move(*loop));
  }
  for (const auto& loop : loops_) takers_.push_back(loop.get());
  serving_ = true;
  return {};
}

// On the thread of the loop that accepts.
void Server::accept(Accepted connection) {
  accepted_.fetch_add(1, std::memory_order_relaxed);
  if (!serving_ || state_->connections.load() >= most_connections_ || state_->pending.load() >= most_pending_) {
    turned_away_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  state_->connections.fetch_add(1);
  state_->pending.fetch_add(1);
  // Not by loops_, which shrinks at the end.
  takers_[next_loop_++ % takers_.size()]->add(std::move(connection));
}

void Server::scrub() {
  while (state_->await_scrub()) {
    while (state_->store->scrub(kChunksPerScrub)) {
    }
  }
}

void Server::apply(const MemdConfig& config, const protocol::ServerKey& key) {
  state_->store->set_limits(slice_limits(config));
  state_->slices_per_connection = config.slices.most;
  state_->credit = config.limits.credit_pages;
  state_->set_key(key);
  most_connections_ = config.limits.connections;
  most_pending_ = config.limits.pending;
  for (const auto& loop : loops_) {
    loop->set_limits(connection_limits(config));
    loop->wake();
  }
}

void Server::drain() {
  state_->draining = true;
  for (const auto& loop : loops_) loop->wake();
}

ServerFigures Server::figures() const {
  ServerFigures figures;
  figures.slices = state_->store->figures();
  figures.draining = state_->draining.load();
  figures.connections = state_->connections.load();
  figures.accepted = accepted_.load(std::memory_order_relaxed);
  figures.turned_away = turned_away_.load(std::memory_order_relaxed);
  figures.requests.resize(LoopCounters::kTypes);
  figures.answers.resize(LoopCounters::kCodes);
  const auto add = [](std::uint64_t& sum, const LoopCounters::Counter& counter) {
    sum += counter.load(std::memory_order_relaxed);
  };
  for (const auto& loop : loops_) {
    const LoopCounters& counters = loop->counters();
    for (std::size_t i = 0; i < LoopCounters::kTypes; ++i) add(figures.requests[i], counters.requests[i]);
    for (std::size_t i = 0; i < LoopCounters::kCodes; ++i) add(figures.answers[i], counters.answers[i]);
    add(figures.pages_read, counters.pages_read);
    add(figures.pages_written, counters.pages_written);
    add(figures.pages_discarded, counters.pages_discarded);
    add(figures.bytes_received, counters.bytes_received);
    add(figures.bytes_sent, counters.bytes_sent);
    add(figures.bad_frames, counters.bad_frames);
    add(figures.bad_tokens, counters.bad_tokens);
    add(figures.cut_slow, counters.cut_slow);
    add(figures.cut_silent, counters.cut_silent);
  }
  return figures;
}

std::vector<std::uint64_t> Server::beats() const {
  std::vector<std::uint64_t> beats;
  for (const auto& loop : loops_) beats.push_back(loop->counters().beats.load(std::memory_order_relaxed));
  return beats;
}

std::string Server::trouble() const {
  for (const auto& loop : loops_) {
    if (std::string trouble = loop->trouble(); !trouble.empty()) return trouble;
  }
  return {};
}

std::string Server::summary() const {
  const SliceFigures slices = state_->store->figures();
  return std::to_string(slices.slices) + " slices of " + std::to_string(slices.holders) + " holders, " +
         exact_text(slices.lent) + " of " + exact_text(slices.capacity) + " lent";
}

}  // namespace tidepool::pool::server
