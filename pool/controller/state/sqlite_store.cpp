#include "pool/controller/state/sqlite_store.h"

#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "base/unique_fd.h"
#include "pool/controller/state/leader_lock.h"
#include "pool/controller/state/sqlite_records.h"

namespace tidepool::pool::controller {
namespace {

// flock(2) cannot be waited for with an end.
constexpr auto kLockPoll = std::chrono::milliseconds(100);

// SQLite has no bound of its own; one transaction should not take long.
constexpr std::size_t kMostChangesAtOnce = 4096;

// Exclusive: no other program reads or writes while we lead, and the log's index needs no shared memory.
constexpr const char* kSettings =
    "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; "
    "PRAGMA journal_size_limit=67108864";

class SqliteStore final : public StateStore {
 public:
  SqliteStore(std::string file, std::string name) : file_(std::move(file)), name_(std::move(name)) {}
  ~SqliteStore() override { SqliteStore::resign(); }
  SqliteStore(const SqliteStore&) = delete;
  SqliteStore& operator=(const SqliteStore&) = delete;

  std::string kind() const override { return "sqlite"; }

  Result<> lead() override {
    resign();
    if (Result<> locked = wait_for_lock(); !locked) return locked;
    Result<> opened = open();
    if (!opened) {
      resign();
      return opened;
    }
    leads_ = true;
    set_leader(name_);
    return {};
  }

  bool lost() const override { return !leads_; }

  void resign() override {
    leads_ = false;
    writer_.reset();
    // Before the lock: whoever gets it finds a closed database.
    database_.reset();
    lock_.reset();
    set_leader("");
  }

  void stop() override {
    {
      const std::scoped_lock guard(mutex_);
      stopped_ = true;
    }
    wake_.notify_all();
  }

  std::string leader() const override {
    const std::scoped_lock guard(mutex_);
    return leader_;
  }

  Result<> load(const std::function<void(std::string_view, std::string_view)>& visit) override {
    if (!leads_) return not_leading("read");
    Result<> loaded = read_records(*database_, visit);
    if (!loaded) leads_ = false;
    return loaded;
  }

  std::size_t most_changes() const override { return kMostChangesAtOnce; }

  Result<> commit(std::span<const StateChange> changes) override {
    if (!leads_) return not_leading("change");
    Result<> done = writer_->apply(changes);
    if (!done) leads_ = false;
    return done;
  }

 private:
  Failure not_leading(const char* attempted) const {
    return failure(std::errc::operation_not_permitted, attempted, file_, "this controller does not lead");
  }

  void set_leader(const std::string& name) {
    const std::scoped_lock guard(mutex_);
    leader_ = name;
  }

  Result<> wait_for_lock() {
    while (true) {
      Result<UniqueFd> lock = take_leader_lock(file_, name_);
      if (lock) {
        lock_ = std::move(*lock);
        return {};
      }
      if (lock.error().code != std::errc::device_or_resource_busy) return Failure(lock.error());
      set_leader(leader_lock_owner(file_));
      std::unique_lock guard(mutex_);
      if (wake_.wait_for(guard, kLockPoll, [this] { return stopped_; }))
        return failure(std::errc::operation_canceled, "wait for", file_);
    }
  }

  Result<> open() {
    auto database = SqliteDatabase::open(file_, SqliteDatabase::Mode::kCreate);
    if (!database) return Failure(database.error());
    database_ = std::move(*database);
    if (database_->read_only())
      return failure(std::errc::read_only_file_system, "use the database", file_,
                     "the file, its folder and its file system must be writable for the controller's user");
    if (Result<> set = database_->run(kSettings); !set) return set;
    const Result<std::string> problems = database_->integrity_problems();
    if (!problems) return Failure(problems.error());
    if (!problems->empty()) return database_->damaged(*problems);
    if (Result<> migrated = migrate(*database_, sqlite_migrations()); !migrated) return migrated;
    auto writer = SqliteWriter::make(*database_);
    if (!writer) return Failure(writer.error());
    writer_ = std::move(*writer);
    return {};
  }

  const std::string file_;
  const std::string name_;
  std::atomic<bool> leads_ = false;
  UniqueFd lock_;
  std::unique_ptr<SqliteDatabase> database_;
  std::unique_ptr<SqliteWriter> writer_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool stopped_ = false;
  std::string leader_;
};

}  // namespace

std::unique_ptr<StateStore> make_sqlite_store(std::string file, std::string name) {
  return std::make_unique<SqliteStore>(std::move(file), std::move(name));
}

}  // namespace tidepool::pool::controller
