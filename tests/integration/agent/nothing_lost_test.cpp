// Eight threads write and verify their memory while the agent holds the process to a tenth of it: everything moves out
// and back all the time, and not one byte may be wrong.
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json.hpp>
#include <optional>

#include "tests/integration/agent/whole_rig.h"
#include "tests/support/huge_pages.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;

struct Kind {
  const char* name;
  Words load;
  Settings settings;
  bool stops = false;    // SIGSTOP and SIGCONT at random
  bool direct = false;   // O_DIRECT on its memory
  bool hammers = false;  // few pages, by all threads: little moves, and that all the time
  bool hugetlb = false;  // the pool is a file of huge pages
};

void PrintTo(const Kind& kind, std::ostream* out) {
  *out << kind.name;
}

const Settings kMapped{{"pool.embedded.store", "\"mapped\""}};
const Settings kZstd{{"pool.embedded.codec", "\"zstd\""}};
// Room for a part of what should leave: the rest has to stay, and be right.
const Settings kSmallStore{{"pool.embedded.capacity", "\"6MiB\""}};
const Settings kSmallMapped{{"pool.embedded.store", "\"mapped\""}, {"pool.embedded.capacity", "\"6MiB\""}};
// Where, each test says.
const Settings kDisk{{"pool.embedded.store", "\"file\""}, {"pool.embedded.path", "\"\""}};
const Settings kHugetlb{
    {"pool.embedded.store", "\"mapped\""}, {"pool.embedded.capacity", "\"32MiB\""}, {"pool.embedded.path", "\"\""}};
// A device may hold a page for a while after it was protected.
const Settings kGrace{{"pager.grace", "\"200ms\""}};

class NothingLost : public testing::TestWithParam<Kind> {};

TEST_P(NothingLost, WhileEverythingMovesOutAndBack) {
  REQUIRE_AGENT();
  const Kind& kind = GetParam();
  TestFolder disk;
  std::optional<HugePages> huge;
  if (kind.hugetlb) huge.emplace(16);
  if (huge && !huge->missing().empty()) GTEST_SKIP() << "no huge pages here: " << huge->missing();
  Settings settings = kind.settings;
  if (settings.contains("pool.embedded.path"))
    settings["pool.embedded.path"] = "\"" + (huge ? *huge / "pool" : disk / "pool") + "\"";
  Whole whole(merciless(settings));
  ASSERT_TRUE(whole.start());
  Words words = load(kind.load);
  const std::string direct_file = whole.folder() / "direct";
  if (kind.direct) {
    // A file on a disk: tmpfs has no O_DIRECT.
    words.insert(words.end(), {"--odirect", direct_file});
  }
  Target target(words);
  ASSERT_TRUE(target.ready());
  const ProcessState before = settled_state(target.pid());
  const Bytes size{target.memory().size()};
  ASSERT_TRUE(
      whole.adopt(target.pid(), "load", target.memory(), kind.direct ? Words{"--force", "direct-io-slow"} : Words{}));
  // Policy would leave the few pages that all threads hammer at where they are, were there room for them.
  whole.limit("load", Bytes{kind.hammers ? kPageSize : size.value / 10});

  churn(target, kind.stops);
  // However slow the machine: something must have gone both ways. Pages that all threads write to all the time go when
  // all of them happen to be off the processors: since the beginning, then, and not just now.
  if (kind.hammers) {
    whole.await_moved_in_all("load", Bytes{1u << 20}, Bytes{64u << 10});
  } else {
    whole.await_moved("load", Bytes{1u << 20}, Bytes{1u << 20});
  }
  const std::uint64_t out = whole.figure("load", "demoted_bytes_total");
  const std::uint64_t home = whole.figure("load", "promoted_bytes_total");
  std::printf("out %.1f MiB, home %.1f MiB, faults %llu\n", static_cast<double>(out) / (1 << 20),
              static_cast<double>(home) / (1 << 20),
              static_cast<unsigned long long>(whole.figure("load", "faults_total")));
  if (huge) {
    const auto host = boost::json::parse(whole.expect({"host", "show", "-o", "json"}, 0));
    EXPECT_GE(host.at("overhead").at("pool_bytes").to_number<std::uint64_t>(), 32u << 20) << "all that is reserved";
  }
  if (whole.release("load")) expect_as_found(target.pid(), before);
  target.finish();
  std::printf("%s", target.output().c_str());
  EXPECT_EQ(whole.stop(), 0);
  EXPECT_TRUE(whole.held().empty()) << testing::PrintToString(whole.held());
}

INSTANTIATE_TEST_SUITE_P(
    Memory, NothingLost,
    testing::Values(
        Kind{"Private", {"--memory", "private", "--huge", "off"}, {}},
        Kind{"PrivateHuge", {"--memory", "private", "--huge", "on"}, {}},
        Kind{"PrivateDiscarding", {"--memory", "private", "--discard"}, kZstd},
        Kind{"PrivateHugeDiscarding", {"--memory", "private", "--huge", "on", "--discard"}, kMapped},
        Kind{"PrivateStopped", {"--memory", "private", "--discard"}, {}, true},
        Kind{"PrivateDirect", {"--memory", "private"}, kGrace, false, true},
        Kind{"PrivateHammer", {"--memory", "private", "--pattern", "hammer"}, kMapped, false, false, true},
        Kind{"PrivateStoreFull", {"--memory", "private", "--discard"}, kSmallStore},
        Kind{"PrivateOnHugePages", {"--memory", "private"}, kHugetlb, false, false, false, true},
        Kind{"PrivateOnDisk", {"--memory", "private", "--discard"}, kDisk},
        Kind{"Memfd", {"--memory", "shared", "--huge", "off"}, {}},
        Kind{"MemfdHuge", {"--memory", "shared", "--huge", "on"}, kMapped},
        Kind{"MemfdHugeZstd", {"--memory", "shared", "--huge", "on"}, kZstd},
        Kind{"TmpfsStopped", {"--memory", "tmpfs"}, {}, true},
        Kind{"TmpfsDirect", {"--memory", "tmpfs"}, kGrace, false, true},
        Kind{"SharedAnonymous", {"--memory", "shared-anon"}, kMapped},
        Kind{"SharedAnonymousHammer", {"--memory", "shared-anon", "--pattern", "hammer"}, {}, false, false, true},
        Kind{"MemfdStoreFull", {"--memory", "shared"}, kSmallMapped},
        Kind{"MemfdOnDisk", {"--memory", "shared"}, kDisk},
        Kind{"MemfdDiscarding", {"--memory", "shared", "--discard"}, {}},
        Kind{"MemfdHugeDiscarding", {"--memory", "shared", "--huge", "on", "--discard"}, kZstd},
        Kind{"TmpfsStoppedDiscarding", {"--memory", "tmpfs", "--discard"}, {}, true},
        Kind{"SharedAnonymousDiscarding", {"--memory", "shared-anon", "--discard"}, kMapped}),
    [](const auto& kind) { return kind.param.name; });

// Adopted and released again and again while it works: each time it is as it was found.
class AdoptedAgainAndAgain : public testing::TestWithParam<const char*> {};

TEST_P(AdoptedAgainAndAgain, LosesNothingAndKeepsNothing) {
  REQUIRE_AGENT();
  Whole whole;
  ASSERT_TRUE(whole.start());
  Words words{"--memory", GetParam(), "--threads", "4"};
  if (std::string_view(GetParam()) == "private") words.emplace_back("--discard");
  Target target(load(words, Bytes{32ull << 20}));
  ASSERT_TRUE(target.ready());
  const ProcessState before = settled_state(target.pid());
  const std::size_t agents_before = open_descriptors(whole.pid());
  const Bytes size{target.memory().size()};
  const int rounds = is_stress_run() ? 50 : 5;
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    ASSERT_TRUE(whole.adopt(target.pid(), "load", target.memory()));
    whole.limit("load", Bytes{size.value / 10});
    whole.await_moved("load", Bytes{size.value / 8}, Bytes{size.value / 16});
    ASSERT_TRUE(whole.release("load"));
    expect_as_found(target.pid(), before);
    EXPECT_TRUE(await([&] { return open_descriptors(whole.pid()) <= agents_before; }))
        << open_descriptors(whole.pid()) << " descriptors, " << agents_before << " before";
  }
  target.finish();
  EXPECT_EQ(whole.held().size(), 2u) << "the store's only: " << testing::PrintToString(whole.held());
  EXPECT_EQ(whole.stop(), 0);
}

INSTANTIATE_TEST_SUITE_P(Memory, AdoptedAgainAndAgain, testing::Values("private", "shared"),
                         [](const auto& kind) { return std::string(kind.param); });

}  // namespace
}  // namespace tidepool::tests
