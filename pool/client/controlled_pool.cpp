#include "pool/client/controlled_pool.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "base/text.h"
#include "pool/client/remote_pool.h"
#include "pool/client/server_link.h"
#include "pool/client/token_desk.h"
#include "pool/client/vm_holdings.h"

namespace tidepool::pool {
namespace {

using namespace controller;
using protocol::HolderId;

constexpr Nanoseconds kShortestPause = std::chrono::milliseconds(250);
constexpr Nanoseconds kLongestPause = std::chrono::seconds(10);
// Whatever the controller says: it is told neither all the time nor never.
constexpr std::uint64_t kShortestSyncMs = 50;
constexpr std::uint64_t kLongestSyncMs = 60'000;

class ControlledPool final : public RemotePool {
 public:
  explicit ControlledPool(ControlledPoolOptions options)
      : RemotePool(options.store.capacity, {}), options_(std::move(options)), heard_(clock().now()) {
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }
  ~ControlledPool() override {
    stop_closing();
    // What ended last is told, if somebody hears it now.
    if (figures_now().answers) (void)sync_soon();
    thread_.request_stop();
    options_.port->stop();
    thread_.join();
    for (const TokenDesk::Asked& asked : desk_->take())
      asked.answer(failure(std::errc::operation_canceled, "ask for", "a lease", "the pool ends"));
  }

  std::string kind() const override { return "servers"; }
  std::string backing() const override { return "slices of a pool controller"; }
  Result<> set_capacity(Bytes capacity) override {
    if (capacity == options_.store.capacity) return {};
    return failure(std::errc::operation_not_supported, "set capacity of", "slices of a pool controller",
                   "use `tidectl pool resize` with the VM's name");
  }
  std::optional<ControllerFigures> controller() const override { return figures_now(); }

 private:
  Result<std::unique_ptr<RemoteStore>> make_store(const std::string& vm, std::shared_ptr<VmSecret> secret) override;
  void ended(const HolderId& holder) override {
    const std::lock_guard lock(mutex_);
    gone_.push_back(holder);
  }
  ControllerFigures figures_now() const;
  bool sync_soon();

  // The thread's own.
  using Vm = std::pair<std::string, std::shared_ptr<RemoteStore>>;
  void run(const std::stop_token& stop);
  void round();
  VmHoldings& holdings_of(const Vm& vm);
  void answer_tokens(const std::vector<Vm>& vms);
  void answer_tokens_of(const HolderId& holder, std::vector<TokenDesk::Asked> asked);
  void tend(const Vm& vm);
  bool begin();
  bool sync(const std::vector<Vm>& vms);
  void take(const SyncAnswer& answer, const std::vector<Vm>& vms);
  void compare(const Vm& vm);
  template <class Wanted>
  Result<Wanted> ask(const Request& request, Refusal* refusal = nullptr);

  ControlledPoolOptions options_;
  const std::shared_ptr<TokenDesk> desk_ = std::make_shared<TokenDesk>();

  std::map<HolderId, VmHoldings> holdings_;
  std::map<std::string, std::string> domains_;
  std::map<std::string, std::pair<protocol::BootId, std::string>> boots_;  // and where they are reached
  std::map<std::string, ServerState> states_;
  std::size_t tasks_ = 0;  // in the last answer
  std::uint64_t epoch_ = 0;
  bool usable_ = true;     // the controller's slices are of the size that the stores have
  bool compared_ = false;  // with this epoch
  std::uint64_t requests_ = 0;
  MonoTime sync_at_{};
  MonoTime call_at_{};  // nobody answered: not before
  Nanoseconds pause_ = kShortestPause;
  std::size_t told_ = 0;  // task reports, in the last sync

  mutable std::mutex mutex_;
  std::condition_variable_any wake_;
  std::vector<HolderId> gone_;
  ControllerFigures figures_;
  MonoTime heard_;
  bool hurry_ = false;
  std::uint64_t syncs_ = 0;

  std::jthread thread_;
};

Result<std::unique_ptr<RemoteStore>> ControlledPool::make_store(const std::string&, std::shared_ptr<VmSecret> secret) {
  RemoteStoreOptions store = options_.store;
  store.placed = [](const GrantedReplica& granted) -> Result<RemoteServer> {
    ServerLinkOptions link;
    link.name = granted.server;
    link.address = granted.address;
    link.authenticate_unix = true;
    auto made = make_server_link(std::move(link));
    if (!made) return Failure{made.error()};
    RemoteServer server;
    server.link = std::move(*made);
    server.domain = granted.domain;
    return server;
  };
  const LeaseSource leases = [desk = desk_](const LeaseWish& wish, LeaseAnswer answer) {
    desk->ask(wish, std::move(answer));
  };
  return create_remote_store({}, leases, std::move(secret), store);
}

ControllerFigures ControlledPool::figures_now() const {
  const std::lock_guard lock(mutex_);
  ControllerFigures figures = figures_;
  figures.silent = clock().now() - heard_;
  return figures;
}

// True when there was a sync, or there is no point in waiting for one.
bool ControlledPool::sync_soon() {
  std::unique_lock lock(mutex_);
  if (gone_.empty()) return true;
  const std::uint64_t before = syncs_;
  hurry_ = true;
  wake_.notify_all();
  return wake_.wait_for(lock, std::chrono::seconds(2), [&] { return syncs_ != before; });
}

void ControlledPool::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    round();
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, stop, options_.tick, [this] { return hurry_; });
    if (hurry_) sync_at_ = {};
    hurry_ = false;
  }
}

void ControlledPool::round() {
  const std::vector<Vm> vms = stores_by_name();
  std::set<HolderId> here;
  for (const Vm& vm : vms) {
    here.insert(vm.second->holder());
    holdings_of(vm).look(*vm.second, clock().now());
  }
  std::erase_if(holdings_, [&](const auto& each) { return !here.contains(each.first); });
  // Nobody waits for a token that does not come.
  answer_tokens(vms);
  if (clock().now() < call_at_) return;
  if (epoch_ == 0 && !begin()) return;
  std::size_t reports = 0;
  for (const auto& [holder, holdings] : holdings_) reports += holdings.task_reports().size();
  if ((clock().now() >= sync_at_ || reports > told_) && !sync(vms)) return;
  for (const Vm& vm : vms) tend(vm);
  if (!compared_ && epoch_ != 0) {
    compared_ = true;
    for (const Vm& vm : vms) compare(vm);
  }
}

VmHoldings& ControlledPool::holdings_of(const Vm& vm) {
  return holdings_.try_emplace(vm.second->holder(), vm.first, options_.store.replicas, options_.store.slice)
      .first->second;
}

template <class Wanted>
Result<Wanted> ControlledPool::ask(const Request& request, Refusal* refusal) {
  if (clock().now() < call_at_)
    return failure(std::errc::resource_unavailable_try_again, "ask", "the pool controller", "it does not answer");
  Result<Answer> answer = options_.port->call(request);
  const auto* refused = answer ? std::get_if<Refusal>(&*answer) : nullptr;
  if (refusal != nullptr && refused != nullptr) *refusal = *refused;
  const bool stale = refused != nullptr && refused->code == Refusal::Code::kStale;
  // To be refused is an answer too.
  const bool well = answer && !stale;
  auto expected = expect<Wanted>(std::move(answer));
  if (stale) epoch_ = 0, compared_ = false;
  if (!well) {
    call_at_ = clock().now() + pause_;
    pause_ = std::min(2 * pause_, kLongestPause);
  } else {
    pause_ = kShortestPause;
  }
  const std::string why = well ? "" : printable(expected.error().message());
  const std::lock_guard lock(mutex_);
  if (well) heard_ = clock().now();
  figures_.failures += !well;
  if (figures_.why != why || figures_.answers != well) {
    if (well) {
      spdlog::info("msg=\"the pool controller answers\"");
    } else {
      spdlog::warn("msg=\"the pool controller does not answer: going on with what is held\" error=\"{}\"", why);
    }
  }
  figures_.answers = well;
  figures_.why = why;
  return expected;
}

void ControlledPool::answer_tokens(const std::vector<Vm>& vms) {
  std::map<HolderId, std::vector<TokenDesk::Asked>> by_holder;
  for (TokenDesk::Asked& asked : desk_->take()) by_holder[asked.wish.claims.holder].push_back(std::move(asked));
  for (auto& [holder, asked] : by_holder) {
    const bool here =
        std::ranges::any_of(vms, [&holder = holder](const Vm& vm) { return vm.second->holder() == holder; });
    if (here && epoch_ != 0) {
      answer_tokens_of(holder, std::move(asked));
      continue;
    }
    for (const TokenDesk::Asked& each : asked)
      each.answer(failure(std::errc::resource_unavailable_try_again, "ask for", "a lease",
                          here ? "the pool controller does not answer" : "the VM has ended"));
  }
}

void ControlledPool::answer_tokens_of(const HolderId& holder, std::vector<TokenDesk::Asked> asked) {
  RenewLeases request{.host = options_.host, .epoch = epoch_, .holder = holder, .slices = {}, .after = {}};
  std::size_t at = 0;
  while (at < asked.size()) {
    request.slices.clear();
    std::size_t end = at;
    for (; end < asked.size() && request.slices.size() < kMostRenewals; ++end)
      if (std::ranges::find(request.slices, asked[end].wish.claims.slice) == request.slices.end())
        request.slices.push_back(asked[end].wish.claims.slice);
    const auto answer = ask<RenewAnswer>(request);
    for (; at < end; ++at) {
      const LeaseWish& wish = asked[at].wish;
      const ReplicaLease* found = nullptr;
      for (const SliceLease& lease : answer ? answer->leases : std::vector<SliceLease>{})
        for (const ReplicaLease& replica : lease.replicas)
          if (lease.slice == wish.claims.slice && replica.server == wish.server) found = &replica;
      if (!answer) {
        asked[at].answer(Failure{answer.error()});
      } else if (found == nullptr) {
        asked[at].answer(failure(std::errc::no_such_file_or_directory, "renew", "a slice at " + wish.server,
                                 "the controller does not know that it is held"));
      } else {
        asked[at].answer(Lease{found->claims, found->secret});
      }
    }
  }
}

void ControlledPool::tend(const Vm& vm) {
  VmHoldings& holdings = holdings_of(vm);
  RemoteStore& store = *vm.second;
  if (const auto slices = holdings.to_confirm(); !slices.empty()) {
    const auto answer = ask<ConfirmAnswer>(
        ConfirmSlices{.host = options_.host, .epoch = epoch_, .holder = store.holder(), .slices = slices});
    if (answer) holdings.confirmed(store, *answer);
  }
  if (const auto slices = holdings.to_release(); !slices.empty()) {
    const auto answer = ask<ReleaseAnswer>(
        ReleaseSlices{.host = options_.host, .epoch = epoch_, .holder = store.holder(), .slices = slices});
    if (answer) holdings.released(*answer);
  }
  const std::uint32_t wanted = usable_ ? holdings.wants(clock().now()) : 0;
  if (wanted == 0) return;
  Refusal refusal;
  // An answer that is lost makes slices that nobody confirms: they go back by themselves.
  const auto answer = ask<GrantAnswer>(GrantSlices{.host = options_.host,
                                                   .epoch = epoch_,
                                                   .request = options_.instance + "-" + std::to_string(++requests_),
                                                   .holder = store.holder(),
                                                   .slices = wanted,
                                                   .replicas = options_.store.replicas},
                                       &refusal);
  if (answer) {
    holdings.granted(store, *answer, domains_, clock().now());
  } else {
    const auto pause = std::clamp<std::uint64_t>(refusal.retry_after_ms, 200, kLongestSyncMs);
    holdings.refused(wanted, clock().now() + std::chrono::milliseconds(pause), answer.error().message());
  }
}

// An agent's first word gets its epoch; from the second on it speaks for the host.
bool ControlledPool::begin() {
  const auto answer = ask<SyncAnswer>(SyncHost{.host = options_.host,
                                               .machine = options_.machine,
                                               .boot = options_.boot,
                                               .instance = options_.instance,
                                               .spare = {},
                                               .vms = {},
                                               .gone = {},
                                               .lost = {},
                                               .tasks = {}});
  if (!answer) return false;
  epoch_ = answer->epoch;
  sync_at_ = {};
  return epoch_ != 0;
}

bool ControlledPool::sync(const std::vector<Vm>& vms) {
  SyncHost request{.host = options_.host,
                   .machine = options_.machine,
                   .boot = options_.boot,
                   .instance = options_.instance,
                   .epoch = epoch_,
                   .spare = options_.spare ? options_.spare() : Bytes{},
                   .vms = {},
                   .gone = {},
                   .lost = {},
                   .tasks = {}};
  for (const Vm& vm : vms) {
    VmHoldings& holdings = holdings_of(vm);
    request.vms.push_back(holdings.report(*vm.second));
    const auto lost = holdings.lost();
    request.lost.insert(request.lost.end(), lost.begin(), lost.end());
    const auto tasks = holdings.task_reports();
    request.tasks.insert(request.tasks.end(), tasks.begin(), tasks.end());
  }
  told_ = request.tasks.size();
  // What is left out is told the next time: by then what was told is understood.
  if (request.lost.size() > kMostReports) request.lost.resize(kMostReports);
  if (request.tasks.size() > kMostReports) request.tasks.resize(kMostReports);
  {
    const std::lock_guard lock(mutex_);
    request.gone = gone_;
  }
  const auto answer = ask<SyncAnswer>(request);
  const std::lock_guard lock(mutex_);
  ++syncs_;
  wake_.notify_all();
  if (!answer) return false;
  // Those that still have something are strays in the answer, and are told again.
  gone_.erase(gone_.begin(), gone_.begin() + static_cast<std::ptrdiff_t>(request.gone.size()));
  for (const HolderId& holder : request.gone)
    if (std::ranges::find(answer->strays, holder) != answer->strays.end()) gone_.push_back(holder);
  figures_.strays = answer->strays.size();
  take(*answer, vms);
  return true;
}

// Under mutex_, for the figures.
void ControlledPool::take(const SyncAnswer& answer, const std::vector<Vm>& vms) {
  sync_at_ = clock().now() + std::chrono::milliseconds(std::clamp(answer.sync_ms, kShortestSyncMs, kLongestSyncMs));
  figures_.held = figures_.share = figures_.to_give_back = {};
  figures_.refusal.clear();
  figures_.unknown_slices = 0;
  const bool usable = answer.slice_bytes == options_.store.slice;
  if (!usable) {
    figures_.refusal = "the controller's slices have " + std::to_string(answer.slice_bytes.value) +
                       " bytes: set pool.servers.slice to that and restart the agent";
    if (usable_) spdlog::error("msg=\"no slices can be used\" error=\"{}\"", figures_.refusal);
  }
  usable_ = usable;
  if (!usable_) return;
  // Servers have come or gone, or copies were made: who counts what may have changed.
  std::map<std::string, ServerState> states;
  for (const PoolServer& server : answer.servers) states[server.name] = server.state;
  if (states != states_ || tasks_ != answer.tasks.size()) compared_ = false;
  states_ = std::move(states);
  tasks_ = answer.tasks.size();
  for (const PoolServer& server : answer.servers) {
    domains_[server.name] = server.domain;
    const std::pair now{server.boot, server.address};
    if (std::exchange(boots_[server.name], now) == now) continue;
    compared_ = false;
    for (const Vm& vm : vms)
      if (const auto known = vm.second->expect_boot(server.name, server.boot, server.address); !known)
        spdlog::warn("msg=\"a memory server's address is no use\" server={} error=\"{}\"", server.name,
                     printable(known.error().message()));
  }
  for (const Vm& vm : vms) {
    const HolderId holder = vm.second->holder();
    VmHoldings& holdings = holdings_of(vm);
    const auto share = std::ranges::find(answer.vms, holder, &VmShare::holder);
    if (share != answer.vms.end()) {
      holdings.take_share(*vm.second, *share);
      figures_.held += share->held;
      figures_.share += share->share;
      figures_.to_give_back += share->give_back;
    }
    std::vector<Task> tasks;
    for (const Task& task : answer.tasks)
      if (task.holder == holder) tasks.push_back(task);
    for (const TaskReport& report : answer.refused) holdings.fenced(*vm.second, report);
    holdings.take_tasks(*vm.second, std::move(tasks), domains_);
    if (!holdings.refusal().empty()) figures_.refusal = holdings.refusal();
    figures_.unknown_slices += holdings.unknown();
  }
}

// Both sides' lists, after either of them was away.
void ControlledPool::compare(const Vm& vm) {
  VmHoldings::Known known;
  RenewLeases request{.host = options_.host, .epoch = epoch_, .holder = vm.second->holder(), .slices = {}, .after = {}};
  while (true) {
    const auto answer = ask<RenewAnswer>(request);
    if (!answer) {
      compared_ = false;
      return;
    }
    for (const SliceLease& lease : answer->leases)
      for (const ReplicaLease& replica : lease.replicas) known[lease.slice].insert(replica.server);
    if (!answer->more || answer->leases.empty()) break;
    request.after = answer->leases.back().slice;
  }
  VmHoldings& holdings = holdings_of(vm);
  holdings.look(*vm.second, clock().now());
  holdings.compare(*vm.second, known);
  if (holdings.unknown() != 0)
    spdlog::warn("msg=\"slices are held that the controller does not know: they are kept\" vm={} slices={}", vm.first,
                 holdings.unknown());
}

}  // namespace

std::unique_ptr<Pool> make_controlled_pool(ControlledPoolOptions options) {
  return std::make_unique<ControlledPool>(std::move(options));
}

}  // namespace tidepool::pool
