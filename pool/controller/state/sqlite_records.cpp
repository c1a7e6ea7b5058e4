#include "pool/controller/state/sqlite_records.h"

#include <array>
#include <cstdint>
#include <ctime>
#include <utility>

#include "pool/store/crc32c.h"

namespace tidepool::pool::controller {
namespace {

constexpr std::int64_t kApplicationId = 0x54504374;  // "TPCt", see PRAGMA application_id

// SQLite keeps bytes as they are, and does not notice when the disk changes some within a value: hence `sum`, the
// CRC32C of key and value.
constexpr std::array kMigrations{
    Migration{1, "records",
              "CREATE TABLE records (key TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL) "
              "STRICT, WITHOUT ROWID;"},
};

std::uint32_t sum_of(std::string_view key, std::string_view value) {
  return crc32c(std::as_bytes(std::span(value)), crc32c(std::as_bytes(std::span(key))));
}

Result<bool> is_new(SqliteDatabase& database) {
  const Result<std::int64_t> tables = database.number_of("SELECT count(*) FROM sqlite_schema");
  if (!tables) return Failure(tables.error());
  return *tables == 0;
}

Result<> make_ours(SqliteDatabase& database) {
  return database.run("PRAGMA application_id=" + std::to_string(kApplicationId) +
                      "; CREATE TABLE migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied INTEGER NOT "
                      "NULL) STRICT;");
}

Result<> apply_migration(SqliteDatabase& database, const Migration& migration) {
  const std::string version = std::to_string(migration.version);
  Result<> applied =
      database.run("BEGIN IMMEDIATE; " + std::string(migration.sql) + " INSERT INTO migrations VALUES (" + version +
                   ", '" + std::string(migration.name) + "', " + std::to_string(std::time(nullptr)) + "); COMMIT");
  if (applied) return {};
  [[maybe_unused]] const Result<> undone = database.run("ROLLBACK");
  Error error = applied.error();
  error.attempted = "bring to schema " + version;
  return Failure(std::move(error));
}

}  // namespace

std::span<const Migration> sqlite_migrations() {
  return kMigrations;
}

Result<> migrate(SqliteDatabase& database, std::span<const Migration> migrations) {
  const Result<bool> fresh = is_new(database);
  if (!fresh) return Failure(fresh.error());
  if (*fresh) {
    if (Result<> made = make_ours(database); !made) return made;
  }
  const Result<std::int64_t> id = database.number_of("PRAGMA application_id");
  if (!id) return Failure(id.error());
  if (*id != kApplicationId)
    return failure(std::errc::invalid_argument, "use the database", database.file(),
                   "it belongs to another program: give the controller a file of its own");
  const Result<std::int64_t> version = database.number_of("SELECT coalesce(max(version), 0) FROM migrations");
  if (!version) return Failure(version.error());
  const std::int64_t newest = migrations.empty() ? 0 : migrations.back().version;
  if (*version > newest)
    return failure(std::errc::not_supported, "use the database", database.file(),
                   "its schema is " + std::to_string(*version) + ", and this tidepool-controller knows those up to " +
                       std::to_string(newest) + ": install the newer program, or restore an older backup");
  if (*version > 0 && *version < newest) {
    const std::string copy =
        database.file() + ".before-schema-" + std::to_string(newest) + "." + std::to_string(std::time(nullptr));
    if (Result<> kept = database.copy_to(copy); !kept) return kept;
  }
  for (const Migration& each : migrations) {
    if (each.version <= *version) continue;
    if (Result<> applied = apply_migration(database, each); !applied) return applied;
  }
  return {};
}

Result<> read_records(SqliteDatabase& database, const RecordVisitor& visit) {
  Result<SqliteStatement> all = database.prepare("SELECT key, value, sum FROM records ORDER BY key");
  if (!all) return Failure(all.error());
  while (true) {
    const Result<bool> row = all->step();
    if (!row) return Failure(row.error());
    if (!*row) return {};
    const std::string_view key = all->text(0);
    const std::string_view value = all->blob(1);
    if (sum_of(key, value) != all->number(2))
      return database.damaged("the record '" + std::string(key.substr(0, 512)) + "' has another checksum than its own");
    visit(key, value);
  }
}

Result<std::unique_ptr<SqliteWriter>> SqliteWriter::make(SqliteDatabase& database) {
  Result<SqliteStatement> put =
      database.prepare("INSERT INTO records VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET value = ?2, sum = ?3");
  if (!put) return Failure(put.error());
  Result<SqliteStatement> erase = database.prepare("DELETE FROM records WHERE key = ?1");
  if (!erase) return Failure(erase.error());
  return std::unique_ptr<SqliteWriter>(new SqliteWriter(database, std::move(*put), std::move(*erase)));
}

Result<> SqliteWriter::apply_one(const StateChange& change) {
  SqliteStatement& statement = change.value ? put_ : erase_;
  statement.bind(1, change.key);
  if (change.value) {
    statement.bind_blob(2, *change.value);
    statement.bind(3, sum_of(change.key, *change.value));
  }
  const Result<bool> done = statement.step();
  if (!done) return Failure(done.error());
  return {};
}

Result<> SqliteWriter::apply(std::span<const StateChange> changes) {
  if (Result<> begun = database_.run("BEGIN IMMEDIATE"); !begun) return begun;
  Result<> outcome;
  for (const StateChange& each : changes) {
    outcome = apply_one(each);
    if (!outcome) break;
  }
  if (outcome) outcome = database_.run("COMMIT");
  // SQLite has rolled back already after some errors, and says so with another one.
  if (!outcome) [[maybe_unused]]
    const Result<> undone = database_.run("ROLLBACK");
  return outcome;
}

}  // namespace tidepool::pool::controller
