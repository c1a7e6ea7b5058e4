// Backups of the controller's records: an SQLite file of the form that the SQLite store has, whichever store they come
// from and go to. So a backup is also the way from one kind of store to the other.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "pool/controller/state/sqlite_records.h"
#include "pool/controller/state_store.h"

namespace tidepool::pool::controller {

struct BackupFigures {
  std::string file;
  std::uint64_t records = 0;
  std::uint64_t bytes = 0;  // of the file
};

// `file` appears, durable, when it is complete, and must not exist before. `records` are those of one moment.
Result<BackupFigures> write_backup(std::span<const StateChange> records, const std::string& file);

// Verifies the whole file before it visits the first record. Errors: not a backup, damaged, of a newer schema.
Result<std::uint64_t> read_backup(const std::string& file, const RecordVisitor& visit);

// Puts a backup in place of the database, whatever state that is in; what stood there is kept beside it, as
// DATABASE.before-restore.TIME. Errors: a controller leads with it (device_or_resource_busy); those of read_backup.
Result<BackupFigures> restore_sqlite(const std::string& database, const std::string& backup,
                                     const RecordChange& change);

// For those who change nothing.
Result<std::string> as_it_was(std::string_view key, std::string_view value);

}  // namespace tidepool::pool::controller
