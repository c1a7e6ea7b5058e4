#include "pool/controller/restore.h"

#include "pool/controller/core/core.h"
#include "pool/controller/core/records.h"
#include "pool/controller/state/backup.h"

namespace tidepool::pool::controller {
namespace {

Result<> check(const std::string& backup) {
  // Of the records themselves; what the configuration says of them is for the controller's start.
  CoreConfig config;
  std::optional<Core> core(config);
  Result<> taken;
  const auto read = read_backup(backup, [&](std::string_view key, std::string_view value) {
    if (taken) taken = core->take(key, value);
  });
  if (!read) return Failure(read.error());
  if (*read == 0) return failure(std::errc::bad_message, "restore", backup, "it has no records at all");
  return taken;
}

Result<std::string> raised(std::string_view key, std::string_view value) {
  if (key != key_of(NextRecord{})) return std::string(value);
  const Result<NextRecord> next = decode<NextRecord>(key, value);
  if (!next) return Failure(next.error());
  return encode(raised_for_restore(*next));
}

}  // namespace

Result<std::uint64_t> restore_into_sqlite(const std::string& database, const std::string& backup) {
  if (Result<> good = check(backup); !good) return Failure(good.error());
  const Result<BackupFigures> restored = restore_sqlite(database, backup, raised);
  if (!restored) return Failure(restored.error());
  return restored->records;
}

Result<std::uint64_t> restore_into_etcd(const EtcdStoreOptions& options, const std::string& backup) {
  if (Result<> good = check(backup); !good) return Failure(good.error());
  return restore_etcd(options, backup, raised);
}

}  // namespace tidepool::pool::controller
