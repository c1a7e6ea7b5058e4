#include <ctime>
#include <utility>
#include <vector>

#include "pool/controller/state/backup.h"
#include "pool/controller/state/etcd_store_impl.h"

namespace tidepool::pool::controller {
namespace {

// etcd takes 1.5 MiB per request unless it is told otherwise.
constexpr std::size_t kMostBytesAtOnce = 512 << 10;

// Collects what is to be written, and writes it in portions.
class Portions {
 public:
  explicit Portions(EtcdStore& store) : store_(store) {}

  void put(std::string_view key, std::string_view value) {
    if (!outcome_) return;
    bytes_ += key.size() + value.size();
    changes_.push_back({store_.record_key(key), std::string(value), 0, ""});
    if (changes_.size() == store_.most_changes() || bytes_ >= kMostBytesAtOnce) flush();
  }
  Result<> finish() {
    flush();
    return outcome_;
  }

 private:
  void flush() {
    if (outcome_ && !changes_.empty()) outcome_ = store_.write(std::exchange(changes_, {}));
    bytes_ = 0;
  }

  EtcdStore& store_;
  std::vector<EtcdChange> changes_;
  std::size_t bytes_ = 0;
  Result<> outcome_;
};

Result<> keep_former_records(EtcdStore& store, const std::string& backup) {
  std::vector<StateChange> records;
  Result<> loaded = store.load([&](std::string_view key, std::string_view value) {
    records.push_back({std::string(key), std::string(value)});
  });
  if (!loaded) return loaded;
  if (records.empty()) return {};
  const auto kept = write_backup(records, backup + ".replaced." + std::to_string(std::time(nullptr)));
  if (!kept) return Failure(kept.error());
  return {};
}

}  // namespace

Result<std::uint64_t> restore_etcd(const EtcdStoreOptions& options, const std::string& backup,
                                   const RecordChange& change) {
  // Before anything is changed.
  Result<> changed;
  const auto whole = read_backup(backup, [&](std::string_view key, std::string_view value) {
    if (const Result<std::string> now = change(key, value); !now && changed) changed = Failure(now.error());
  });
  if (!whole) return Failure(whole.error());
  if (!changed) return Failure(changed.error());
  auto gateway = EtcdGateway::make(options.endpoints, options.lease);
  if (!gateway) return Failure(gateway.error());
  EtcdStoreOptions own = options;
  own.name = "a restore";
  EtcdStore store(own, std::move(*gateway));
  const Result<bool> leads = store.try_to_lead();
  if (!leads) return Failure(leads.error());
  if (!*leads)
    return failure(std::errc::device_or_resource_busy, "restore into etcd below", options.prefix,
                   "a controller leads (" + store.leader() + "): stop all of them first");
  if (Result<> kept = keep_former_records(store, backup); !kept) return Failure(kept.error());
  if (Result<> begun = store.write({{store.key("restoring"), backup, 0, ""},
                                    {store.key("schema"), std::nullopt, 0, ""},
                                    {store.record_key(""), std::nullopt, 0, store.key("records0")}});
      !begun)
    return Failure(begun.error());
  Portions portions(store);
  Result<std::uint64_t> read = read_backup(backup, [&](std::string_view key, std::string_view value) {
    portions.put(key, change(key, value).value_or(std::string(value)));
  });
  if (!read) return read;
  if (Result<> written = portions.finish(); !written) return Failure(written.error());
  if (Result<> done = store.write({{store.key("restoring"), std::nullopt, 0, ""}}); !done) return Failure(done.error());
  return read;
}

}  // namespace tidepool::pool::controller
