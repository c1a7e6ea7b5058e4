// Goal: records that may lack something free nothing that they do not know.
#include "pool/controller/core/records.h"
#include "tests/unit/pool/controller/core_rig.h"

namespace tidepool::pool::controller {
namespace {

using std::chrono::seconds;

class CoreRestore : public ::testing::Test, public CoreRig {
 protected:
  void SetUp() override {
    add_server("a", "rack-1", 10);
    add_server("b", "rack-2", 10);
    add_server("c", "rack-3", 10);
    add_vm(1, "web", 4);
    live(seconds(1));
  }
  NextRecord next() {
    const auto record = decode<NextRecord>("meta/next", store.at("meta/next"));
    return record ? *record : NextRecord{};
  }
  void restore_to(const std::map<std::string, std::string>& backup) {
    store = backup;
    store["meta/next"] = encode(raised_for_restore(next()));
    reload();
  }
  // What the server is told to free when it registers with these slices.
  std::size_t freed_of(const std::string& name, const std::string& domain, const std::vector<ServerSlice>& slices) {
    RegisterServer request = registration(name, domain, 10);
    request.slices = slices;
    return ask<ServerAnswer>(request).free.size();
  }
};

ServerSlice there(SliceId id, std::uint64_t epoch = 1) {
  return {id, LeaseEpoch{epoch}};
}

TEST_F(CoreRestore, WhatNobodyHoldsIsFreed) {
  const std::vector<SliceId> ids = lease(1, 2);
  ask<ReleaseAnswer>(release(1, ids));
  live(seconds(2));
  EXPECT_EQ(status().slices, 0u);
  EXPECT_EQ(freed_of("a", "rack-1", {there(ids[0]), there(ids[1])}), 2u) << "freed, and the word of it came late";
}

TEST_F(CoreRestore, SlicesOfAfterTheBackupStay) {
  const std::vector<SliceId> before = lease(1, 1);
  const std::map<std::string, std::string> backup = store;
  const std::vector<SliceId> after = lease(1, 2);
  restore_to(backup);
  EXPECT_EQ(status().slices, 1u);
  EXPECT_EQ(freed_of("a", "rack-1", {there(after[0]), there(after[1])}), 0u);
  live(seconds(3));
  EXPECT_EQ(freed_of("a", "rack-1", {there(after[0]), there(after[1])}), 0u) << "nor later";
  // What is given from now on is known.
  const std::vector<SliceId> later = lease(1, 1);
  EXPECT_GT(later[0], after[1]);
  ask<ReleaseAnswer>(release(1, later));
  live(seconds(2));
  EXPECT_EQ(freed_of("b", "rack-2", {there(later[0])}), 1u);
}

TEST_F(CoreRestore, CopiesOfAfterTheBackupStay) {
  const std::vector<SliceId> ids = lease(1, 1);
  restore_to(store);
  for (const char* name : {"a", "b", "c"})
    EXPECT_EQ(freed_of(name,
                       name == std::string("a")   ? "rack-1"
                       : name == std::string("b") ? "rack-2"
                                                  : "rack-3",
                       {there(ids[0], 7)}),
              0u);
}

TEST_F(CoreRestore, SecondRestoreKeepsWhatTheFirstKept) {
  const std::map<std::string, std::string> backup = store;
  const std::vector<SliceId> first = lease(1, 1);
  restore_to(backup);
  live(seconds(1));
  const std::map<std::string, std::string> later = store;
  const std::vector<SliceId> second = lease(1, 1);
  restore_to(later);
  EXPECT_EQ(freed_of("a", "rack-1", {there(first[0]), there(second[0])}), 0u);
}

TEST(CoreNewCluster, FreesNothingOfAnotherOne) {
  CoreConfig config = CoreRig::small();
  CoreRig old(config);
  old.add_server("a", "rack-1", 10);
  old.add_server("b", "rack-2", 10);
  old.add_vm(1, "web", 4);
  old.live(seconds(1));
  const std::vector<SliceId> ids = old.lease(1, 2);
  config.cluster = "another";
  CoreRig fresh(config);
  for (const char* name : {"a", "b"}) {
    RegisterServer request = fresh.registration(name, name, 10);
    request.slices = {there(ids[0]), there(ids[1]), there(SliceId{1})};
    EXPECT_TRUE(fresh.ask<ServerAnswer>(request).free.empty()) << name;
    EXPECT_TRUE(fresh.heartbeat(name).free.empty()) << name;
  }
}

}  // namespace
}  // namespace tidepool::pool::controller
