#include "pool/controller/state/etcd_store.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/text.h"
#include "pool/controller/state/etcd_store_impl.h"
#include "pool/controller/state/random_text.h"

namespace tidepool::pool::controller {
namespace {

constexpr std::string_view kSchema = "1";
// etcd's default bound is 128 operations per transaction (--max-txn-ops), of which one is the key `commit`.
constexpr std::size_t kMostChangesPerTransaction = 127;
constexpr std::size_t kFirstPage = 500;
constexpr std::size_t kLargestPage = 2000;
// Pages grow while they are small: values have 64 KiB at most, and hardly ever more than a few hundred bytes.
constexpr std::size_t kSmallPage = 2 << 20;
constexpr auto kPause = std::chrono::milliseconds(50);
// Of the lease's time, for one member to answer: several are asked before the lease ends.
constexpr int kAnswersPerTerm = 5;
constexpr auto kLeastPatience = std::chrono::milliseconds(500);

std::chrono::milliseconds patience_of(const EtcdStoreOptions& options) {
  return std::max<std::chrono::milliseconds>(options.lease / kAnswersPerTerm, kLeastPatience);
}

// "NONCE NAME"
std::string name_in(const std::string& leader_value) {
  const std::size_t blank = leader_value.find(' ');
  return blank == std::string::npos ? "" : printable(leader_value.substr(blank + 1));
}

std::size_t bytes_of(const EtcdRange& page) {
  std::size_t bytes = 0;
  for (const EtcdValue& each : page.values) bytes += each.key.size() + each.value.size();
  return bytes;
}

}  // namespace

EtcdStore::EtcdStore(EtcdStoreOptions options, std::unique_ptr<EtcdGateway> gateway)
    : options_(std::move(options)), gateway_(std::move(gateway)) {}

EtcdStore::~EtcdStore() {
  EtcdStore::resign();
}

bool EtcdStore::lost() const {
  const std::scoped_lock guard(mutex_);
  return !lease_ || lease_->lost();
}

std::string EtcdStore::leader() const {
  const std::scoped_lock guard(mutex_);
  return leader_;
}

void EtcdStore::set_leader(const std::string& name) {
  const std::scoped_lock guard(mutex_);
  leader_ = name;
}

void EtcdStore::stop() {
  {
    const std::scoped_lock guard(mutex_);
    stopped_ = true;
  }
  wake_.notify_all();
  gateway_->stop();
}

bool EtcdStore::pause() {
  std::unique_lock guard(mutex_);
  return wake_.wait_for(guard, kPause, [this] { return stopped_; });
}

Failure EtcdStore::not_leading(const char* attempted) const {
  return failure(std::errc::operation_not_permitted, attempted, "records in etcd", "this controller does not lead");
}

// The leader key stays for now: whoever leads next, we or another one, will see to it.
void EtcdStore::abandon() {
  const std::scoped_lock guard(mutex_);
  if (lease_) left_behind_ = lease_->id();
  lease_.reset();
  leader_.clear();
}

void EtcdStore::resign() {
  abandon();
  if (left_behind_ == 0) return;
  // A gateway of its own, because the other one may be stopped. The leader key goes with the lease; if etcd cannot be
  // told, both go when the lease's time is over.
  auto gateway = EtcdGateway::make(options_.endpoints, kLeastPatience);
  if (gateway) [[maybe_unused]]
    const Result<> told = (*gateway)->revoke(left_behind_);
  left_behind_ = 0;
}

Result<> EtcdStore::lead() {
  resign();
  while (true) {
    const Result<bool> leads = try_to_lead();
    if (!leads) return Failure(leads.error());
    if (*leads) {
      Result<> usable = check_schema();
      if (!usable) resign();
      return usable;
    }
    if (Result<> gone = wait_for_leader_to_go(); !gone) return gone;
  }
}

Result<> EtcdStore::wait_for_leader_to_go() {
  // A member that hangs would never tell; so it is looked anew before long.
  if (Result<> changed = gateway_->await_change(key("leader"), leader_seen_, options_.lease / 2); !changed)
    return changed;
  if (pause()) return failure(std::errc::operation_canceled, "wait for", "etcd");
  return {};
}

Result<bool> EtcdStore::try_to_lead() {
  const Result<std::optional<EtcdValue>> present = gateway_->read(key("leader"));
  if (!present) return Failure(present.error());
  if (*present) {
    leader_seen_ = (*present)->created;
    set_leader(name_in((*present)->value));
    return false;
  }
  set_leader("");
  const std::chrono::nanoseconds asked = time_since_boot();
  const Result<EtcdGateway::Lease> lease = gateway_->grant_lease(options_.lease);
  if (!lease) return Failure(lease.error());
  nonce_ = random_text();
  commits_ = 0;
  last_commit_ = nonce_ + ".0";
  EtcdTransaction election;
  election.conditions.push_back({key("leader"), 0, std::nullopt});
  election.changes.push_back({key("leader"), nonce_ + " " + options_.name, lease->id, ""});
  election.changes.push_back({key("commit"), last_commit_, 0, ""});
  election.otherwise_read = {key("leader")};
  const Result<EtcdOutcome> outcome = gateway_->run(election);
  const EtcdValue* found = outcome && !outcome->read.empty() ? &outcome->read.front() : nullptr;
  // Ours, when the transaction was carried out and its answer got lost.
  const bool ours = found && found->value.starts_with(nonce_ + " ");
  if (!outcome || (!outcome->done && !ours)) {
    [[maybe_unused]] const Result<> told = gateway_->revoke(lease->id);
    if (!outcome) return Failure(outcome.error());
    leader_seen_ = found ? found->created : outcome->revision;
    set_leader(found ? name_in(found->value) : "");
    return false;
  }
  leader_revision_ = outcome->done ? outcome->revision : found->created;
  auto gateway = EtcdGateway::make(options_.endpoints, patience_of(options_));
  if (!gateway) return Failure(gateway.error());
  const std::scoped_lock guard(mutex_);
  lease_ = std::make_shared<EtcdLease>(std::move(*gateway), *lease, asked);
  leader_ = options_.name;
  return true;
}

Result<> EtcdStore::check_schema() {
  const Result<std::optional<EtcdValue>> restoring = gateway_->read(key("restoring"));
  if (!restoring) return Failure(restoring.error());
  if (*restoring)
    return failure(std::errc::bad_message, "use records in etcd below", options_.prefix,
                   "a restore of " + printable((*restoring)->value) + " was interrupted: do it again");
  const Result<std::optional<EtcdValue>> schema = gateway_->read(key("schema"));
  if (!schema) return Failure(schema.error());
  if (!*schema) return write({{key("schema"), std::string(kSchema), 0, ""}});
  if ((*schema)->value != kSchema)
    return failure(std::errc::not_supported, "use records in etcd below", options_.prefix,
                   "their schema is " + printable((*schema)->value) + ", and this tidepool-controller knows " +
                       std::string(kSchema) + ": install the newer program");
  return {};
}

Result<> EtcdStore::write(std::vector<EtcdChange> changes) {
  if (lost()) return not_leading("change");
  const std::string mark = nonce_ + "." + std::to_string(++commits_);
  EtcdTransaction transaction;
  transaction.conditions.push_back({key("leader"), leader_revision_, std::nullopt});
  transaction.conditions.push_back({key("commit"), std::nullopt, last_commit_});
  transaction.changes = std::move(changes);
  transaction.changes.push_back({key("commit"), mark, 0, ""});
  transaction.otherwise_read = {key("leader"), key("commit")};
  const Result<EtcdOutcome> outcome = gateway_->run(transaction);
  if (!outcome) {
    abandon();
    return Failure(outcome.error());
  }
  if (!outcome->done) {
    // Sent a second time after the first one's answer got lost: then it is all as it should be.
    const bool done_before =
        outcome->read.size() == 2 && outcome->read[0].created == leader_revision_ && outcome->read[1].value == mark;
    if (!done_before) {
      abandon();
      return not_leading("change");
    }
  }
  last_commit_ = mark;
  return {};
}

std::size_t EtcdStore::most_changes() const {
  return kMostChangesPerTransaction;
}

Result<> EtcdStore::commit(std::span<const StateChange> changes) {
  // etcd takes each key once.
  std::map<std::string_view, const StateChange*> last;
  for (const StateChange& each : changes) last[each.key] = &each;
  std::vector<EtcdChange> all;
  all.reserve(last.size());
  for (const auto& [name, change] : last) all.push_back({record_key(name), change->value, 0, ""});
  return write(std::move(all));
}

Result<> EtcdStore::load(const std::function<void(std::string_view, std::string_view)>& visit) {
  if (lost()) return not_leading("read");
  const std::string prefix = record_key("");
  std::string begin = prefix;
  // '0' comes behind '/'.
  const std::string end = options_.prefix + "records0";
  std::size_t limit = kFirstPage;
  std::int64_t revision = 0;
  while (true) {
    const Result<EtcdRange> page = gateway_->read(begin, end, limit, revision);
    if (!page) {
      abandon();
      return Failure(page.error());
    }
    if (revision == 0) revision = page->revision;
    for (const EtcdValue& each : page->values) visit(std::string_view(each.key).substr(prefix.size()), each.value);
    if (!page->more || page->values.empty()) break;
    begin = page->values.back().key + '\0';
    if (bytes_of(*page) < kSmallPage) limit = std::min(limit * 2, kLargestPage);
    if (bytes_of(*page) > 2 * kSmallPage) limit = kFirstPage;
  }
  return lost() ? Result<>(not_leading("read")) : Result<>();
}

Result<std::unique_ptr<StateStore>> make_etcd_store(const EtcdStoreOptions& options) {
  auto gateway = EtcdGateway::make(options.endpoints, patience_of(options));
  if (!gateway) return Failure(gateway.error());
  return std::unique_ptr<StateStore>(std::make_unique<EtcdStore>(options, std::move(*gateway)));
}

}  // namespace tidepool::pool::controller
