// Goal: an operator can set a controller up, change it, end it and restore its records, is told what is wrong, and
// loses nothing that was acknowledged, however it ends.
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "tests/integration/controller/controller_process.h"
#include "tests/support/small_tmpfs.h"

namespace tidepool::pool::controller {
namespace {

using namespace testing;
using tests::await;
using tests::run_program;

SetTenant tenant(const std::string& name) {
  SetTenant request;
  request.tenant = name;
  request.bounds.weight = 3;
  return request;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

bool has_tenant(const ControllerProcess& controller, const std::string& name) {
  const Answer answer = controller.ask_until_answered(GetStatus{});
  const auto* const status = std::get_if<StatusAnswer>(&answer);
  if (!status) return false;
  for (const TenantView& each : status->tenants)
    if (each.name == name) return true;
  return false;
}

TEST(ControllerProgram, KeepsWhatItAcknowledgedWhenItIsKilled) {
  ControllerProcess controller;
  ASSERT_TRUE(controller.start());
  for (int i = 0; i < 20; ++i) {
    const std::string name = "tenant-" + std::to_string(i);
    const Answer answer = controller.ask_until_answered(tenant(name));
    EXPECT_TRUE(std::holds_alternative<PlanAnswer>(answer));
    if (i % 5 != 4) continue;
    controller.kill_hard();
    ASSERT_TRUE(controller.start());
    EXPECT_TRUE(has_tenant(controller, name));
  }
  EXPECT_TRUE(has(tests::read_file(controller.file("audit.jsonl")), "tenant-19"));
  EXPECT_EQ(controller.metric("tidepool_controller_leader"), 1);
  EXPECT_GE(controller.metric("tidepool_controller_requests_total{type=\"get_status\"}"), 1);
}

TEST(ControllerProgram, ResignsWhenItIsTold) {
  ControllerProcess first;
  ASSERT_TRUE(first.start());
  ControllerProcess second({{"state.file", "\"" + first.state_file() + "\""}}, "second");
  ASSERT_TRUE(second.start());
  EXPECT_TRUE(has(second.log(), "following unix:")) << second.log();
  first.ask_until_answered(tenant("one"));

  const http::Answer refused = second.raw("GET", "/v1/status");
  EXPECT_EQ(refused.status, 503u);
  EXPECT_EQ(refused.leader, first.endpoint());
  EXPECT_EQ(second.metric("tidepool_controller_leader"), 0);
  EXPECT_FALSE(has_tenant(first, "two"));

  first.signal(SIGTERM);
  EXPECT_EQ(first.await_end(), 0);
  EXPECT_TRUE(has_tenant(second, "one"));
}

TEST(ControllerProgram, SaysWhatIsWrongWithItsConfiguration) {
  ControllerProcess controller;
  EXPECT_EQ(run_program({"tidepool-controller", "--check-config", controller.config()}).code, 0);
  const auto problem_of = [&](const ControllerSettings& settings) {
    controller.write_settings(settings);
    const auto checked = run_program({"tidepool-controller", "--check-config", controller.config()});
    EXPECT_EQ(checked.code, 1);
    EXPECT_EQ(run_program({"tidepool-controller", "--config", controller.config()}).code, 1);
    return checked.err;
  };
  const std::string unknown = problem_of({{"slices.siez", "\"64MiB\""}});
  EXPECT_TRUE(has(unknown, "unknown key 'slices.siez'; did you mean 'slices.size'?")) << unknown;
  EXPECT_TRUE(has(unknown, "controller.toml:")) << unknown;
  EXPECT_TRUE(has(problem_of({{"slices.size", "\"3MiB\""}}), "a power of two from 2MiB to 1GiB"));
  EXPECT_TRUE(has(problem_of({{"state.store", "\"etcd\""}}), "etcd.endpoints is missing"));
  EXPECT_TRUE(has(problem_of({{"api.listen", "\"127.0.0.1:9843\""}}), "needs api.certificate"));
  EXPECT_TRUE(
      has(problem_of({{"api.certificate", "\"/c\""}, {"api.key", "\"/k\""}, {"api.authority", "\"/a\""}}), "/c"));
  for (const tests::Words& words :
       {tests::Words{"tidepool-controller", "--nonsense"}, tests::Words{"tidepool-controller", "file"},
        tests::Words{"tidepool-controller", "--restore"}})
    EXPECT_EQ(run_program(words).code, 2);
  EXPECT_EQ(run_program({"tidepool-controller", "--version"}).code, 0);
  EXPECT_EQ(run_program({"tidepool-controller", "--config", "/nonexistent/controller.toml"}).code, 1);
}

TEST(ControllerProgram, RefusesADamagedDatabaseAndTakesABackupInstead) {
  ControllerProcess controller;
  ASSERT_TRUE(controller.start());
  controller.ask_until_answered(tenant("one"));
  const std::string backup = controller.file("backup.db");
  const http::Answer written = controller.raw("POST", "/v1/backup", R"({"file": ")" + backup + "\"}");
  EXPECT_EQ(written.status, 200u) << written.body;
  ASSERT_TRUE(std::filesystem::exists(backup)) << written.body;
  controller.ask_until_answered(tenant("two"));

  const tests::Words restore{"tidepool-controller", "--config", controller.config(), "--restore", backup};
  const auto in_use = run_program(restore);
  EXPECT_EQ(in_use.code, 1);
  EXPECT_TRUE(has(in_use.err, "a controller leads with it (unix:")) << in_use.all();

  controller.kill_hard();
  // It would be made good from its log otherwise.
  std::filesystem::remove(controller.state_file() + "-wal");
  std::ofstream(controller.state_file(), std::ios::trunc) << std::string(8192, 'x');
  const auto refused = run_program({"tidepool-controller", "--config", controller.config()});
  EXPECT_EQ(refused.code, 1);
  EXPECT_TRUE(has(refused.err, controller.state_file()) && has(refused.err, "tidectl pool restore")) << refused.all();

  const auto restored = run_program(restore);
  EXPECT_EQ(restored.code, 0) << restored.all();
  EXPECT_TRUE(has(restored.out, "records from " + backup)) << restored.all();
  ASSERT_TRUE(controller.start());
  EXPECT_TRUE(has_tenant(controller, "one"));
  EXPECT_FALSE(has_tenant(controller, "two"));
}

TEST(ControllerProgram, GoesOnWhenAFullDiskHasRoomAgain) {
  const tests::SmallTmpfs disk("size=2m");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs needs root";
  ControllerProcess controller({{"state.file", "\"" + (disk / "state.db") + "\""}});
  ASSERT_TRUE(controller.start());
  controller.ask_until_answered(tenant("before"));
  const std::string ballast = disk / "ballast";
  std::ofstream(ballast) << std::string(4 << 20, 'x');
  std::string why;
  std::set<std::string> acknowledged;
  for (int i = 0; i < 10'000 && why.empty(); ++i) {
    const std::string name = "tenant-" + std::to_string(i);
    const Result<Answer> answer = controller.ask(tenant(name));
    if (answer) acknowledged.insert(name);
    if (!answer) why = answer.error().message();
  }
  EXPECT_TRUE(has(why, "state.db") && has(why, "make room")) << why;
  // What is there can be read meanwhile.
  EXPECT_TRUE(has_tenant(controller, "before"));
  EXPECT_GE(controller.metric("tidepool_controller_commit_failures_total"), 1);
  std::filesystem::remove(ballast);
  controller.ask_until_answered(tenant("after"));
  acknowledged.insert("after");
  controller.kill_hard();
  ASSERT_TRUE(controller.start());
  for (const std::string& each : acknowledged) EXPECT_TRUE(has_tenant(controller, each)) << each;
}

TEST(ControllerProgram, TakesOverWhatMayChange) {
  ControllerProcess controller;
  ASSERT_TRUE(controller.start());
  controller.ask_until_answered(tenant("one"));
  controller.write_settings({{"slices.size", "\"2MiB\""}, {"api.workers", "3"}});
  controller.signal(SIGHUP);
  const auto slice_bytes = [&] {
    const Answer answer = controller.ask_until_answered(GetStatus{});
    return std::get<StatusAnswer>(answer).slice_bytes;
  };
  EXPECT_TRUE(await([&] { return slice_bytes() == Bytes{2 << 20}; }));
  EXPECT_TRUE(has(controller.log(), "takes effect after a restart\" key=api.workers"));
  controller.write_settings({{"slices.size", "\"nonsense\""}});
  controller.signal(SIGHUP);
  EXPECT_TRUE(await([&] { return has(controller.log(), "configuration not taken over"); }));
  EXPECT_TRUE(has_tenant(controller, "one"));
}

}  // namespace
}  // namespace tidepool::pool::controller
