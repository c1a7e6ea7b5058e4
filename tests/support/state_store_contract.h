// What every store of the controller's records must do, whatever it keeps them in.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "pool/controller/state_store.h"
#include "tests/support/program.h"

namespace tidepool::pool::controller::testing {

// Several stores on the same records, all of them empty at the beginning.
class StoreMaker {
 public:
  virtual ~StoreMaker() = default;
  virtual std::unique_ptr<StateStore> make(const std::string& name) = 0;
};

using Records = std::map<std::string, std::string>;

inline Records records_of(StateStore& store) {
  Records records;
  std::string last;
  const Result<> loaded = store.load([&](std::string_view key, std::string_view value) {
    EXPECT_LT(last, key);
    last = key;
    records.emplace(key, value);
  });
  EXPECT_TRUE(loaded) << loaded.error().message();
  return records;
}

inline void put(StateStore& store, const std::string& key, const std::string& value) {
  const Result<> done = store.commit(std::vector<StateChange>{{key, value}});
  EXPECT_TRUE(done) << done.error().message();
}

class StateStoreContract : public ::testing::TestWithParam<std::shared_ptr<StoreMaker> (*)()> {
 protected:
  void SetUp() override {
    maker_ = GetParam()();
    if (!maker_) GTEST_SKIP() << "what the store needs is not installed";
    store_ = maker_->make("first");
    const Result<> leads = store_->lead();
    ASSERT_TRUE(leads) << leads.error().message();
  }
  std::shared_ptr<StoreMaker> maker_;
  std::unique_ptr<StateStore> store_;
};

TEST_P(StateStoreContract, KeepsWhatWasCommitted) {
  EXPECT_TRUE(records_of(*store_).empty());
  std::string bytes(65536, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7);
  ASSERT_TRUE(store_->commit(std::vector<StateChange>{
      {"slice/00000000000000a1", "one"}, {"meta", ""}, {"vm/~!%&'\"\\", bytes}, {"gone", "x"}}));
  ASSERT_TRUE(store_->commit(std::vector<StateChange>{{"gone", std::nullopt}, {"never", std::nullopt}}));
  const Records expected{{"slice/00000000000000a1", "one"}, {"meta", ""}, {"vm/~!%&'\"\\", bytes}};
  EXPECT_EQ(records_of(*store_), expected);
  store_.reset();
  store_ = maker_->make("second");
  ASSERT_TRUE(store_->lead());
  EXPECT_EQ(records_of(*store_), expected);
}

TEST_P(StateStoreContract, LetsTheLastChangeOfAKeyCount) {
  ASSERT_TRUE(store_->commit(
      std::vector<StateChange>{{"a", "1"}, {"a", std::nullopt}, {"b", "1"}, {"a", "2"}, {"b", std::nullopt}}));
  EXPECT_EQ(records_of(*store_), (Records{{"a", "2"}}));
  EXPECT_TRUE(store_->commit({}));
}

TEST_P(StateStoreContract, TakesAsManyChangesAsACallOfTheCoreMakes) {
  std::vector<StateChange> changes;
  for (int i = 0; i < 5000; ++i) changes.push_back({"k" + std::to_string(10000 + i), std::to_string(i)});
  for (std::size_t at = 0; at < changes.size(); at += store_->most_changes()) {
    const auto part = std::span(changes).subspan(at);
    const Result<> done = store_->commit(part.first(std::min(part.size(), store_->most_changes())));
    ASSERT_TRUE(done) << done.error().message();
  }
  EXPECT_EQ(records_of(*store_).size(), 5000u);
}

TEST_P(StateStoreContract, DoesNothingWithoutLeading) {
  put(*store_, "a", "1");
  store_->resign();
  EXPECT_TRUE(store_->lost());
  EXPECT_EQ(store_->commit(std::vector<StateChange>{{"a", "2"}}).error().code, std::errc::operation_not_permitted);
  EXPECT_EQ(store_->load([](auto, auto) {}).error().code, std::errc::operation_not_permitted);
  ASSERT_TRUE(store_->lead());
  EXPECT_FALSE(store_->lost());
  EXPECT_EQ(records_of(*store_), (Records{{"a", "1"}}));
}

TEST_P(StateStoreContract, HasOneLeader) {
  put(*store_, "a", "1");
  const std::unique_ptr<StateStore> other = maker_->make("other");
  EXPECT_TRUE(other->lost());
  Result<> led;
  std::thread waiting([&] { led = other->lead(); });
  EXPECT_TRUE(tests::await([&] { return other->leader() == "first"; })) << other->leader();
  put(*store_, "a", "2");
  EXPECT_TRUE(other->lost());
  store_->resign();
  waiting.join();
  ASSERT_TRUE(led) << led.error().message();
  EXPECT_EQ(other->leader(), "other");
  EXPECT_EQ(records_of(*other), (Records{{"a", "2"}}));
  EXPECT_FALSE(store_->commit(std::vector<StateChange>{{"a", "3"}}));
  EXPECT_EQ(records_of(*other), (Records{{"a", "2"}}));
}

TEST_P(StateStoreContract, StopsWaiting) {
  const std::unique_ptr<StateStore> other = maker_->make("other");
  Result<> led;
  std::thread waiting([&] { led = other->lead(); });
  EXPECT_TRUE(tests::await([&] { return other->leader() == "first"; }));
  other->stop();
  waiting.join();
  ASSERT_FALSE(led);
  EXPECT_EQ(led.error().code, std::errc::operation_canceled);
}

}  // namespace tidepool::pool::controller::testing
