// tidectl and the pool's controller: the real core behind the real API, with servers and an agent of the test's making.
#include <sys/stat.h>
#include <sys/wait.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "pool/controller/api/routes.h"
#include "pool/controller/core/core.h"
#include "service/http/pki.h"
#include "tests/integration/control/tidectl_case.h"

namespace tidepool::daemon::testing {
namespace {

namespace json = boost::json;
namespace control = pool::controller;
using namespace std::chrono_literals;

constexpr Bytes kSlice{std::uint64_t{64} << 20};

control::CoreConfig core_config() {
  control::CoreConfig config;
  config.cluster = "test-pool";
  config.slice_bytes = kSlice;
  return config;
}

// The core on a thread of whoever asks, with nothing stored.
class CoreService final : public control::ControllerService {
 public:
  CoreService() : core_(core_config()) { EXPECT_TRUE(core_.begin(context("test"))); }

  Result<control::Answer> call(const control::Request& request, const std::string& actor) override {
    const std::lock_guard lock(mutex_);
    if (!leads) return failure(std::errc::operation_not_permitted, "ask", "a follower");
    control::Answer answer = core_.apply(request, context(actor)).answer;
    core_.distribute(context(actor));
    core_.tick(context(actor));
    return answer;
  }
  std::string leader() override { return leading_endpoint; }
  Result<control::BackupAnswer> backup(const std::string& file) override {
    if (std::filesystem::exists(file)) return failure(std::errc::file_exists, "create", file);
    std::ofstream(file) << "records";
    return control::BackupAnswer{file, 7, Bytes{4096}};
  }

  template <class Wanted>
  Wanted ask(const control::Request& request) {
    Result<control::Answer> answer = call(request, "test");
    EXPECT_TRUE(answer);
    if (const auto* refusal = std::get_if<control::Refusal>(&*answer)) ADD_FAILURE() << refusal->message;
    return std::get<Wanted>(*answer);
  }

  std::atomic<bool> leads{true};
  std::string leading_endpoint;

 private:
  static control::Context context(const std::string& actor) {
    return {.now = SystemClock().now(), .unix_ms = 1'700'000'000'000, .actor = actor};
  }

  std::mutex mutex_;
  control::Core core_;
};

class TidectlPool : public Tidectl {
 protected:
  TidectlPool() {
    http::ServerOptions options;
    options.who = "controller";
    options.socket = folder_.path() + "/controller.sock";
    options.audit_log = folder_.path() + "/controller-audit.jsonl";
    const std::string pki = folder_.path() + "/pki";
    EXPECT_TRUE(http::make_authority(pki, 1h));
    const auto own = http::issue(pki, {"controller-1", "controller", {"127.0.0.1"}}, 1h);
    EXPECT_TRUE(own);
    options.address = "127.0.0.1:0";
    options.tls = own->files;
    auto server = http::Server::start(options, handler_);
    EXPECT_TRUE(server) << server.error().message();
    controller_ = std::move(*server);
    endpoint_ = "unix:" + options.socket;
    for (int i = 1; i <= 2; ++i) {
      control::RegisterServer server_i;
      server_i.name = "memd-" + std::to_string(i);
      server_i.boot[0] = static_cast<std::uint8_t>(i);
      server_i.address = "tcp:10.0.0." + std::to_string(i) + ":9840";
      server_i.domain = "rack-" + std::to_string(i);
      server_i.capacity = kSlice * 64;
      service_.ask<control::ServerAnswer>(server_i);
    }
    sync_.host = "host-1";
    sync_.machine = "m";
    sync_.boot = "b";
    sync_.instance = "i";
    holder_[0] = 7;
    control::VmReport& vm = sync_.vms.emplace_back();
    vm.holder = holder_;
    vm.name = "web-3";
    vm.wanted = kSlice * 8;
    vm.used = kSlice * 4;
    sync_.epoch = service_.ask<control::SyncAnswer>(sync_).epoch;
    service_.ask<control::SyncAnswer>(sync_);
  }

  // The agent leases slices and attaches them.
  void lease(std::uint32_t slices, unsigned replicas = 2) {
    const auto grant = service_.ask<control::GrantAnswer>(control::GrantSlices{.host = "host-1",
                                                                               .epoch = sync_.epoch,
                                                                               .request = std::to_string(replicas),
                                                                               .holder = holder_,
                                                                               .slices = slices,
                                                                               .replicas = replicas});
    for (const control::SliceLease& each : grant.leases) held_.push_back(each.slice);
    service_.ask<control::ConfirmAnswer>(
        control::ConfirmSlices{.host = "host-1", .epoch = sync_.epoch, .holder = holder_, .slices = held_});
  }

  // What an agent and the servers do when something is wanted back.
  void obey() {
    const auto answer = service_.ask<control::SyncAnswer>(sync_);
    std::vector<control::SliceId> give;
    for (const control::VmShare& vm : answer.vms)
      for (std::uint64_t bytes = 0; bytes < vm.give_back.value && !held_.empty(); bytes += kSlice.value) {
        give.push_back(held_.back());
        held_.pop_back();
      }
    if (!give.empty())
      service_.ask<control::ReleaseAnswer>(
          control::ReleaseSlices{.host = "host-1", .epoch = sync_.epoch, .holder = holder_, .slices = give});
    for (int i = 1; i <= 2; ++i) {
      control::ServerHeartbeat beat;
      beat.name = "memd-" + std::to_string(i);
      beat.boot[0] = static_cast<std::uint8_t>(i);
      beat.free = kSlice * 32;
      beat.done = service_.ask<control::ServerAnswer>(beat).free;
      service_.ask<control::ServerAnswer>(beat);
    }
  }

  Words on(Words words, const std::string& endpoint = "") {
    words.insert(words.end(), {"--controller", endpoint.empty() ? endpoint_ : endpoint});
    return words;
  }

  CoreService service_;
  control::ApiHandler handler_{service_};
  std::unique_ptr<http::Server> controller_;
  std::string endpoint_;
  control::SyncHost sync_;
  control::HolderId holder_{};
  std::vector<control::SliceId> held_;
};

TEST_F(TidectlPool, ShowsThePoolAndKeepsTheAgentsOwn) {
  lease(4);
  expect(on({"pool", "status"}), 0, {"test-pool", "2 up", "rack-1", "default"});
  expect({"pool", "status"}, 0, {"compressed"});  // the agent's
  expect(on({"pool", "vm", "list"}), 0, {"host-1/web-3", "256M"});
  expect(on({"pool", "host", "list"}), 0, {"host-1"});
  expect(on({"pool", "node", "list"}), 0, {"memd-1", "rack-2", "tcp:10.0.0.2:9840"});
  expect(on({"pool", "node", "show", "memd-1"}), 0, {"rack-1", "4.0G"});
  expect(on({"pool", "leases"}), 0, {"host-1/web-3", "held", "memd-1", "memd-2"});
  expect(on({"pool", "leases", "--server", "memd-1", "--host", "host-1"}), 0, {"held"});
  expect(on({"pool", "history"}), 0, {"memd-1"});
  const Outcome document = run(on({"pool", "leases", "-o", "json"}));
  EXPECT_EQ(json::parse(document.out).at("items").as_array().size(), 4u) << document.out << document.err;
}

TEST_F(TidectlPool, ResizesAndWaitsUntilItIsDone) {
  lease(8);
  expect(on({"pool", "resize", "web-3", "--size", "256MiB", "--plan"}), 0, {"to give back"});
  EXPECT_NE(run(on({"pool", "vm", "list"})).out.find("512M"), std::string::npos) << "a plan changes nothing";
  expect(on({"pool", "resize", "host-1/web-3", "--size", "256MiB", "--wait", "--timeout", "1s"}), 5, {"goes on"});
  const std::string out = folder_.path() + "/wait.out";
  const pid_t child =
      spawn(on({"pool", "resize", "web-3", "--size", "256MiB", "--wait"}), out, folder_.path() + "/wait.err");
  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    obey();
    std::this_thread::sleep_for(20ms);
  }
  EXPECT_EQ(WEXITSTATUS(status), 0) << slurp(folder_.path() + "/wait.err");
  EXPECT_EQ(held_.size(), 4u);
  expect(on({"pool", "resize", "web-3", "--size", "none", "--weight", "2"}), 0, {});
}

TEST_F(TidectlPool, SaysWhyNot) {
  expect(on({"pool", "resize", "web-3", "--reservation", "1TiB"}), 3, {"refused"});
  expect(on({"pool", "resize", "no-such-vm", "--size", "1GiB"}), 1, {"no-such-vm"});
  expect(on({"pool", "node", "show", "memd-9"}), 1, {"memd-9"});
  expect(on({"pool", "node", "drain", "memd-9"}), 1, {"memd-9"});
  expect(on({"pool", "resize", "web-3"}), 2, {"nothing to change"});
  expect(on({"pool", "resize", "web-3", "--size", "8Gib!"}), 2, {"8Gib!"});
  expect(on({"pool", "resize", "web-3", "--weight", "-1"}), 2, {"-1"});
  expect(on({"pool", "resize", "--limit", "8GiB"}), 2, {"of which VM?"});
  expect(on({"pool", "history", "--limit", "0"}), 2, {"1 to 1000"});
  expect(on({"pool", "status"}, "ftp://x"), 2, {"ftp://x"});
  expect(on({"pool", "status"}, "https://127.0.0.1:1"), 2, {"--identity"});
  expect(on({"pool", "status"}, "unix:" + folder_.path() + "/nobody.sock"), 4, {"is tidepool-controller running?"});
  expect(on({"pool", "host", "forget", "host-1"}), 2, {"--yes"});
}

TEST_F(TidectlPool, EmptiesAServer) {
  lease(2);
  expect(on({"pool", "node", "ok-to-stop", "memd-1"}), 0, {"yes", "2 slices"});
  lease(1, 1);  // at one of them, and nowhere else
  const Outcome first = run(on({"pool", "node", "ok-to-stop", "memd-1"}));
  const Outcome second = run(on({"pool", "node", "ok-to-stop", "memd-2"}));
  EXPECT_EQ(first.code + second.code, 3) << first.out << second.out;
  EXPECT_NE((first.out + second.out).find("NO"), std::string::npos);
  expect(on({"pool", "node", "drain", "memd-1", "--wait", "--timeout", "1s"}), 5, {"slices to move"});
  expect(on({"pool", "node", "undrain", "memd-1"}), 0, {});
  expect(on({"pool", "node", "drain", "memd-1", "--plan"}), 0, {});
  expect(on({"pool", "node", "drain", "memd-1"}), 0, {});
  expect(on({"pool", "node", "list"}), 0, {"draining"});
  expect(on({"pool", "node", "undrain", "memd-1"}), 0, {});
  expect(on({"pool", "tenant", "set", "default", "--limit", "2GiB"}), 0, {});
  expect(on({"pool", "host", "set", "host-1", "--limit", "3GiB", "--weight", "2"}), 0, {});
}

TEST_F(TidectlPool, BacksUpAndRestoresByTheControllersProgram) {
  const std::string file = folder_.path() + "/backup.db";
  expect(on({"pool", "backup", file}), 0, {"7 records", "backup.db"});
  expect(on({"pool", "backup", file}), 1, {"File exists"});
  expect({"pool", "restore", file, "--yes"}, 1, {"no tidepool-controller"});
  std::ofstream(folder_.path() + "/tidepool-controller") << "#!/bin/sh\necho ran \"$@\"\n";
  ::chmod((folder_.path() + "/tidepool-controller").c_str(), 0755);
  expect({"pool", "restore", file}, 2, {"--yes"});
  expect({"pool", "restore", file, "--yes", "--config", "/c.toml"}, 0,
         {"--restore", "backup.db", "--config", "/c.toml"});
}

TEST_F(TidectlPool, OverTlsWithTheCertificatesOfPki) {
  const std::string pki = folder_.path() + "/pki";
  const std::string over = "https://" + controller_->address();
  expect({"pki", "issue", pki, "alice", "--role", "admin"}, 0, {"alice"});
  expect({"pki", "issue", pki, "bob", "--role", "reader"}, 0, {"reader"});
  expect({"pki", "issue", pki, "bob", "--role", "admin"}, 1, {"bob.pem"});
  expect({"pki", "init", pki}, 1, {"ca.key"});
  expect({"pki", "list", pki}, 0, {"alice", "bob", "controller-1"});
  const auto as = [&](const std::string& who, Words words) {
    words = on(words, over);
    words.insert(words.end(), {"--identity", pki + "/" + who});
    return words;
  };
  expect(as("alice", {"pool", "tenant", "set", "default", "--weight", "3"}), 0, {});
  expect(as("bob", {"pool", "status"}), 0, {"test-pool"});
  expect(as("bob", {"pool", "tenant", "set", "default", "--weight", "3"}), 3, {"role reader"});
  expect(as("nobody", {"pool", "status"}), 4, {"nobody.pem"});
  expect({"pki", "rotate", pki, "alice"}, 0, {"alice"});
  expect(as("alice", {"pool", "history"}), 0, {"admin alice"});
  expect({"pki", "init", folder_.path() + "/other"}, 0, {});
  expect({"pki", "issue", folder_.path() + "/other", "eve", "--role", "admin"}, 0, {});
  Words eve = on({"pool", "status"}, over);
  eve.insert(eve.end(), {"--identity", folder_.path() + "/other/eve"});
  expect(eve, 4, {"certificate"});
}

TEST_F(TidectlPool, FindsTheOneThatLeads) {
  CoreService follower;
  follower.leads = false;
  follower.leading_endpoint = endpoint_;
  control::ApiHandler handler(follower);
  http::ServerOptions options;
  options.who = "controller";
  options.socket = folder_.path() + "/follower.sock";
  const auto server = http::Server::start(options, handler);
  ASSERT_TRUE(server);
  expect(on({"pool", "node", "list"}, "unix:" + options.socket), 4, {"does not lead"});
  expect(on({"pool", "node", "list"}, "unix:" + options.socket + "," + endpoint_), 0, {"memd-1"});
}

}  // namespace
}  // namespace tidepool::daemon::testing
