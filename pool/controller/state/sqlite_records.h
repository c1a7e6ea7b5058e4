// The controller's records in an SQLite database: its schema with migrations, and what reads and writes them. Backups
// have the same form, whichever store they are of.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "pool/controller/state/sqlite_database.h"
#include "pool/controller/state_store.h"

namespace tidepool::pool::controller {

using RecordVisitor = std::function<void(std::string_view key, std::string_view value)>;
// The value that a record has from now on.
using RecordChange = std::function<Result<std::string>(std::string_view key, std::string_view value)>;

struct Migration {
  int version;  // from 1, without gaps
  std::string_view name;
  std::string_view sql;
};
std::span<const Migration> sqlite_migrations();

// Brings the database to the last of `migrations`, each in a transaction of its own. A database that has records
// already is copied first, to FILE.before-schema-VERSION.TIME beside it. Errors: another program's database, and a
// schema newer than this program knows (not_supported).
Result<> migrate(SqliteDatabase& database, std::span<const Migration> migrations);

// Errors: a record whose checksum is wrong, besides SQLite's own.
Result<> read_records(SqliteDatabase& database, const RecordVisitor& visit);

class SqliteWriter {
 public:
  static Result<std::unique_ptr<SqliteWriter>> make(SqliteDatabase& database);  // which must outlive it
  // In one transaction.
  Result<> apply(std::span<const StateChange> changes);

 private:
  SqliteWriter(SqliteDatabase& database, SqliteStatement put, SqliteStatement erase)
      : database_(database), put_(std::move(put)), erase_(std::move(erase)) {}
  Result<> apply_one(const StateChange& change);

  SqliteDatabase& database_;
  SqliteStatement put_, erase_;
};

}  // namespace tidepool::pool::controller
