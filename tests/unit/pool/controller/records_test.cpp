#include "pool/controller/core/records.h"

#include <gtest/gtest.h>

#include "pool/controller/core/core.h"
#include "pool/controller/core/spread.h"

namespace tidepool::pool::controller {
namespace {

Context at(int second) {
  return {MonoTime{std::chrono::hours(1) + std::chrono::seconds(second)}, 0, "test"};
}

SliceRecord some_slice() {
  SliceRecord record;
  record.id = 0xa1;
  record.holder = {1, 2, 3};
  record.phase = SlicePhase::kHeld;
  record.epoch = 300;
  record.replicas = {{7, 2, 1, ReplicaPhase::kInForce}, {70000, 1, 300, ReplicaPhase::kFreeing}};
  record.request = "r-1";
  return record;
}

TEST(Records, ComeBackAsTheyWere) {
  const SliceRecord slice = some_slice();
  EXPECT_EQ(key_of(slice), "slice/00000000000000a1");
  const auto again = decode<SliceRecord>(key_of(slice), encode(slice));
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(encode(*again), encode(slice));
  EXPECT_EQ(again->replicas[1].server, 70000u);
  EXPECT_EQ(again->request, "r-1");

  VmRecord vm;
  vm.host = "h";
  vm.name = "a b/\xc3\xa9%";
  vm.bounds = {1, kNoLimit, 0.25};
  vm.lives = {{{9}, 4, true}};
  EXPECT_EQ(key_of(vm), "vm/h/a%20b%2f%c3%a9%25");
  const auto vm_again = decode<VmRecord>(key_of(vm), encode(vm));
  ASSERT_TRUE(vm_again);
  EXPECT_EQ(vm_again->bounds, vm.bounds);
  EXPECT_TRUE(vm_again->lives.at(0).ended);
}

TEST(Records, OfAnotherVersionOrDamagedAreRefused) {
  const SliceRecord slice = some_slice();
  std::string value = encode(slice);
  value[0] = 9;
  auto read = decode<SliceRecord>(key_of(slice), value);
  ASSERT_FALSE(read);
  EXPECT_NE(read.error().message().find("version"), std::string::npos);
  EXPECT_FALSE(decode<SliceRecord>("slice/00000000000000a2", encode(slice)));
  // Cut or changed anywhere: never more than a refusal.
  Random random(1);
  value = encode(slice);
  for (std::size_t size = 0; size < value.size(); ++size)
    EXPECT_FALSE(decode<SliceRecord>(key_of(slice), value.substr(0, size)));
  for (int i = 0; i < 20'000; ++i) {
    std::string changed = value;
    changed[random.below(changed.size())] = static_cast<char>(random.next());
    (void)decode<SliceRecord>(key_of(slice), changed).has_value();
    (void)decode<VmRecord>("vm/a/b", changed).has_value();
    (void)decode<ServerRecord>("server/a", changed).has_value();
  }
}

TEST(Records, ThatContradictEachOtherAreRefused) {
  const auto load = [](const std::vector<std::pair<std::string, std::string>>& records) {
    Core core(CoreConfig{});
    for (const auto& [key, value] : records)
      if (const auto taken = core.take(key, value); !taken) return taken.error().message();
    const auto begun = core.begin(at(0));
    return begun ? std::string{} : begun.error().message();
  };
  const ClusterRecord cluster{"c", std::uint64_t{64} << 20};
  const SliceRecord slice = some_slice();
  EXPECT_EQ(load({}), "");
  EXPECT_EQ(load({{"meta/cluster", encode(cluster)}}), "");
  EXPECT_NE(load({{"meta/cluster", encode(cluster)}, {key_of(slice), encode(slice)}}).find("holder"),
            std::string::npos);
  EXPECT_NE(load({{key_of(slice), encode(slice)}}).find("meta/cluster"), std::string::npos);
  EXPECT_NE(load({{"lease/1", "x"}}).find("knows no such kind"), std::string::npos);
}

TEST(Records, WithSlicesKeepTheirSize) {
  CoreConfig config;
  Core core(config);
  ASSERT_TRUE(core.begin(at(0)));
  const auto records = core.records();
  config.slice_bytes = Bytes{std::uint64_t{2} << 20};
  Core other(config);
  for (const StateChange& record : records) ASSERT_TRUE(other.take(record.key, *record.value));
  const auto begun = other.begin(at(1));  // without slices, another size is as good
  ASSERT_TRUE(begun);
  EXPECT_FALSE(begun->empty());
  config.slice_bytes = Bytes{3000};
  EXPECT_FALSE(Core(config).begin(at(0)));
}

}  // namespace
}  // namespace tidepool::pool::controller
