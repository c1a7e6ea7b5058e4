// Goal: with etcd one controller leads, its commits are whole and in order whatever is lost on the way, and whoever led
// before changes nothing any more.
#include "pool/controller/state/etcd_store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <iostream>

#include "pool/controller/state/backup.h"
#include "pool/controller/state/base64.h"
#include "tests/integration/controller/lossy_proxy.h"
#include "tests/support/etcd_cluster.h"
#include "tests/support/state_store_contract.h"

namespace tidepool::pool::controller {
namespace {

using namespace testing;
using tests::await;
using tests::EtcdCluster;
using tests::LossyProxy;

constexpr auto kLease = std::chrono::seconds(2);

// One member for all tests that do no harm to it.
EtcdCluster& shared_member() {
  static EtcdCluster cluster;
  return cluster;
}

// A place that no other test uses.
std::string fresh_prefix() {
  static int number = 0;
  return "/test-" + std::to_string(++number) + "/";
}

EtcdStoreOptions options_for(const std::vector<std::string>& urls, const std::string& prefix, const std::string& name) {
  EtcdStoreOptions options;
  options.endpoints.urls = urls;
  options.prefix = prefix;
  options.name = name;
  options.lease = kLease;
  return options;
}

std::unique_ptr<StateStore> make(const EtcdStoreOptions& options) {
  auto store = make_etcd_store(options);
  EXPECT_TRUE(store) << store.error().message();
  return std::move(*store);
}

class EtcdMaker final : public StoreMaker {
 public:
  std::unique_ptr<StateStore> make(const std::string& name) override {
    return controller::make(options_for(shared_member().urls(), prefix_, name));
  }

 private:
  std::string prefix_ = fresh_prefix();
};

INSTANTIATE_TEST_SUITE_P(Etcd, StateStoreContract, ::testing::Values(+[]() -> std::shared_ptr<StoreMaker> {
                           return EtcdCluster::installed() ? std::make_shared<EtcdMaker>() : nullptr;
                         }));

class EtcdStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!EtcdCluster::installed()) GTEST_SKIP() << "etcd is not installed: scripts/setup";
  }
  EtcdStoreOptions shared(const std::string& name) { return options_for(shared_member().urls(), prefix_, name); }
  std::unique_ptr<EtcdGateway> gateway() {
    return std::move(*EtcdGateway::make({shared_member().urls(), {}}, std::chrono::seconds(5)));
  }

  const std::string prefix_ = fresh_prefix();
};

void lead(StateStore& store) {
  const Result<> leads = store.lead();
  ASSERT_TRUE(leads) << leads.error().message();
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(EtcdStoreTest, RefusesCommitsOfAFormerLeader) {
  const auto former = make(shared("former"));
  lead(*former);
  put(*former, "a", "1");
  // Its key is taken from it before it knows.
  EtcdTransaction theft;
  theft.changes.push_back({prefix_ + "leader", std::nullopt, 0, ""});
  ASSERT_TRUE(gateway()->run(theft));
  const auto next = make(shared("next"));
  lead(*next);
  put(*next, "a", "2");
  ASSERT_FALSE(former->lost());
  const Result<> late = former->commit(std::vector<StateChange>{{"a", "3"}});
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, std::errc::operation_not_permitted);
  EXPECT_TRUE(former->lost());
  EXPECT_EQ(records_of(*next), (Records{{"a", "2"}}));
  put(*next, "b", "1");
}

TEST_F(EtcdStoreTest, CommitsOnceWhenAnswersAreLost) {
  LossyProxy proxy(shared_member().urls().front());
  const auto store = make(options_for({proxy.url()}, prefix_, "unlucky"));
  lead(*store);
  for (int i = 0; i < 10; ++i) {
    proxy.lose_an_answer();
    put(*store, "a", std::to_string(i));
    put(*store, "b", std::to_string(i));
  }
  EXPECT_GE(proxy.lost(), 8u);
  EXPECT_EQ(records_of(*store), (Records{{"a", "9"}, {"b", "9"}}));
}

// A request that was held up must not undo what came after it.
TEST_F(EtcdStoreTest, TakesNoNoticeOfALateTransaction) {
  const auto store = make(shared("first"));
  lead(*store);
  const auto etcd = gateway();
  const std::string leader_key = prefix_ + "leader", commit_key = prefix_ + "commit";
  EtcdTransaction late;
  late.conditions.push_back({leader_key, (*etcd->read(leader_key))->created, std::nullopt});
  late.conditions.push_back({commit_key, std::nullopt, (*etcd->read(commit_key))->value});
  late.changes.push_back({prefix_ + "records/a", "late", 0, ""});
  put(*store, "a", "1");
  const auto outcome = etcd->run(late);
  ASSERT_TRUE(outcome);
  EXPECT_FALSE(outcome->done);
  EXPECT_EQ(records_of(*store), (Records{{"a", "1"}}));
}

TEST_F(EtcdStoreTest, RefusesANewerSchemaAndHalfARestore) {
  {
    const auto store = make(shared("first"));
    lead(*store);
    put(*store, "a", "1");
  }
  EtcdTransaction newer;
  newer.changes.push_back({prefix_ + "schema", "7", 0, ""});
  ASSERT_TRUE(gateway()->run(newer));
  const auto store = make(shared("second"));
  Result<> refused = store->lead();
  ASSERT_FALSE(refused);
  EXPECT_TRUE(has(refused.error().message(), "their schema is 7")) << refused.error().message();
  EtcdTransaction interrupted;
  interrupted.changes.push_back({prefix_ + "restoring", "/backup.db", 0, ""});
  ASSERT_TRUE(gateway()->run(interrupted));
  refused = store->lead();
  ASSERT_FALSE(refused);
  EXPECT_TRUE(has(refused.error().message(), "a restore of /backup.db was interrupted")) << refused.error().message();
}

TEST_F(EtcdStoreTest, ComesBackFromABackup) {
  const tests::TestFolder folder;
  const std::string backup = folder / "backup.db";
  Records records{{"large", std::string(65536, 'x')}, {"bytes", std::string("\0\xff", 2)}};
  for (int i = 0; i < 1000; ++i) records["slice/" + std::to_string(10000 + i)] = std::to_string(i);
  std::vector<StateChange> changes;
  for (const auto& [key, value] : records) changes.push_back({key, value});
  ASSERT_TRUE(write_backup(changes, backup));

  {
    const auto store = make(shared("leader"));
    lead(*store);
    put(*store, "other", "1");
    const auto busy = restore_etcd(shared(""), backup, as_it_was);
    ASSERT_FALSE(busy);
    EXPECT_TRUE(has(busy.error().message(), "a controller leads (leader)")) << busy.error().message();
    EXPECT_EQ(records_of(*store), (Records{{"other", "1"}}));
  }
  const auto restored = restore_etcd(shared(""), backup, as_it_was);
  ASSERT_TRUE(restored) << restored.error().message();
  EXPECT_EQ(*restored, records.size());
  const auto store = make(shared("next"));
  lead(*store);
  EXPECT_EQ(records_of(*store), records);
  Records replaced;
  for (const auto& each : std::filesystem::directory_iterator(folder.path())) {
    if (!has(each.path().string(), "backup.db.replaced.")) continue;
    EXPECT_TRUE(read_backup(each.path().string(), [&](auto key, auto value) { replaced.emplace(key, value); }));
  }
  EXPECT_EQ(replaced, (Records{{"other", "1"}}));
}

TEST_F(EtcdStoreTest, SaysWhyItCannotWork) {
  auto options = shared("nobody");
  options.endpoints.urls = {"http://127.0.0.1:" + std::to_string(1)};
  const auto store = make(options);
  const Result<> refused = store->lead();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, std::errc::host_unreachable);
  EXPECT_TRUE(has(refused.error().message(), "127.0.0.1:1")) << refused.error().message();
  options.endpoints.urls = {};
  EXPECT_FALSE(make_etcd_store(options));
  options.endpoints.urls = {"https://127.0.0.1:2379"};
  EXPECT_FALSE(make_etcd_store(options)) << "https, and no certificates are given";
}

TEST_F(EtcdStoreTest, LeadsNoMoreWhenEtcdIsSilent) {
  EtcdCluster etcd;
  ASSERT_EQ(etcd.trouble(), "");
  const auto store = make(options_for(etcd.urls(), "/", "first"));
  lead(*store);
  put(*store, "a", "1");
  etcd.signal(0, SIGSTOP);
  EXPECT_TRUE(await([&] { return store->lost(); }));
  EXPECT_FALSE(store->commit(std::vector<StateChange>{{"a", "2"}}));
  etcd.signal(0, SIGCONT);
  lead(*store);
  EXPECT_EQ(records_of(*store), (Records{{"a", "1"}}));
  put(*store, "a", "3");
}

// Does it as a controller would that begins anew whenever its leadership ends, until it is done.
::testing::AssertionResult done_while_leading(StateStore& store, const std::function<Result<>()>& work) {
  std::string trouble;
  const auto attempt = [&] {
    Result<> done = store.lost() ? store.lead() : Result<>();
    if (done) done = work();
    if (!done) trouble = done.error().message();
    return done.has_value();
  };
  return await(attempt) ? ::testing::AssertionSuccess() : ::testing::AssertionFailure() << trouble;
}

TEST_F(EtcdStoreTest, OutlivesMembersOneAtATime) {
  EtcdCluster etcd(3);
  ASSERT_EQ(etcd.trouble(), "");
  const auto store = make(options_for(etcd.urls(), "/", "first"));
  lead(*store);
  int value = 0;
  // Leadership may end while the members elect, also when one comes back; nothing that was acknowledged may.
  for (int round = 0; round < 3; ++round) {
    const unsigned victim = round == 1 ? (etcd.leading_member() + 1) % 3 : etcd.leading_member();
    etcd.kill(victim);
    for (int i = 0; i < 20; ++i) {
      ++value;
      ASSERT_TRUE(done_while_leading(*store,
                                     [&] {
                                       return store->commit(std::vector<StateChange>{{"a", std::to_string(value)}});
                                     }))
          << "round " << round << ", change " << value << ", without member " << victim << "\n"
          << etcd.said();
    }
    etcd.restart(victim);
    Records records;
    ASSERT_TRUE(done_while_leading(*store, [&] {
      records.clear();
      return store->load([&](auto key, auto found) { records.emplace(key, found); });
    })) << etcd.said();
    EXPECT_EQ(records, (Records{{"a", std::to_string(value)}}));
  }
}

TEST_F(EtcdStoreTest, PassesLeadershipOnWhenTheLeaderIsKilled) {
  const std::vector<std::string> urls = shared_member().urls();
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(300);
    const auto store = make(options_for(urls, prefix_, "child"));
    for (int i = 0; store->lead(); ++i) {
      while (store->commit(std::vector<StateChange>{{"child", std::to_string(++i)}})) continue;
    }
    ::_exit(0);
  }
  const auto etcd = gateway();
  EXPECT_TRUE(await([&] {
    const auto found = etcd->read(prefix_ + "records/child");
    return found && found->has_value();
  }));
  const auto next = make(shared("next"));
  Result<> led;
  std::thread waiting([&] { led = next->lead(); });
  EXPECT_TRUE(await([&] { return next->leader() == "child"; }));
  ::kill(child, SIGKILL);
  const auto killed = std::chrono::steady_clock::now();
  ::waitpid(child, nullptr, 0);
  waiting.join();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - killed;
  ASSERT_TRUE(led) << led.error().message();
  std::cout << "the next one leads after " << took.count() << " s; the lease is " << kLease.count() << " s\n";
  EXPECT_TRUE(records_of(*next).contains("child"));
  put(*next, "next", "1");
}

TEST(Base64, ReadsWhatItWrote) {
  for (std::size_t size = 0; size < 20; ++size) {
    std::string bytes;
    for (std::size_t i = 0; i < size; ++i) bytes += static_cast<char>(250 + i);
    EXPECT_EQ(from_base64(base64_of(bytes)), bytes);
  }
  EXPECT_EQ(base64_of("any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
  for (const char* wrong : {"YQ", "YQ=", "Y Q==", "YW5\n", "Y?==", "====a"}) EXPECT_FALSE(from_base64(wrong)) << wrong;
}

}  // namespace
}  // namespace tidepool::pool::controller
