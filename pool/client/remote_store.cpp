#include "pool/client/remote_store.h"

#include <sys/epoll.h>
#include <sys/random.h>

#include <algorithm>
#include <cmath>

#include "pool/client/remote_core.h"

namespace tidepool::pool {
namespace remote {

namespace {

constexpr std::size_t kDiscardFrames = 4;
constexpr std::size_t kJobsMadeAhead = 64;
constexpr auto kWatchEvery = std::chrono::milliseconds(1);
constexpr auto kWatchFor = std::chrono::milliseconds(100);
// A server that is up and did not attach a slice that it should have.
constexpr auto kAttachAgainEvery = std::chrono::milliseconds(250);
constexpr auto kLatenciesEvery = std::chrono::milliseconds(10);
constexpr auto kIdleEvery = std::chrono::milliseconds(100);

}  // namespace

Core::Core(SlotTable table, SliceTable slices, LeaseSource leases, std::shared_ptr<VmSecret> secret,
           const RemoteStoreOptions& options)
    : table_(std::move(table)),
      slice_table_(std::move(slices)),
      leases_(std::move(leases)),
      secret_(std::move(secret)),
      options_(options),
      clock_(options.clock != nullptr ? options.clock : &system_clock_),
      slots_per_slice_(slice_table_.spec().slots_per_slice),
      slices_(slice_table_.spec().slices),
      leasing_(slices_.size()),
      random_(options.seed) {}

Result<> Core::ensure_codec(std::uint8_t kind, int level) {
  if (kind == 0 || codecs_[kind] != nullptr) return {};
  auto codec = Codec::create(static_cast<CodecKind>(kind), level);
  if (!codec) return Failure{codec.error()};
  codecs_[kind] = std::move(*codec);
  return {};
}

Result<> Core::prepare(std::vector<RemoteServer> servers) {
  if (secret_->key() == nullptr) {
    if (auto advanced = secret_->advance(); !advanced) return advanced;
  }
  auto sealers = SealerPool::create(*secret_->key());
  if (!sealers) return Failure{sealers.error()};
  sealers_ = std::move(*sealers);
  if (options_.codec) {
    if (auto made = ensure_codec(static_cast<std::uint8_t>(*options_.codec), options_.level); !made) return made;
  }
  const std::size_t frames = options_.most_in_flight.value / kFrameBytes;
  auto written = Mapping::anonymous(Bytes{frames * kFrameBytes});
  if (!written) return Failure{written.error()};
  write_buffers_ = std::move(*written);
  for (std::size_t i = 0; i < frames; ++i) {
    WriteFrame& frame = *write_frames_.emplace_back(std::make_unique<WriteFrame>());
    frame.buffer = write_buffers_.data() + i * kFrameBytes;
    frame.number = static_cast<std::uint32_t>(i);
    for (unsigned replica = 0; replica < kReplicaPlaces; ++replica)
      frame.sendings[replica].request.done = [this, &frame, replica](LinkRequest&, LinkOutcome outcome) {
        this->written(frame, replica, outcome);
      };
    free_frames_.push_back(&frame);
  }
  auto read = Mapping::anonymous(Bytes{options_.most_reads * kFrameBytes});
  if (!read) return Failure{read.error()};
  read_buffers_ = std::move(*read);
  for (std::size_t i = 0; i < options_.most_reads; ++i) {
    ReadRequest& request = *read_requests_.emplace_back(std::make_unique<ReadRequest>());
    request.buffer = read_buffers_.data() + i * kFrameBytes;
    request.request.op = LinkOp::kRead;
    request.request.done = [this, &request](LinkRequest&, LinkOutcome outcome) { answered(request, outcome); };
    free_requests_.push_back(&request);
  }
  for (std::size_t i = 0; i < kJobsMadeAhead; ++i) {
    free_jobs_.push_back(read_jobs_.emplace_back(std::make_unique<ReadJob>()).get());
    free_read_states_.push_back(read_states_.emplace_back(std::make_unique<ReadState>()).get());
  }
  for (std::size_t i = 0; i < kDiscardFrames; ++i) {
    DiscardFrame& frame = *discard_frames_.emplace_back(std::make_unique<DiscardFrame>());
    for (LinkRequest& request : frame.requests) {
      request.op = LinkOp::kDiscard;
      request.priority = Priority::kWriteBack;
      request.done = [this, &frame](LinkRequest&, LinkOutcome) { discarded(frame); };
    }
    free_discard_frames_.push_back(&frame);
  }
  for (CopyFrame& frame : copy_frames_) {
    frame.request.priority = Priority::kWriteBack;
    frame.request.done = [this, &frame](LinkRequest&, LinkOutcome outcome) { copied(frame, outcome); };
  }
  servers_.resize(kMostServers);
  const std::vector<std::string> known = slice_table_.servers();
  for (std::size_t number = 0; number < kMostServers; ++number) servers_[number].name = known[number];
  for (RemoteServer& server : servers) {
    if (auto added = add_server(std::move(server)); !added) return added;
  }
  return join_answers();
}

Result<> Core::add_server(RemoteServer given) {
  if (given.link == nullptr || !(given.weight > 0) || !std::isfinite(given.weight))
    return failure(std::errc::invalid_argument, "use", "memory server", "it needs a link, and a weight above 0");
  const auto number = slice_table_.number_of(given.link->server());
  if (!number) return Failure{number.error()};
  Server& server = servers_[*number];
  if (server.link != nullptr)
    return failure(std::errc::invalid_argument, "use", "memory server " + given.link->server(), "it is named twice");
  server.name = given.link->server();
  server.link = std::move(given.link);
  server.weight = given.weight;
  server.last_resort = given.last_resort;
  server.most_slices = given.capacity == Bytes{} ? ~0ull : given.capacity.value / (slots_per_slice_ * kPageSize);
  // Domains as small numbers; a server without one is alone in its own.
  static constexpr int kOwnDomains = 1000;
  server.domain = kOwnDomains + *number;
  if (!given.domain.empty()) {
    domains_.push_back(given.domain);
    server.domain = static_cast<int>(std::ranges::find(domains_, given.domain) - domains_.begin());
  }
  return {};
}

Result<> Core::join_answers() {
  answers_ = UniqueFd{::epoll_create1(EPOLL_CLOEXEC)};
  if (!answers_.valid()) return errno_failure("create", "epoll");
  for (const Server& server : servers_) {
    if (auto joined = join_answers(server); !joined) return joined;
  }
  return {};
}

Result<> Core::join_answers(const Server& server) {
  const int descriptor = server.link == nullptr ? -1 : server.link->answers_descriptor();
  if (descriptor < 0) return {};
  const auto number = static_cast<std::size_t>(&server - servers_.data());
  answering_[number] = server.link.get();
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = number;
  if (::epoll_ctl(answers_.get(), EPOLL_CTL_ADD, descriptor, &event) != 0)
    return errno_failure("wait for", "memory server " + server.name);
  return {};
}

void Core::listen(std::uint8_t number) {
  servers_[number].link->listen({.up = [this, number](bool same_boot) { server_up(number, same_boot); },
                                 .down = [this, number](const std::string& why) { server_down(number, why); },
                                 .draining = [this, number] { server_draining(number); }});
}

void Core::take_answers() {
  std::array<epoll_event, kMostServers> ready;
  const int count = ::epoll_wait(answers_.get(), ready.data(), static_cast<int>(ready.size()), 0);
  for (int i = 0; i < count; ++i) answering_[ready[static_cast<std::size_t>(i)].data.u64]->take_answers();
}

void Core::start() {
  for (Server& server : servers_) server.down_since = now();
  for (std::size_t number = 0; number < servers_.size(); ++number) {
    if (servers_[number].link != nullptr) listen(static_cast<std::uint8_t>(number));
  }
  if (options_.own_thread) thread_ = std::thread([this] { run(); });
}

Core::~Core() {
  gate_->close();
  {
    std::unique_lock lock(mutex_);
    closing_ = true;
    wake_.notify_all();
    // Whoever is about to call a link does so before the links go.
    for (Server& server : servers_) server.up = false;
    posted_.wait(lock, [this] { return posting_ == 0; });
  }
  if (thread_.joinable()) thread_.join();
  // A link that ends answers everything; with no server up, nothing new is asked.
  for (Server& server : servers_) server.link.reset();
  std::unique_lock lock(mutex_);
  Outbox outbox;
  pump_writes(outbox);
  post(lock, outbox);
}

void Core::post(std::unique_lock<std::mutex>& lock, Outbox& outbox) {
  if (outbox.empty()) return;
  ++posting_;
  lock.unlock();
  for (const auto& [server, id] : outbox.releases) {
    if (servers_[server].link != nullptr) servers_[server].link->release(id);
  }
  for (const AttachCall& call : outbox.attaches) attach(call);
  while (ReadRequest* request = outbox.reads.pop()) servers_[request->server].link->submit(request->request);
  while (WriteFrame* frame = outbox.frames.pop()) send_frame(frame);
  for (const auto& [server, request] : outbox.requests) servers_[server].link->submit(*request);
  while (ReadState* state = outbox.read.pop()) {
    ReadBatch& batch = *state->batch;
    {
      const std::lock_guard again(mutex_);
      free_read_states_.push_back(state);
    }
    if (batch.done) batch.done(batch);
  }
  while (WriteState* state = outbox.written.pop()) {
    WriteBatch& batch = *state->batch;
    {
      const std::lock_guard again(mutex_);
      free_write_states_.push_back(state);
    }
    if (batch.done) batch.done(batch);
  }
  lock.lock();
  if (--posting_ == 0) posted_.notify_all();
}

void Core::wake() {
  wanted_ = true;
  if (asleep_) wake_.notify_one();
}

void Core::run() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    if (!wanted_) {
      asleep_ = true;
      watching_ = copying_ || now() - last_read_ < kWatchFor;
      wake_.wait_for(lock, watching_ ? kWatchEvery : kIdleEvery, [this] { return wanted_ || closing_; });
      asleep_ = false;
    }
    wanted_ = false;
    if (closing_) return;
    lock.unlock();
    work();
    lock.lock();
  }
}

void Core::work() {
  refresh_latencies();
  check_copies();
  std::unique_lock lock(mutex_);
  if (closing_) return;
  Outbox outbox;
  hedge_late(outbox);
  serve_waiting(outbox);
  give_up_late_lease(outbox);
  pump_writes(outbox);
  send_discards(outbox);
  tend_copies(outbox);
  look_after_slices(outbox);
  give_back_spare(outbox);
  if (now() >= attach_again_at_) {
    attach_again_at_ = now() + kAttachAgainEvery;
    for (std::size_t number = 0; number < servers_.size(); ++number)
      if (servers_[number].up) attach_again(static_cast<std::uint8_t>(number), outbox);
  }
  post(lock, outbox);
}

// There once, it stays.
const Link* Core::link_of(const Server& server) const {
  const std::lock_guard lock(mutex_);
  return server.link.get();
}

// Asked without the lock: a link has one of its own.
void Core::refresh_latencies() {
  {
    const std::lock_guard lock(mutex_);
    if (now() - latencies_at_ < kLatenciesEvery) return;
    latencies_at_ = now();
  }
  for (Server& server : servers_) {
    const Link* const link = link_of(server);
    if (link == nullptr) continue;
    const LinkFigures figures = link->figures();
    const std::lock_guard lock(mutex_);
    server.typical_read = figures.typical_read;
    server.slow_read = figures.slow_read;
  }
}

void Core::for_each_live(const std::function<void(Location, std::uint32_t)>& visit) const {
  table_.for_each_touched([&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t slot = first; slot < end; ++slot) {
      const SlotWord word = table_.load(slot);
      if (word.state == SlotState::kLive) visit(make_location(slot, word.generation), word.references);
    }
  });
}

}  // namespace remote

namespace {

constexpr Bytes kLeastSlice{2ull << 20};
constexpr Bytes kLargestSlice{1ull << 30};

Failure wrong(const std::string& remedy) {
  return failure(std::errc::invalid_argument, "use", "memory servers", remedy);
}

Result<> check(const RemoteStoreOptions& options, const LeaseSource& leases, const std::shared_ptr<VmSecret>& secret) {
  if (options.sealing != Sealing::kAes256Gcm)
    return wrong("pages must be sealed: only a pool in this host's own memory may go without");
  if (secret == nullptr || !leases) return wrong("a key and a source of leases are needed");
  if (options.replicas < 1 || options.replicas > kMostReplicas) return wrong("replicas must be 1, 2 or 3");
  if (options.most_in_flight.value < remote::kFrameBytes || options.most_in_flight > Bytes{1ull << 30})
    return wrong("bytes in flight must be 256 KiB to 1 GiB");
  if (options.most_reads < 8 || options.most_reads > 4096) return wrong("reads under way must be 8 to 4096");
  return {};
}

}  // namespace

Result<std::unique_ptr<RemoteStore>> create_remote_store(std::vector<RemoteServer> servers, LeaseSource leases,
                                                         std::shared_ptr<VmSecret> secret,
                                                         const RemoteStoreOptions& options) {
  if (auto sound = check(options, leases, secret); !sound) return Failure{sound.error()};
  if (servers.empty() && !options.placed) return wrong("there must be at least one");
  if (options.slice < kLeastSlice || options.slice > kLargestSlice || options.slice.value % kPageSize != 0)
    return wrong("a slice must have 2 MiB to 1 GiB, in whole pages");
  SliceTableSpec slices;
  slices.slots_per_slice = static_cast<std::uint32_t>(whole_pages(options.slice).value);
  slices.slices = options.capacity.value / options.slice.value;
  if (slices.slices == 0) return wrong("the capacity must be at least one slice");
  if (::getrandom(slices.holder.data(), slices.holder.size(), 0) != static_cast<ssize_t>(slices.holder.size()))
    return errno_failure("name", "the holder of slices");
  auto slice_table = SliceTable::create(slices);
  if (!slice_table) return Failure{slice_table.error()};
  const SlotTableSpec spec{.kind = StoreLayoutKind::kRemote,
                           .entry_words = 2,
                           .unit_bytes = kPageSize,
                           .slots = slices.slices * slices.slots_per_slice,
                           .data_bytes = Bytes{slices.slices * options.slice.value}};
  auto table = SlotTable::create(spec, slice_table->fd());
  if (!table) return Failure{table.error()};
  auto core = std::make_unique<remote::Core>(std::move(*table), std::move(*slice_table), std::move(leases),
                                             std::move(secret), options);
  if (auto ready = core->prepare(std::move(servers)); !ready) return Failure{ready.error()};
  core->start();
  return std::unique_ptr<RemoteStore>(std::move(core));
}

Result<std::unique_ptr<RemoteStore>> open_remote_store(RemoteHeld held, std::vector<RemoteServer> servers,
                                                       LeaseSource leases, std::shared_ptr<VmSecret> secret,
                                                       const RemoteStoreOptions& options) {
  if (auto sound = check(options, leases, secret); !sound) return Failure{sound.error()};
  auto slice_table = SliceTable::open(std::move(held.slices));
  if (!slice_table) return Failure{slice_table.error()};
  auto table = SlotTable::open(StoreLayoutKind::kRemote, std::move(held.table), slice_table->fd());
  if (!table) return Failure{table.error()};
  if (table->slots() != slice_table->spec().slices * slice_table->spec().slots_per_slice)
    return failure(std::errc::invalid_argument, "open", "page store table", "it belongs to other slices");
  auto core = std::make_unique<remote::Core>(std::move(*table), std::move(*slice_table), std::move(leases),
                                             std::move(secret), options);
  if (auto ready = core->prepare(std::move(servers)); !ready) return Failure{ready.error()};
  if (auto recovered = core->recover(); !recovered) return Failure{recovered.error()};
  core->start();
  return std::unique_ptr<RemoteStore>(std::move(core));
}

}  // namespace tidepool::pool
