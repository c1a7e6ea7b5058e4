#include "pool/controller/state/sqlite_database.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/unique_fd.h"

namespace tidepool::pool::controller {
namespace {

constexpr const char* kRestoreRemedy =
    "the file is kept as it is; move it away and restore a backup: tidectl pool restore FILE";

std::errc errc_of(int primary) {
  switch (primary) {
    case SQLITE_FULL:
      return std::errc::no_space_on_device;
    case SQLITE_READONLY:
      return std::errc::read_only_file_system;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return std::errc::bad_message;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return std::errc::device_or_resource_busy;
    case SQLITE_NOMEM:
      return std::errc::not_enough_memory;
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return std::errc::permission_denied;
    default:
      return std::errc::io_error;
  }
}

std::string remedy_of(int primary) {
  switch (primary) {
    case SQLITE_FULL:
      return "its file system is full, or its quota: make room";
    case SQLITE_READONLY:
      return "the file, its folder and its file system must be writable for the controller's user";
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return kRestoreRemedy;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return "another program has the file open: end it";
    case SQLITE_CANTOPEN:
      return "the folder must exist, and the controller's user must be allowed to read and write it";
    default:
      return "";
  }
}

}  // namespace

void SqliteStatement::Finalize::operator()(sqlite3_stmt* statement) const {
  ::sqlite3_finalize(statement);
}

void SqliteStatement::bind(int place, std::string_view text) {
  ::sqlite3_bind_text(statement_.get(), place, text.data(), static_cast<int>(text.size()), SQLITE_STATIC);
}

void SqliteStatement::bind_blob(int place, std::string_view bytes) {
  // A null pointer would bind NULL.
  ::sqlite3_bind_blob(statement_.get(), place, bytes.empty() ? "" : bytes.data(), static_cast<int>(bytes.size()),
                      SQLITE_STATIC);
}

void SqliteStatement::bind(int place, std::int64_t number) {
  ::sqlite3_bind_int64(statement_.get(), place, number);
}

Result<bool> SqliteStatement::step() {
  const int code = ::sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) {
    ::sqlite3_reset(statement_.get());
    return false;
  }
  Failure error = database_->failed(code, "use");
  ::sqlite3_reset(statement_.get());
  return error;
}

void SqliteStatement::reset() {
  ::sqlite3_reset(statement_.get());
}

std::string_view SqliteStatement::text(int column) const {
  const auto* text = ::sqlite3_column_text(statement_.get(), column);
  const auto size = static_cast<std::size_t>(::sqlite3_column_bytes(statement_.get(), column));
  return text ? std::string_view(static_cast<const char*>(static_cast<const void*>(text)), size) : std::string_view();
}

std::string_view SqliteStatement::blob(int column) const {
  const void* bytes = ::sqlite3_column_blob(statement_.get(), column);
  const auto size = static_cast<std::size_t>(::sqlite3_column_bytes(statement_.get(), column));
  return bytes ? std::string_view(static_cast<const char*>(bytes), size) : std::string_view();
}

std::int64_t SqliteStatement::number(int column) const {
  return ::sqlite3_column_int64(statement_.get(), column);
}

void SqliteDatabase::Close::operator()(sqlite3* handle) const {
  ::sqlite3_close_v2(handle);
}

Result<std::unique_ptr<SqliteDatabase>> SqliteDatabase::open(const std::string& file, Mode mode) {
  std::unique_ptr<SqliteDatabase> database(new SqliteDatabase(file));
  int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  flags |= mode == Mode::kRead ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
  // Here, because SQLite would let everybody read it. It gives the log the same mode.
  if (mode == Mode::kCreate) {
    if (const UniqueFd made{::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
        !made.valid() && errno != EEXIST)
      return errno_failure("create", file, "the folder must exist, and the controller's user must be allowed to write");
  }
  sqlite3* handle = nullptr;
  const int code = ::sqlite3_open_v2(file.c_str(), &handle, flags, nullptr);
  database->handle_.reset(handle);
  if (code != SQLITE_OK) return database->failed(code, "open");
  // The schema of a file that somebody else wrote is not trusted, nor are the sizes that its pages claim.
  if (Result<> safe = database->run("PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON"); !safe)
    return Failure(safe.error());
  return database;
}

Result<> SqliteDatabase::run(const std::string& sql) {
  const int code = ::sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) return failed(code, "use");
  return {};
}

Result<SqliteStatement> SqliteDatabase::prepare(std::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  const int code = ::sqlite3_prepare_v2(handle_.get(), sql.data(), static_cast<int>(sql.size()), &statement, nullptr);
  if (code != SQLITE_OK) return failed(code, "use");
  return SqliteStatement(*this, statement);
}

Result<std::string> SqliteDatabase::text_of(std::string_view sql) {
  Result<SqliteStatement> statement = prepare(sql);
  if (!statement) return Failure(statement.error());
  const Result<bool> row = statement->step();
  if (!row) return Failure(row.error());
  return *row ? std::string(statement->text(0)) : std::string();
}

Result<std::int64_t> SqliteDatabase::number_of(std::string_view sql) {
  Result<SqliteStatement> statement = prepare(sql);
  if (!statement) return Failure(statement.error());
  const Result<bool> row = statement->step();
  if (!row) return Failure(row.error());
  return *row ? statement->number(0) : 0;
}

Result<> SqliteDatabase::copy_to(const std::string& file) {
  // Created here and now: what stands there is somebody's.
  if (const UniqueFd made{::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)}; !made.valid())
    return errno_failure("create", file, "give another name, or move it away");
  Result<std::unique_ptr<SqliteDatabase>> copy = open(file, Mode::kWrite);
  if (!copy) return Failure(copy.error());
  sqlite3_backup* const backup = ::sqlite3_backup_init((*copy)->handle_.get(), "main", handle_.get(), "main");
  int code = backup ? ::sqlite3_backup_step(backup, -1) : ::sqlite3_extended_errcode((*copy)->handle_.get());
  if (backup) {
    const int finished = ::sqlite3_backup_finish(backup);
    if (code == SQLITE_DONE) code = finished;
  }
  if (code != SQLITE_OK) return (*copy)->failed(code, "write");
  return sync_folder_of(file);
}

Result<std::string> SqliteDatabase::integrity_problems() {
  Result<SqliteStatement> check = prepare("PRAGMA quick_check(5)");
  if (!check) return Failure(check.error());
  std::string problems;
  while (true) {
    const Result<bool> row = check->step();
    if (!row) return Failure(row.error());
    if (!*row) return problems;
    if (check->text(0) == "ok") continue;
    problems += (problems.empty() ? "" : "; ") + std::string(check->text(0));
  }
}

bool SqliteDatabase::read_only() const {
  return ::sqlite3_db_readonly(handle_.get(), "main") != 0;
}

Failure SqliteDatabase::failed(int code, std::string_view what) const {
  const int primary = code & 0xff;
  std::string detail = handle_ ? ::sqlite3_errmsg(handle_.get()) : ::sqlite3_errstr(code);
  const int system = handle_ ? ::sqlite3_system_errno(handle_.get()) : 0;
  if ((primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN) && system != 0)
    return failure_from(system, std::string(what) + " the database", file_, remedy_of(primary));
  if (const std::string remedy = remedy_of(primary); !remedy.empty()) detail += ": " + remedy;
  return failure(errc_of(primary), std::string(what) + " the database", file_, detail);
}

Failure SqliteDatabase::damaged(std::string_view how) const {
  return failure(std::errc::bad_message, "use the database", file_, std::string(how) + ": " + kRestoreRemedy);
}

Result<> sync_folder_of(const std::string& file) {
  const std::string parent = std::filesystem::path(file).parent_path().string();
  const UniqueFd folder{::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!folder.valid() || ::fsync(folder.get()) != 0) return errno_failure("make durable", parent);
  return {};
}

}  // namespace tidepool::pool::controller
