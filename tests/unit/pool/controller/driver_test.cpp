// Goal: an answer is true when it leaves, whatever becomes of commits and leadership, and nobody waits for ever.
#include "pool/controller/driver.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "pool/controller/state/backup.h"
#include "tests/support/program.h"

namespace tidepool::pool::controller {
namespace {

using tests::await;

// What stores of one test share: records, and what goes wrong.
struct Shelf {
  enum class Commit { kWorks, kFailsBefore, kFailsAfter, kRefused };

  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, std::string> records;
  unsigned leader = 0;  // number of the store that leads
  unsigned stores = 0;
  std::uint64_t commits = 0;
  std::function<Commit(std::uint64_t)> plan = [](std::uint64_t) { return Commit::kWorks; };
  bool held = false;  // commits wait
  int waiting = 0;    // commits that do
  Error lead_error;

  bool has(const std::string& key) {
    const std::scoped_lock guard(mutex);
    return records.contains(key);
  }
  bool somebody_waits() {
    const std::scoped_lock guard(mutex);
    return waiting > 0;
  }
  void hold(bool yes) {
    const std::scoped_lock guard(mutex);
    held = yes;
    changed.notify_all();
  }
  // Somebody else takes over, who has the number 0.
  void depose() {
    const std::scoped_lock guard(mutex);
    leader = 1000;
    changed.notify_all();
  }
  void vacate() {
    const std::scoped_lock guard(mutex);
    leader = 0;
    changed.notify_all();
  }
};

class ShelfStore final : public StateStore {
 public:
  explicit ShelfStore(Shelf& shelf) : shelf_(shelf), number_(++shelf.stores) {}
  ~ShelfStore() override { ShelfStore::resign(); }

  std::string kind() const override { return "shelf"; }
  Result<> lead() override {
    std::unique_lock guard(shelf_.mutex);
    if (shelf_.lead_error.code) return Failure(shelf_.lead_error);
    shelf_.changed.wait(guard, [this] { return shelf_.leader == 0 || stopped_; });
    if (stopped_) return failure(std::errc::operation_canceled, "lead", "the shelf");
    shelf_.leader = number_;
    return {};
  }
  bool lost() const override {
    const std::scoped_lock guard(shelf_.mutex);
    return shelf_.leader != number_;
  }
  void resign() override {
    const std::scoped_lock guard(shelf_.mutex);
    if (shelf_.leader == number_) shelf_.leader = 0;
    shelf_.changed.notify_all();
  }
  void stop() override {
    const std::scoped_lock guard(shelf_.mutex);
    stopped_ = true;
    shelf_.changed.notify_all();
  }
  std::string leader() const override {
    const std::scoped_lock guard(shelf_.mutex);
    return shelf_.leader == 0 ? "" : "store-" + std::to_string(shelf_.leader);
  }
  Result<> load(const std::function<void(std::string_view, std::string_view)>& visit) override {
    const std::scoped_lock guard(shelf_.mutex);
    for (const auto& [key, value] : shelf_.records) visit(key, value);
    return {};
  }
  std::size_t most_changes() const override { return 127; }
  Result<> commit(std::span<const StateChange> changes) override {
    std::unique_lock guard(shelf_.mutex);
    ++shelf_.waiting;
    shelf_.changed.wait(guard, [this] { return !shelf_.held || stopped_; });
    --shelf_.waiting;
    EXPECT_LE(changes.size(), most_changes());
    const Shelf::Commit fate = shelf_.plan(shelf_.commits++);
    if (shelf_.leader != number_ || fate == Shelf::Commit::kRefused) return not_leading();
    if (fate == Shelf::Commit::kFailsBefore) return lost_contact();
    for (const StateChange& each : changes) {
      if (each.value) {
        shelf_.records[each.key] = *each.value;
      } else {
        shelf_.records.erase(each.key);
      }
    }
    if (fate == Shelf::Commit::kFailsAfter) return lost_contact();
    return {};
  }

 private:
  Failure lost_contact() {
    shelf_.leader = 0;
    return failure(std::errc::host_unreachable, "commit", "to the shelf");
  }
  Failure not_leading() {
    if (shelf_.leader == number_) shelf_.leader = 0;
    return failure(std::errc::operation_not_permitted, "commit", "to the shelf");
  }

  Shelf& shelf_;
  const unsigned number_;
  bool stopped_ = false;
};

class Driver : public ::testing::Test {
 protected:
  std::unique_ptr<Controller> start() {
    return std::make_unique<Controller>(std::make_unique<ShelfStore>(shelf_), options_, clock_);
  }
  std::unique_ptr<Controller> lead() {
    std::unique_ptr<Controller> controller = start();
    EXPECT_TRUE(await([&] { return controller->state().phase == ControllerPhase::kLeading; }))
        << controller->state().trouble;
    return controller;
  }

  static SetTenant tenant(const std::string& name) {
    SetTenant request;
    request.tenant = name;
    request.bounds.weight = 2;
    return request;
  }
  static bool accepted(const Result<Answer>& answer) { return answer && std::holds_alternative<PlanAnswer>(*answer); }
  static std::set<std::string> tenants(Controller& controller) {
    std::set<std::string> names;
    const Result<Answer> answer = controller.call(GetStatus{}, "test");
    if (!answer) return names;
    for (const TenantView& each : std::get<StatusAnswer>(*answer).tenants) names.insert(each.name);
    return names;
  }
  // Answers that are not to be had now are asked for again, as clients do.
  void set_until_done(Controller& controller, const std::string& name) {
    EXPECT_TRUE(await([&] {
      const Result<Answer> answer = controller.call(tenant(name), "test");
      if (!answer) return false;
      EXPECT_TRUE(accepted(answer));
      EXPECT_TRUE(shelf_.has("tenant/" + name)) << "said before it was stored";
      return true;
    }));
  }

  SystemClock clock_;
  Shelf shelf_;
  ControllerOptions options_{.core = {},
                             .tick = std::chrono::milliseconds(20),
                             .most_waiting = 64,
                             .retry = std::chrono::milliseconds(1),
                             .retry_at_most = std::chrono::milliseconds(20)};
};

TEST_F(Driver, AnswersWhatIsStoredAndFindsItAgain) {
  {
    const auto controller = lead();
    EXPECT_EQ(controller->leader(), "store-1");
    set_until_done(*controller, "one");
    EXPECT_TRUE(tenants(*controller).contains("one"));
    const Result<Answer> refused = controller->call(DrainServer{"nobody", true, false}, "test");
    ASSERT_TRUE(refused);
    EXPECT_TRUE(std::holds_alternative<Refusal>(*refused));
    const ControllerFigures figures = controller->figures();
    EXPECT_EQ(figures.leaderships, 1u);
    EXPECT_GE(figures.commits, 2u);
    EXPECT_EQ(figures.refused[Request(DrainServer{}).index()], 1u);
  }
  const auto controller = lead();
  EXPECT_TRUE(tenants(*controller).contains("one"));
}

// Every commit of a run fails once, before or after it took effect.
TEST_F(Driver, SaysNothingWrongWhicheverCommitFails) {
  for (const auto fate : {Shelf::Commit::kFailsBefore, Shelf::Commit::kFailsAfter, Shelf::Commit::kRefused}) {
    for (std::uint64_t failing = 0; failing < 8; ++failing) {
      {
        const std::scoped_lock guard(shelf_.mutex);
        shelf_.records.clear();
        shelf_.commits = 0;
        shelf_.plan = [&](std::uint64_t number) { return number == failing ? fate : Shelf::Commit::kWorks; };
      }
      const auto controller = lead();
      for (int i = 0; i < 8; ++i) {
        const std::string name = "t" + std::to_string(i);
        set_until_done(*controller, name);
        EXPECT_TRUE(tenants(*controller).contains(name));
      }
      // The first one is of loading.
      EXPECT_EQ(controller->figures().leaderships, failing == 0 ? 1u : 2u) << failing;
      EXPECT_EQ(controller->figures().commit_failures, 1u);
    }
  }
}

TEST_F(Driver, SaysNothingWrongToManyWhenCommitsFailAtRandom) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  shelf_.plan = [&](std::uint64_t) {
    const auto dice = random() % 10;
    return dice == 0 ? Shelf::Commit::kFailsBefore : dice == 1 ? Shelf::Commit::kFailsAfter : Shelf::Commit::kWorks;
  };
  const auto controller = start();
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      for (int i = 0; i < 30; ++i) set_until_done(*controller, std::to_string(client) + "-" + std::to_string(i));
    });
  }
  for (std::thread& each : clients) each.join();
  {
    const std::scoped_lock guard(shelf_.mutex);
    shelf_.plan = [](std::uint64_t) { return Shelf::Commit::kWorks; };
  }
  EXPECT_TRUE(await([&] { return tenants(*controller).size() >= 120; }));
}

TEST_F(Driver, TellsWhoLeadsWhenItDoesNot) {
  const auto first = lead();
  const auto second = start();
  const Result<Answer> answer = second->call(GetStatus{}, "test");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, std::errc::operation_not_permitted);
  EXPECT_NE(answer.error().message().find("store-1 does"), std::string::npos) << answer.error().message();
  EXPECT_EQ(second->leader(), "store-1");
  EXPECT_EQ(second->backup("/nonexistent").error().code, std::errc::operation_not_permitted);
}

TEST_F(Driver, AnswersNothingOnceAnotherLeads) {
  const auto controller = lead();
  set_until_done(*controller, "one");
  shelf_.depose();
  const Result<Answer> answer = controller->call(GetStatus{}, "test");
  ASSERT_FALSE(answer) << "it read what another one may change";
  EXPECT_EQ(answer.error().code, std::errc::operation_not_permitted);
  EXPECT_TRUE(await([&] { return controller->state().phase == ControllerPhase::kWaiting; }));
  {
    const std::scoped_lock guard(shelf_.mutex);
    shelf_.records["tenant/two"] = shelf_.records["tenant/one"];
    shelf_.records.erase("tenant/one");
  }
  // A record whose key is another's is refused, so whatever it knew is not what it goes by.
  shelf_.vacate();
  EXPECT_TRUE(await([&] { return controller->state().phase == ControllerPhase::kFailing; }));
  EXPECT_FALSE(controller->state().hopeless) << "it has led before";
}

TEST_F(Driver, TurnsAwayWhatItCannotKeep) {
  options_.most_waiting = 4;
  const auto controller = lead();
  shelf_.hold(true);
  std::vector<std::thread> clients;
  std::atomic<int> done = 0, turned_away = 0, other = 0;
  // One that the thread has taken, four that wait behind it, and more.
  for (int i = 0; i < 12; ++i) {
    clients.emplace_back([&, i] {
      const Result<Answer> answer = controller->call(tenant("t" + std::to_string(i)), "test");
      if (accepted(answer)) {
        ++done;
      } else if (!answer && answer.error().code == std::errc::resource_unavailable_try_again) {
        ++turned_away;
      } else {
        ++other;
      }
    });
  }
  EXPECT_TRUE(await([&] { return turned_away > 0; }));
  shelf_.hold(false);
  for (std::thread& each : clients) each.join();
  EXPECT_EQ(done + turned_away, 12);
  EXPECT_EQ(other, 0);
  EXPECT_GE(done, 4);
  EXPECT_EQ(controller->figures().overloaded, static_cast<std::uint64_t>(turned_away));
}

TEST_F(Driver, EndsWithoutLettingAnybodyWait) {
  auto controller = lead();
  shelf_.hold(true);
  std::vector<std::thread> clients;
  std::atomic<int> ended = 0;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&, i] {
      const Result<Answer> answer = controller->call(tenant("t" + std::to_string(i)), "test");
      ended += answer || answer.error().code == std::errc::operation_not_permitted ? 1 : 0;
    });
  }
  EXPECT_TRUE(await([&] { return shelf_.somebody_waits(); }));
  std::thread ending([&] { controller->end(); });
  for (std::thread& each : clients) each.join();
  ending.join();
  EXPECT_EQ(ended, 4);
}

TEST_F(Driver, SaysWhenThereIsNoPointInWaiting) {
  const auto fail_with = [&](std::errc code, const char* subject) {
    const std::scoped_lock guard(shelf_.mutex);
    shelf_.lead_error = failure(code, "use", subject).value();
  };
  fail_with(std::errc::bad_message, "/state.db");
  const auto hopeless = start();
  EXPECT_TRUE(await([&] { return hopeless->state().hopeless; }));
  EXPECT_NE(hopeless->state().trouble.find("/state.db"), std::string::npos);
  fail_with(std::errc::host_unreachable, "etcd");
  const auto patient = start();
  EXPECT_TRUE(await([&] { return patient->state().phase == ControllerPhase::kFailing; }));
  EXPECT_FALSE(patient->state().hopeless);
}

TEST_F(Driver, RefusesRecordsThatMakeNoSense) {
  shelf_.records["slice/nonsense"] = "nonsense";
  const auto controller = start();
  EXPECT_TRUE(await([&] { return controller->state().hopeless; }));
  EXPECT_NE(controller->state().trouble.find("slice/nonsense"), std::string::npos) << controller->state().trouble;
}

TEST_F(Driver, WritesABackupOfWhatItHas) {
  const tests::TestFolder folder;
  const auto controller = lead();
  for (int i = 0; i < 20; ++i) set_until_done(*controller, "t" + std::to_string(i));
  const auto written = controller->backup(folder / "backup.db");
  ASSERT_TRUE(written) << written.error().message();
  std::map<std::string, std::string> records;
  ASSERT_TRUE(read_backup(folder / "backup.db", [&](auto key, auto value) { records.emplace(key, value); }));
  const std::scoped_lock guard(shelf_.mutex);
  EXPECT_EQ(records, shelf_.records);
  EXPECT_EQ(written->records, records.size());
}

TEST_F(Driver, TakesAnotherConfigurationOver) {
  const auto controller = lead();
  set_until_done(*controller, "one");
  CoreConfig config;
  config.slice_bytes = Bytes{2 << 20};
  controller->reconfigure(config);
  const auto slice_bytes = [&] {
    const Result<Answer> answer = controller->call(GetStatus{}, "test");
    return answer ? std::get<StatusAnswer>(*answer).slice_bytes : Bytes{};
  };
  EXPECT_TRUE(await([&] { return slice_bytes() == Bytes{2 << 20}; }));
  config.slice_bytes = Bytes{3 << 20};
  controller->reconfigure(config);
  const auto beats = controller->beats();
  EXPECT_TRUE(await([&] { return controller->beats() > beats + 5; }));
  EXPECT_EQ(slice_bytes(), Bytes{2 << 20}) << "what makes no sense is not taken over";
  EXPECT_TRUE(tenants(*controller).contains("one"));
}

// Goes where it likes.
class JumpingClock final : public Clock {
 public:
  MonoTime now() const override { return MonoTime{Nanoseconds(at_.load())}; }
  void set(Nanoseconds at) { at_ = at.count(); }

 private:
  std::atomic<std::int64_t> at_{std::chrono::nanoseconds(std::chrono::hours(5)).count()};
};

TEST_F(Driver, OutlivesJumpsOfTheClock) {
  JumpingClock jumping;
  Controller controller(std::make_unique<ShelfStore>(shelf_), options_, jumping);
  EXPECT_TRUE(await([&] { return controller.state().phase == ControllerPhase::kLeading; }));
  for (const int hours : {5, 1000, 1, 5, 100'000, 6}) {
    jumping.set(std::chrono::hours(hours));
    set_until_done(controller, "at-" + std::to_string(hours));
    const auto beats = controller.beats();
    EXPECT_TRUE(await([&] { return controller.beats() > beats; }));
  }
  EXPECT_EQ(controller.figures().leaderships, 1u);
}

}  // namespace
}  // namespace tidepool::pool::controller
