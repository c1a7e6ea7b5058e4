#include "pool/controller/state/backup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "pool/controller/state/leader_lock.h"

namespace tidepool::pool::controller {
namespace {

constexpr std::size_t kRecordsAtOnce = 1000;

// A database that is being written, and nobody's until finish().
class PendingDatabase {
 public:
  explicit PendingDatabase(std::string file) : file_(std::move(file)) {}
  ~PendingDatabase() {
    writer_.reset();
    database_.reset();
    ::unlink(file_.c_str());
  }
  PendingDatabase(const PendingDatabase&) = delete;
  PendingDatabase& operator=(const PendingDatabase&) = delete;

  Result<> open() {
    // Left by somebody who was interrupted.
    ::unlink(file_.c_str());
    auto database = SqliteDatabase::open(file_, SqliteDatabase::Mode::kCreate);
    if (!database) return Failure(database.error());
    database_ = std::move(*database);
    if (Result<> set = database_->run("PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF"); !set) return set;
    if (Result<> made = migrate(*database_, sqlite_migrations()); !made) return made;
    auto writer = SqliteWriter::make(*database_);
    if (!writer) return Failure(writer.error());
    writer_ = std::move(*writer);
    return {};
  }

  void add(std::string_view key, std::string_view value) {
    if (!outcome_) return;
    pending_.push_back({std::string(key), std::string(value)});
    ++records_;
    if (pending_.size() >= kRecordsAtOnce) flush();
  }

  // Durable, but under its temporary name.
  Result<BackupFigures> finish() {
    flush();
    if (!outcome_) return Failure(outcome_.error());
    writer_.reset();
    database_.reset();
    const UniqueFd written{::open(file_.c_str(), O_RDONLY | O_CLOEXEC)};
    struct stat info {};
    if (!written.valid() || ::fsync(written.get()) != 0 || ::fstat(written.get(), &info) != 0)
      return errno_failure("write", file_, "its file system may be full");
    return BackupFigures{file_, records_, static_cast<std::uint64_t>(info.st_size)};
  }

  const std::string& file() const { return file_; }

 private:
  void flush() {
    if (outcome_ && !pending_.empty()) outcome_ = writer_->apply(pending_);
    pending_.clear();
  }

  const std::string file_;
  std::unique_ptr<SqliteDatabase> database_;
  std::unique_ptr<SqliteWriter> writer_;
  std::vector<StateChange> pending_;
  std::uint64_t records_ = 0;
  Result<> outcome_;
};

bool exists(const std::string& file) {
  struct stat info {};
  return ::lstat(file.c_str(), &info) == 0;
}

Failure not_a_backup(const std::string& file, const std::string& why) {
  return failure(std::errc::bad_message, "read the backup", file, why + "; take another one");
}

Failure of_backup(Error error) {
  error.attempted = "read the backup";
  if (error.code == std::errc::bad_message) error.remedy = "it is damaged, or no backup at all: take another one";
  return Failure(std::move(error));
}

Result<std::unique_ptr<SqliteDatabase>> open_backup(const std::string& file) {
  auto database = SqliteDatabase::open(file, SqliteDatabase::Mode::kRead);
  if (!database) return of_backup(database.error());
  const Result<std::string> problems = (*database)->integrity_problems();
  if (!problems) return of_backup(problems.error());
  if (!problems->empty()) return not_a_backup(file, *problems);
  const Result<std::int64_t> version = (*database)->number_of("SELECT coalesce(max(version), 0) FROM migrations");
  if (!version) return not_a_backup(file, "it has no records of a controller");
  if (*version > sqlite_migrations().back().version)
    return failure(std::errc::not_supported, "read the backup", file,
                   "a newer tidepool-controller wrote it: install that one");
  return database;
}

// Away with what stands there, but kept; the log belongs to the file, and must never meet another one.
Result<> keep_aside(const std::string& database) {
  if (!exists(database)) return {};
  const std::string aside = database + ".before-restore." + std::to_string(std::time(nullptr));
  if (::link(database.c_str(), aside.c_str()) != 0) return errno_failure("keep", database, "as " + aside);
  for (const char* companion : {"-wal", "-shm"}) {
    if (::rename((database + companion).c_str(), (aside + companion).c_str()) != 0 && errno != ENOENT)
      return errno_failure("keep", database + companion);
  }
  return sync_folder_of(database);
}

// What root restores is for whoever the folder is made for: the controller's user. Without the privilege it is that
// user already.
void give_to_owner_of_folder(const std::string& file) {
  const std::string folder = std::filesystem::path(file).parent_path().string();
  struct stat info {};
  if (::geteuid() != 0 || ::stat(folder.empty() ? "." : folder.c_str(), &info) != 0) return;
  [[maybe_unused]] const int given = ::lchown(file.c_str(), info.st_uid, info.st_gid);
}

}  // namespace

Result<BackupFigures> write_backup(std::span<const StateChange> records, const std::string& file) {
  if (exists(file)) return failure_from(EEXIST, "write", file, "give another name, or move it away");
  PendingDatabase pending(file + ".partial");
  if (Result<> opened = pending.open(); !opened) return Failure(opened.error());
  for (const StateChange& each : records)
    if (each.value) pending.add(each.key, *each.value);
  Result<BackupFigures> figures = pending.finish();
  if (!figures) return figures;
  // Not rename(2), which would replace what appeared there meanwhile.
  if (::link(pending.file().c_str(), file.c_str()) != 0) return errno_failure("write", file);
  if (Result<> durable = sync_folder_of(file); !durable) return Failure(durable.error());
  figures->file = file;
  return figures;
}

Result<std::uint64_t> read_backup(const std::string& file, const RecordVisitor& visit) {
  auto database = open_backup(file);
  if (!database) return Failure(database.error());
  std::uint64_t records = 0;
  for (const bool verifying : {true, false}) {
    const Result<> read = read_records(**database, [&](std::string_view key, std::string_view value) {
      if (verifying) {
        ++records;
      } else {
        visit(key, value);
      }
    });
    if (!read) return of_backup(read.error());
  }
  return records;
}

Result<std::string> as_it_was(std::string_view, std::string_view value) {
  return std::string(value);
}

Result<BackupFigures> restore_sqlite(const std::string& database, const std::string& backup,
                                     const RecordChange& change) {
  const Result<UniqueFd> lock = take_leader_lock(database, "a restore");
  if (!lock && lock.error().code == std::errc::device_or_resource_busy)
    return failure(std::errc::device_or_resource_busy, "restore into", database,
                   "a controller leads with it (" + leader_lock_owner(database) + "): stop it first");
  if (!lock) return Failure(lock.error());
  PendingDatabase pending(database + ".restoring");
  if (Result<> opened = pending.open(); !opened) return Failure(opened.error());
  Result<> changed;
  const Result<std::uint64_t> read = read_backup(backup, [&](std::string_view key, std::string_view value) {
    const Result<std::string> now = change(key, value);
    if (!now && changed) changed = Failure(now.error());
    if (now) pending.add(key, *now);
  });
  if (!read) return Failure(read.error());
  if (!changed) return Failure(changed.error());
  Result<BackupFigures> figures = pending.finish();
  if (!figures) return figures;
  give_to_owner_of_folder(pending.file());
  give_to_owner_of_folder(leader_lock_file(database));
  if (Result<> kept = keep_aside(database); !kept) return Failure(kept.error());
  if (::rename(pending.file().c_str(), database.c_str()) != 0) return errno_failure("restore", database);
  if (Result<> durable = sync_folder_of(database); !durable) return Failure(durable.error());
  figures->file = database;
  return figures;
}

}  // namespace tidepool::pool::controller
