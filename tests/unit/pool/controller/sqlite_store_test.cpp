// Goal: what was committed to SQLite is there again, whole or not at all, and a database that cannot be relied on is
// refused with its name and what to do, and left as it is.
#include "pool/controller/state/sqlite_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "pool/controller/state/backup.h"
#include "pool/controller/state/sqlite_records.h"
#include "tests/support/small_tmpfs.h"
#include "tests/support/state_store_contract.h"

namespace tidepool::pool::controller {
namespace {

using namespace testing;

class SqliteMaker final : public StoreMaker {
 public:
  std::unique_ptr<StateStore> make(const std::string& name) override {
    return make_sqlite_store(folder_ / "state.db", name);
  }

 private:
  tests::TestFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(Sqlite, StateStoreContract, ::testing::Values(+[]() -> std::shared_ptr<StoreMaker> {
                           return std::make_shared<SqliteMaker>();
                         }));

class SqliteStoreFile : public ::testing::Test {
 protected:
  std::unique_ptr<StateStore> open(const std::string& file) { return make_sqlite_store(file, "test"); }
  std::unique_ptr<StateStore> lead(const std::string& file) {
    std::unique_ptr<StateStore> store = open(file);
    const Result<> leads = store->lead();
    EXPECT_TRUE(leads) << leads.error().message();
    return store;
  }
  // Some records in `file`, which nobody has open afterwards.
  void fill(const std::string& file, int records = 2000) {
    const std::unique_ptr<StateStore> store = lead(file);
    std::vector<StateChange> changes;
    for (int i = 0; i < records; ++i)
      changes.push_back({"slice/" + std::to_string(100000 + i), std::string(200, static_cast<char>('a' + i % 26))});
    ASSERT_TRUE(store->commit(changes));
  }
  // Why it cannot be led or loaded.
  std::string refusal(const std::string& file) {
    const std::unique_ptr<StateStore> store = open(file);
    if (const Result<> leads = store->lead(); !leads) return leads.error().message();
    if (const Result<> loaded = store->load([](auto, auto) {}); !loaded) return loaded.error().message();
    return "";
  }

  tests::TestFolder folder_;
  std::string file_ = folder_ / "state.db";
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(SqliteStoreFile, SurvivesAKill) {
  const pid_t child = ::fork();
  if (child == 0) {
    const std::unique_ptr<StateStore> store = make_sqlite_store(file_, "child");
    if (store->lead()) put(*store, "a", "1");
    ::raise(SIGKILL);
    ::_exit(1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(std::filesystem::exists(file_ + "-wal"));
  EXPECT_EQ(records_of(*lead(file_)), (Records{{"a", "1"}}));
}

// Two controllers in one process share what the kernel counts per process; this is how it really is.
TEST_F(SqliteStoreFile, IsLockedForOtherProcesses) {
  const std::unique_ptr<StateStore> store = lead(file_);
  const pid_t child = ::fork();
  if (child == 0) {
    sqlite3* other = nullptr;
    ::sqlite3_open(file_.c_str(), &other);
    ::_exit(::sqlite3_exec(other, "DELETE FROM records", nullptr, nullptr, nullptr) == SQLITE_BUSY ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(SqliteStoreFile, RefusesADatabaseThatIsDamaged) {
  fill(file_);
  const auto size = std::filesystem::file_size(file_);
  for (std::uintmax_t at = 100; at < size; at += 4096 + 512 + 8) {
    const std::string damaged = folder_ / "damaged.db";
    std::filesystem::copy_file(file_, damaged, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::remove(damaged + "-wal");
    std::fstream bytes(damaged, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(static_cast<std::streamoff>(at));
    bytes.write("\x5a\xa5\x5a\xa5\x5a\xa5\x5a\xa5\x5a\xa5\x5a\xa5\x5a\xa5\x5a\xa5", 16);
    bytes.close();
    const std::string before = tests::read_file(damaged);
    const std::string why = refusal(damaged);
    // Bytes that nobody uses may be anything.
    if (why.empty()) {
      EXPECT_EQ(records_of(*lead(damaged)), records_of(*lead(file_))) << at;
      continue;
    }
    EXPECT_TRUE(has(why, "damaged.db")) << why;
    EXPECT_TRUE(has(why, "tidectl pool restore")) << why;
    EXPECT_EQ(tests::read_file(damaged), before) << "kept as it is";
  }
}

TEST_F(SqliteStoreFile, RefusesWhatIsNoDatabase) {
  std::ofstream(file_) << std::string(10000, 'x');
  const std::string why = refusal(file_);
  EXPECT_TRUE(has(why, "state.db")) << why;
  EXPECT_TRUE(has(why, "not a database")) << why;
  EXPECT_EQ(tests::read_file(file_), std::string(10000, 'x'));
  EXPECT_TRUE(has(refusal(folder_ / "no/such/folder.db"), "folder must exist"));
}

TEST_F(SqliteStoreFile, RefusesAnotherProgramsDatabase) {
  sqlite3* other = nullptr;
  ASSERT_EQ(::sqlite3_open(file_.c_str(), &other), SQLITE_OK);
  ASSERT_EQ(::sqlite3_exec(other, "CREATE TABLE cats (name)", nullptr, nullptr, nullptr), SQLITE_OK);
  ::sqlite3_close(other);
  EXPECT_TRUE(has(refusal(file_), "belongs to another program"));
}

TEST_F(SqliteStoreFile, RefusesWhatItMayNotWrite) {
  tests::SmallTmpfs disk("size=16m");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs needs root";
  fill(disk / "state.db");
  ASSERT_TRUE(disk.make_read_only());
  const std::string why = refusal(disk / "state.db");
  EXPECT_TRUE(has(why, "state.db")) << why;
  EXPECT_TRUE(has(why, "Read-only file system")) << why;
  EXPECT_TRUE(has(why, "writable")) << why;
}

// The folder can be written and the file cannot: nobody but root is stopped by modes.
TEST_F(SqliteStoreFile, RefusesAFileOfSomebodyElse) {
  if (::geteuid() != 0) GTEST_SKIP() << "becoming somebody else needs root";
  fill(file_);
  std::filesystem::remove(file_ + ".lock");
  ::chmod(file_.c_str(), 0444);
  ::chmod(folder_.path().c_str(), 0777);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(2);
    const std::string why = refusal(file_);
    ::_exit(has(why, "state.db") && has(why, "must be writable") ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(SqliteStoreFile, ChangesNothingWhenTheDiskIsFull) {
  const tests::SmallTmpfs disk("size=1m");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs needs root";
  const std::string file = disk / "state.db";
  Records committed;
  Result<> last;
  {
    const std::unique_ptr<StateStore> store = lead(file);
    for (int i = 0; i < 1000 && last; ++i) {
      const StateChange change{"slice/" + std::to_string(1000 + i), std::string(20000, 'x')};
      last = store->commit(std::vector<StateChange>{change});
      if (last) committed.emplace(change.key, *change.value);
    }
    ASSERT_FALSE(last);
    EXPECT_EQ(last.error().code, std::errc::no_space_on_device) << last.error().message();
    EXPECT_TRUE(has(last.error().message(), "state.db") && has(last.error().message(), "make room"));
    EXPECT_TRUE(store->lost());
  }
  EXPECT_GT(committed.size(), 5u);
  // Full as it is, it can be read, and shrunk.
  const std::unique_ptr<StateStore> store = lead(file);
  EXPECT_EQ(records_of(*store), committed);
}

TEST_F(SqliteStoreFile, MigratesAndKeepsACopy) {
  fill(file_, 10);
  const std::vector<Migration> more{
      sqlite_migrations()[0], {2, "notes", "CREATE TABLE notes (text TEXT) STRICT;"}, {3, "more", "DROP TABLE notes;"}};
  {
    auto database = SqliteDatabase::open(file_, SqliteDatabase::Mode::kWrite);
    ASSERT_TRUE(database);
    const Result<> done = migrate(**database, more);
    ASSERT_TRUE(done) << done.error().message();
    EXPECT_EQ(*(*database)->text_of("SELECT group_concat(version || name) FROM migrations"), "1records,2notes,3more");
  }
  const std::string why = refusal(file_);
  EXPECT_TRUE(has(why, "its schema is 3, and this tidepool-controller knows those up to 1")) << why;
  std::string copy;
  for (const auto& each : std::filesystem::directory_iterator(folder_.path()))
    if (has(each.path().string(), ".before-schema-3.")) copy = each.path().string();
  ASSERT_FALSE(copy.empty());
  EXPECT_EQ(records_of(*lead(copy)).size(), 10u);
}

TEST_F(SqliteStoreFile, LeavesTheSchemaAsItWasWhenAMigrationFails) {
  fill(file_, 10);
  const std::vector<Migration> wrong{sqlite_migrations()[0], {2, "wrong", "CREATE TABLE a (b); SELECT nonsense;"}};
  {
    auto database = SqliteDatabase::open(file_, SqliteDatabase::Mode::kWrite);
    ASSERT_TRUE(database);
    const Result<> done = migrate(**database, wrong);
    ASSERT_FALSE(done);
    EXPECT_TRUE(has(done.error().message(), "bring to schema 2")) << done.error().message();
  }
  EXPECT_EQ(records_of(*lead(file_)).size(), 10u);
}

std::vector<StateChange> as_changes(const Records& records) {
  std::vector<StateChange> changes;
  for (const auto& [key, value] : records) changes.push_back({key, value});
  return changes;
}

TEST_F(SqliteStoreFile, ComesBackFromABackup) {
  fill(file_);
  std::unique_ptr<StateStore> store = lead(file_);
  const Records before = records_of(*store);
  const std::string backup = folder_ / "backup.db";
  const auto written = write_backup(as_changes(before), backup);
  ASSERT_TRUE(written) << written.error().message();
  EXPECT_EQ(written->records, before.size());
  EXPECT_EQ(written->bytes, std::filesystem::file_size(backup));
  EXPECT_EQ(std::filesystem::status(backup).permissions() & std::filesystem::perms::mask,
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write)
      << "it has servers' keys";
  put(*store, "later", "1");

  const auto in_use = restore_sqlite(file_, backup, as_it_was);
  ASSERT_FALSE(in_use);
  EXPECT_TRUE(has(in_use.error().message(), "a controller leads with it (test): stop it first"))
      << in_use.error().message();
  const auto again = write_backup(as_changes(before), backup);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, std::errc::file_exists);
  EXPECT_FALSE(std::filesystem::exists(backup + ".partial"));

  store.reset();
  const auto restored = restore_sqlite(file_, backup, as_it_was);
  ASSERT_TRUE(restored) << restored.error().message();
  EXPECT_EQ(records_of(*lead(file_)), before);
  std::size_t kept = 0;
  for (const auto& each : std::filesystem::directory_iterator(folder_.path()))
    kept += has(each.path().string(), "state.db.before-restore.") ? 1 : 0;
  EXPECT_EQ(kept, 1u);
}

TEST_F(SqliteStoreFile, RestoresOverADamagedDatabaseAndFromWholeBackupsOnly) {
  fill(file_);
  const std::string backup = folder_ / "backup.db";
  ASSERT_TRUE(write_backup(as_changes(records_of(*lead(file_))), backup));
  std::ofstream(file_, std::ios::trunc) << std::string(10000, 'x');
  ASSERT_FALSE(refusal(file_).empty());

  const std::string half = folder_ / "half.db";
  std::filesystem::copy_file(backup, half);
  std::filesystem::resize_file(half, std::filesystem::file_size(half) / 2);
  const auto refused = restore_sqlite(file_, half, as_it_was);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(has(refused.error().message(), "read the backup " + half)) << refused.error().message();
  EXPECT_FALSE(restore_sqlite(file_, folder_ / "none.db", as_it_was));
  const std::ofstream empty(folder_ / "empty.db");
  EXPECT_FALSE(restore_sqlite(file_, folder_ / "empty.db", as_it_was));
  EXPECT_FALSE(refusal(file_).empty()) << "nothing was restored yet";

  // As root would, for the user whose folder it is.
  std::filesystem::remove(file_ + ".lock");
  const bool root = ::geteuid() == 0 && ::chown(folder_.path().c_str(), 65534, 65534) == 0;
  ASSERT_TRUE(restore_sqlite(file_, backup, as_it_was));
  EXPECT_EQ(records_of(*lead(file_)).size(), 2000u);
  for (const std::string& each : {file_, file_ + ".lock"}) {
    struct stat info {};
    ASSERT_EQ(::stat(each.c_str(), &info), 0);
    EXPECT_EQ(info.st_uid, root ? 65534u : ::geteuid()) << each;
  }
}

}  // namespace
}  // namespace tidepool::pool::controller
