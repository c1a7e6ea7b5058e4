// The admin API over a real socket, and what its clients can do to it.
#include "daemon/control/api_server.h"

#include <grp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <thread>

#include "tests/integration/control/fake_agent.h"
#include "tests/integration/control/raw_client.h"

namespace tidepool::daemon::testing {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;

// Waits without a bound of its own; the test's time limit is the bound.
void await(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::sleep_for(2ms);
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

class ApiServerTest : public ::testing::Test {
 protected:
  ApiServerTest() {
    options_.socket = folder_.path() + "/agent.sock";
    options_.audit_log = folder_.path() + "/audit.jsonl";
    agent_.add_vm(example_vm("web-3"));
  }

  void start() {
    Result<std::unique_ptr<ApiServer>> server = ApiServer::start(options_, agent_);
    ASSERT_TRUE(server) << server.error().message();
    server_ = std::move(*server);
  }

  std::string get(std::string_view target) { return roundtrip(options_.socket, "GET", target); }

  TemporaryFolder folder_;
  FakeAgent agent_;
  ApiServerOptions options_;
  std::unique_ptr<ApiServer> server_;
};

TEST_F(ApiServerTest, AnswersAndTellsWhoAsked) {
  start();
  const std::string response = get("/v1/vms/web-3");
  EXPECT_EQ(status_of(response), 200) << response;
  EXPECT_NE(response.find("ETag: \""), std::string::npos);
  EXPECT_EQ(json::parse(body_of(response)).at("name").as_string(), "web-3");

  EXPECT_EQ(status_of(roundtrip(options_.socket, "PUT", "/v1/host/frozen", R"({"frozen": true})")), 200);
  EXPECT_TRUE(agent_.frozen());
  EXPECT_EQ(agent_.frozen_by().pid, ::getpid());
  EXPECT_EQ(agent_.frozen_by().uid, ::geteuid());
}

TEST_F(ApiServerTest, SocketIsForOwnerAndGroupOnly) {
  start();
  struct stat info {};
  ASSERT_EQ(::stat(options_.socket.c_str(), &info), 0);
  EXPECT_TRUE(S_ISSOCK(info.st_mode));
  EXPECT_EQ(info.st_mode & 07777, 0660u);
  EXPECT_EQ(info.st_uid, ::geteuid());
}

TEST_F(ApiServerTest, OtherUsersCannotConnect) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  start();
  ASSERT_EQ(::chmod(folder_.path().c_str(), 0755), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(2);
    ::_exit(RawClient(options_.socket).connected() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(ApiServerTest, SecondAgentOnTheSameSocketIsToldSo) {
  start();
  FakeAgent other;
  const auto second = ApiServer::start(options_, other);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, std::make_error_condition(std::errc::address_in_use));
  EXPECT_NE(second.error().message().find("another agent is running"), std::string::npos) << second.error().message();
  EXPECT_EQ(status_of(get("/v1/version")), 200) << "the first one goes on";
}

TEST_F(ApiServerTest, StaleSocketIsReplaced) {
  {
    const UniqueFd dead{::socket(AF_UNIX, SOCK_STREAM, 0)};
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, options_.socket.c_str(), options_.socket.size() + 1);
    ASSERT_EQ(::bind(dead.get(), static_cast<const sockaddr*>(static_cast<const void*>(&address)), sizeof address), 0);
  }
  ASSERT_TRUE(std::filesystem::exists(options_.socket));
  start();
  EXPECT_EQ(status_of(get("/v1/version")), 200);
}

TEST_F(ApiServerTest, ForeignServerOnThePathIsLeftAlone) {
  const UniqueFd foreign{::socket(AF_UNIX, SOCK_STREAM, 0)};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, options_.socket.c_str(), options_.socket.size() + 1);
  ASSERT_EQ(::bind(foreign.get(), static_cast<const sockaddr*>(static_cast<const void*>(&address)), sizeof address), 0);
  ASSERT_EQ(::listen(foreign.get(), 1), 0);
  const auto server = ApiServer::start(options_, agent_);
  ASSERT_FALSE(server);
  EXPECT_NE(server.error().message().find("another program answers"), std::string::npos);
  EXPECT_TRUE(RawClient(options_.socket).connected());
}

TEST_F(ApiServerTest, FileOnThePathIsLeftAlone) {
  std::ofstream(options_.socket) << "precious";
  const auto server = ApiServer::start(options_, agent_);
  ASSERT_FALSE(server);
  EXPECT_NE(server.error().message().find("not a socket"), std::string::npos);
  EXPECT_EQ(std::filesystem::file_size(options_.socket), 8u);
}

TEST_F(ApiServerTest, MissingFolderIsNamed) {
  options_.socket = folder_.path() + "/absent/agent.sock";
  const auto server = ApiServer::start(options_, agent_);
  ASSERT_FALSE(server);
  EXPECT_NE(server.error().message().find("/absent/"), std::string::npos);
}

TEST_F(ApiServerTest, StoppingRemovesTheSocketAndLeaksNothing) {
  const std::size_t before = open_descriptors();
  for (int round = 0; round < 20; ++round) {
    start();
    EXPECT_EQ(status_of(get("/v1/status")), 200);
    const RawClient idle(options_.socket);
    server_.reset();
    EXPECT_FALSE(std::filesystem::exists(options_.socket));
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(ApiServerTest, KeepsAConnectionOpenForManyRequests) {
  start();
  RawClient client(options_.socket);
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(client.send("GET /v1/version HTTP/1.1\r\nHost: a\r\n\r\n"));
    const auto response = client.read_response();
    ASSERT_TRUE(response);
    EXPECT_EQ(status_of(*response), 200);
  }
  EXPECT_EQ(server_->counters().connections, 1u);
  EXPECT_EQ(server_->counters().requests, 100u);
}

TEST_F(ApiServerTest, AnswersPipelinedRequestsInOrder) {
  start();
  RawClient client(options_.socket);
  ASSERT_TRUE(client.send("GET /v1/vms/nobody HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/version HTTP/1.1\r\nHost: a\r\n\r\n"));
  EXPECT_EQ(status_of(client.read_response().value_or("")), 404);
  EXPECT_EQ(status_of(client.read_response().value_or("")), 200);
}

TEST_F(ApiServerTest, MalformedHttpGetsAnErrorOrAClosedDoor) {
  start();
  const std::vector<std::pair<std::string, int>> cases{
      {"\r\n\r\n\r\n", 400},
      {"HELLO\r\n\r\n", 400},
      {"GET\r\n\r\n", 400},
      {"GET /v1/version HTTP/9.9\r\n\r\n", 400},
      {"GET /v1/version HTTP/1.1\r\nno colon here\r\n\r\n", 400},
      {"PUT /v1/host/frozen HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
      {"PUT /v1/host/frozen HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
      {"PUT /v1/host/frozen HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {"PUT /v1/host/frozen HTTP/1.1\r\nContent-Length: 70000\r\n\r\n", 413},
      {"GET /" + std::string(9000, 'a') + " HTTP/1.1\r\n\r\n", 431},
      {"GET / HTTP/1.1\r\nX: " + std::string(9000, 'a') + "\r\n\r\n", 431},
      {std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11) + "\r\n\r\n", 400},
  };
  for (const auto& [bytes, status] : cases) {
    RawClient client(options_.socket);
    client.send(bytes);
    ::shutdown(client.fd(), SHUT_WR);
    const auto response = client.read_all();
    ASSERT_TRUE(response) << bytes.substr(0, 60);
    EXPECT_EQ(status_of(*response), status) << bytes.substr(0, 60) << " -> " << response->substr(0, 200);
    EXPECT_TRUE(json::parse(body_of(*response)).at("error").at("code").is_string());
  }
  EXPECT_EQ(status_of(get("/v1/version")), 200);
}

TEST_F(ApiServerTest, RandomBytesDoNoHarm) {
  start();
  const unsigned seed = std::random_device{}();
  std::mt19937 random(seed);
  for (int round = 0; round < 300; ++round) {
    RawClient client(options_.socket);
    std::string bytes = round % 2 ? "PATCH /v1/vms/web-3 HTTP/1.1\r\nContent-Length: 40\r\n\r\n{\"guarantee\":" : "";
    for (std::size_t n = random() % 400; n > 0; --n) bytes += static_cast<char>(random());
    client.send(bytes);
    ::shutdown(client.fd(), SHUT_WR);
    EXPECT_TRUE(client.read_all()) << "seed " << seed;
  }
  EXPECT_EQ(status_of(get("/v1/version")), 200) << "seed " << seed;
}

TEST_F(ApiServerTest, ClientThatSendsSlowlyIsCutOff) {
  options_.request_timeout = 300ms;
  start();
  RawClient client(options_.socket);
  ASSERT_TRUE(client.send("GET /v1/version HTT"));
  std::atomic<bool> stop{false};
  // A byte now and then must not extend the deadline.
  std::thread trickle([&] {
    while (!stop && client.send("P")) std::this_thread::sleep_for(20ms);
  });
  await([&] { return server_->counters().cut_off == 1; });
  stop = true;
  trickle.join();
  EXPECT_EQ(status_of(get("/v1/version")), 200);
}

TEST_F(ApiServerTest, ClientThatNeverReadsIsCutOff) {
  options_.request_timeout = 300ms;
  for (int i = 0; i < 900; ++i) agent_.add_vm(example_vm("vm-" + std::to_string(1000 + i)));
  start();
  RawClient client(options_.socket);
  const int small = 4096;
  ::setsockopt(client.fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  ASSERT_TRUE(client.send("GET /v1/vms?limit=1000 HTTP/1.1\r\nHost: a\r\n\r\n"));
  await([&] { return server_->counters().cut_off == 1; });
  EXPECT_EQ(status_of(get("/v1/version")), 200);
}

TEST_F(ApiServerTest, FloodOfConnectionsIsBoundedAndServedAgainAfterwards) {
  options_.max_connections = 32;
  options_.request_timeout = 60s;
  start();
  const std::size_t before = open_descriptors();
  std::vector<std::unique_ptr<RawClient>> flood;
  for (int i = 0; i < 1000; ++i) {
    flood.push_back(std::make_unique<RawClient>(options_.socket));
    ASSERT_TRUE(flood.back()->connected()) << i;
  }
  await([&] { return server_->counters().turned_away + server_->counters().connections == 1000; });
  EXPECT_EQ(server_->counters().turned_away, 968u);
  const auto told = flood.back()->read_all();
  ASSERT_TRUE(told);
  EXPECT_EQ(status_of(*told), 503) << *told;
  EXPECT_NE(told->find("too many connections"), std::string::npos);
  // Those that are in are served; with them gone there is room again.
  flood.front()->send("GET /v1/version HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(status_of(flood.front()->read_response().value_or("")), 200);
  flood.clear();
  await([&] { return status_of(get("/v1/version")) == 200; });
  await([&] { return open_descriptors() == before; });
}

TEST_F(ApiServerTest, RequestsBeyondTheQueueAreTurnedAwayWhileFreezingStillWorks) {
  options_.workers = 1;
  options_.max_waiting = 2;
  options_.request_timeout = 60s;
  start();
  agent_.hold_calls();
  std::vector<std::unique_ptr<RawClient>> clients;
  const auto ask = [&] {
    clients.push_back(std::make_unique<RawClient>(options_.socket));
    clients.back()->send("GET /v1/vms HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  };
  ask();
  await([&] { return agent_.calls_waiting() == 1; });
  for (int i = 0; i < 5; ++i) ask();
  await([&] { return server_->counters().overloaded == 3; });

  EXPECT_EQ(status_of(roundtrip(options_.socket, "PUT", "/v1/host/frozen", R"({"frozen": true})")), 200);
  EXPECT_EQ(status_of(get("/v1/health")), 200);

  agent_.let_go();
  int served = 0;
  int refused = 0;
  for (const auto& client : clients) {
    const int status = status_of(client->read_all().value_or(""));
    served += status == 200;
    refused += status == 503;
  }
  EXPECT_EQ(served, 3);
  EXPECT_EQ(refused, 3);
}

TEST_F(ApiServerTest, CallThatDoesNotReturnIsReportedInTime) {
  options_.request_timeout = 200ms;
  start();
  agent_.hold_calls();
  const std::string response = get("/v1/vms");
  EXPECT_EQ(status_of(response), 503) << response;
  EXPECT_NE(response.find("did not answer in time"), std::string::npos);
  agent_.let_go();
}

TEST_F(ApiServerTest, ClientThatLeavesBeforeTheAnswerDoesNoHarm) {
  options_.request_timeout = 60s;
  start();
  agent_.hold_calls();
  {
    RawClient client(options_.socket);
    client.send("GET /v1/vms HTTP/1.1\r\nHost: a\r\n\r\n");
    await([&] { return agent_.calls_waiting() == 1; });
  }
  agent_.let_go();
  EXPECT_EQ(status_of(get("/v1/vms")), 200);
}

std::vector<json::object> audit_records(const std::string& path) {
  std::ifstream file(path);
  std::vector<json::object> records;
  for (std::string line; std::getline(file, line);) records.push_back(json::parse(line).as_object());
  return records;
}

TEST_F(ApiServerTest, EveryChangeIsAudited) {
  start();
  get("/v1/vms");
  roundtrip(options_.socket, "POST", "/v1/adoption-check", R"({"pid": 1})");
  roundtrip(options_.socket, "PATCH", "/v1/vms/web-3", R"({"guarantee": "1GiB"})");
  roundtrip(options_.socket, "DELETE", "/v1/vms/nobody");
  roundtrip(options_.socket, "PUT", "/v1/vms/web-3/hold", "{\"held\": true, \"reason\": \"\xff\"}");
  server_.reset();
  const auto records = audit_records(options_.audit_log);
  ASSERT_EQ(records.size(), 6u);
  EXPECT_EQ(records[0].at("phase"), "begin");
  EXPECT_EQ(records[0].at("method"), "PATCH");
  EXPECT_EQ(records[0].at("target"), "/v1/vms/web-3");
  EXPECT_EQ(records[0].at("body"), R"({"guarantee": "1GiB"})");
  EXPECT_EQ(records[0].at("pid"), ::getpid());
  EXPECT_EQ(records[0].at("uid"), ::geteuid());
  EXPECT_EQ(records[1].at("phase"), "end");
  EXPECT_EQ(records[1].at("number"), records[0].at("number"));
  EXPECT_EQ(records[1].at("status"), 200);
  EXPECT_EQ(records[3].at("status"), 404);
  struct stat info {};
  ASSERT_EQ(::stat(options_.audit_log.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777 & ~0640u, 0u);
}

TEST_F(ApiServerTest, AuditLogGoesOnInANewFileAfterRotation) {
  start();
  roundtrip(options_.socket, "PATCH", "/v1/vms/web-3", R"({"mode": "observe"})");
  std::filesystem::rename(options_.audit_log, options_.audit_log + ".1");
  ASSERT_TRUE(server_->reopen_audit_log());
  roundtrip(options_.socket, "PATCH", "/v1/vms/web-3", R"({"mode": "active"})");
  server_.reset();
  EXPECT_EQ(audit_records(options_.audit_log + ".1").size(), 2u);
  EXPECT_EQ(audit_records(options_.audit_log).size(), 2u);
}

TEST_F(ApiServerTest, AuditLogThatCannotBeOpenedStopsTheStart) {
  options_.audit_log = folder_.path() + "/absent/audit.jsonl";
  const auto server = ApiServer::start(options_, agent_);
  ASSERT_FALSE(server);
  EXPECT_NE(server.error().message().find("audit"), std::string::npos);
}

TEST_F(ApiServerTest, ManyClientsAtOnceGetTheirOwnAnswers) {
  options_.workers = 4;
  for (int i = 0; i < 8; ++i) agent_.add_vm(example_vm("vm-" + std::to_string(i)));
  start();
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      const std::string name = "vm-" + std::to_string(i);
      for (int round = 0; round < 50; ++round) {
        const std::string response = get("/v1/vms/" + name);
        if (status_of(response) != 200 || json::parse(body_of(response)).at("name").as_string() != name) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace tidepool::daemon::testing
