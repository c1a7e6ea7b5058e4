// Which rule speaks of a VM, and what it is held to then.
#include "daemon/agent/vm_rules.h"

#include <gtest/gtest.h>

namespace tidepool::daemon {
namespace {

Rule rule(const RuleMatch& match, Mode mode = Mode::kActive) {
  Rule result;
  result.match = match;
  result.mode = mode;
  return result;
}

const RuleSubject kWeb{"web-3", "/usr/bin/qemu-system-x86_64", {"/", "/machine.slice/web-3.scope"}};

TEST(FirstRule, NeedsEveryPatternThatIsGiven) {
  const std::vector<std::pair<RuleMatch, bool>> cases{
      {{.domain = "web-*", .exe = "", .cgroup = ""}, true},
      {{.domain = "db-*", .exe = "", .cgroup = ""}, false},
      {{.domain = "", .exe = "/usr/bin/qemu-*", .cgroup = ""}, true},
      {{.domain = "web-*", .exe = "/usr/bin/redis-*", .cgroup = ""}, false},
      {{.domain = "", .exe = "", .cgroup = "/machine.slice/*"}, true},
      {{.domain = "", .exe = "", .cgroup = "/machine.slice/web-[0-9].scope"}, true},
      {{.domain = "", .exe = "", .cgroup = "/system.slice/*"}, false},
      {{.domain = "db-*", .exe = "", .cgroup = "/machine.slice/*"}, false},
      {{.domain = "web-3", .exe = "/usr/bin/qemu-*", .cgroup = "/machine.slice/*"}, true},
  };
  for (const auto& [match, expected] : cases) {
    const std::vector<Rule> rules{rule(match)};
    EXPECT_EQ(first_rule(rules, kWeb) != nullptr, expected) << match.domain << " " << match.exe << " " << match.cgroup;
  }
}

TEST(FirstRule, IsTheFirstInTheFilesOrder) {
  const std::vector<Rule> rules{rule({"db-*", "", ""}), rule({"", "", "/machine.slice/*"}), rule({"web-3", "", ""})};
  EXPECT_EQ(first_rule(rules, kWeb), &rules[1]);
}

TEST(WithoutDeleted, TakesTheKernelsMarkAndNothingElse) {
  EXPECT_EQ(without_deleted("/usr/bin/qemu (deleted)"), "/usr/bin/qemu");
  EXPECT_EQ(without_deleted("/usr/bin/qemu"), "/usr/bin/qemu");
}

TEST(SettingsFor, TakesDefaultsThenTheRuleThenWhatWasAskedFor) {
  Config config;
  config.defaults.guarantee = Amount::part(0.5);
  config.defaults.limit = Amount::part(0.75);
  const Bytes promised{8ull << 30};
  VmPolicy policy = settings_for(config, nullptr, promised, {});
  EXPECT_EQ(policy.mode, Mode::kObserve);
  EXPECT_EQ(policy.guarantee, Bytes{4ull << 30});
  EXPECT_EQ(policy.limit, Bytes{6ull << 30});
  Rule wide = rule({"web-*", "", ""});
  wide.guarantee = Amount::of(Bytes{1ull << 30});
  wide.stall_budget = 0.02;
  policy = settings_for(config, &wide, promised, {});
  EXPECT_EQ(policy.mode, Mode::kActive);
  EXPECT_EQ(policy.guarantee, Bytes{1ull << 30});
  EXPECT_EQ(policy.limit, Bytes{6ull << 30}) << "what the rule leaves open comes from the defaults";
  EXPECT_EQ(policy.stall_budget, 0.02);
  VmSettings asked;
  asked.mode = Mode::kObserve;
  asked.no_limit = true;
  policy = settings_for(config, &wide, promised, asked);
  EXPECT_EQ(policy.mode, Mode::kObserve);
  EXPECT_FALSE(policy.limit);
  EXPECT_EQ(policy.guarantee, Bytes{1ull << 30});
}

}  // namespace
}  // namespace tidepool::daemon
