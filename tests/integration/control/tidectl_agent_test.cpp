// tidectl where the agent is away, slow, or somebody else; and what it does without one.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <boost/json.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/integration/control/tidectl_case.h"

namespace tidepool::daemon::testing {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;

TEST_F(Tidectl, UnreachableAgentExitsWith4) {
  server_.reset();
  expect({"vm", "list"}, 4, {"is tidepoold running?"});
  expect({"vm", "list", "--socket", std::string(200, 'x')}, 4, {});
  expect({"vm", "list", "--socket", folder_.path()}, 4, {});
  std::ofstream(options_.socket) << "not a socket";
  expect({"vm", "list"}, 4, {});
}

TEST_F(Tidectl, ServerThatStallsExitsWith5) {
  agent_.hold_calls();
  expect({"vm", "list", "--timeout", "300ms"}, 5, {"timed out"});
  agent_.let_go();
}

TEST_F(Tidectl, ServerThatGivesUpOnACallExitsWith5) {
  server_.reset();
  options_.request_timeout = 200ms;
  start();
  agent_.hold_calls();
  expect({"vm", "list"}, 5, {"did not answer in time"});
  agent_.let_go();
}

TEST_F(Tidectl, OperationThatOutlastsTheTimeOutExitsWith5AndNamesIt) {
  // Each look at the operation takes 200 ms or more, and it needs two.
  expect({"vm", "release", "web-3", "--timeout", "100ms"}, 5, {"op-1", "goes on"});
}

// A server of another kind, or one that breaks off.
class Stranger {
 public:
  Stranger(const std::string& path, std::string answer)
      : answer_(std::move(answer)), listener_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    EXPECT_EQ(::bind(listener_.get(), static_cast<const sockaddr*>(static_cast<const void*>(&address)), sizeof address),
              0);
    EXPECT_EQ(::listen(listener_.get(), 8), 0);
    thread_ = std::thread([this] {
      while (true) {
        const UniqueFd peer{::accept(listener_.get(), nullptr, nullptr)};
        if (!peer.valid()) return;
        char chunk[4096];
        [[maybe_unused]] const ssize_t got = ::recv(peer.get(), chunk, sizeof chunk, 0);
        ::send(peer.get(), answer_.data(), answer_.size(), MSG_NOSIGNAL);
      }
    });
  }
  ~Stranger() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }

 private:
  std::string answer_;
  UniqueFd listener_;
  std::thread thread_;
};

TEST_F(Tidectl, AnswersThatAreNotTheAgentsExitWith4) {
  server_.reset();
  for (const char* answer : {"", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
                             "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                             "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"}) {
    const Stranger stranger(options_.socket, answer);
    expect({"vm", "list"}, 4, {"tidectl: "});
    std::filesystem::remove(options_.socket);
  }
}

TEST_F(Tidectl, AnswersWithUnexpectedFieldsAreShownAsFarAsTheyGo) {
  server_.reset();
  const std::string body = R"({"items": [{"name": 5, "memory": "much", "blocked": 3}, 7, null], "next_cursor": null})";
  const Stranger stranger(options_.socket,
                          "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  expect({"vm", "list"}, 0, {"NAME"});
}

TEST_F(Tidectl, DoctorAsksTheProgramWhenNoAgentRuns) {
  server_.reset();
  expect({"doctor"}, 4, {"no tidepoold"});
  place_agent_program();
  expect({"doctor"}, 1, {"--doctor instead", "FAIL  userfaultfd"});
  EXPECT_TRUE(json::parse(run({"doctor", "-o", "json"}).out).at("rows").is_array());
}

TEST_F(Tidectl, ConfigCheckNeedsNoAgent) {
  server_.reset();
  const std::string file = folder_.path() + "/t.toml";
  std::ofstream(file) << "schema = 1\nmdoe = \"active\"\n";
  expect({"config", "check", file}, 1, {"no tidepoold"});
  place_agent_program();
  expect({"config", "check", file}, 1, {":2:1: unknown key 'mdoe'; did you mean 'mode'?"});
  const json::value document = json::parse(run({"config", "check", file, "-o", "json"}).out);
  EXPECT_EQ(document.at("problems").at(0).at("line").to_number<int>(), 2);
  std::ofstream(file) << "schema = 1\n";
  expect({"config", "check", file}, 0, {"ok"});
  expect({"config", "check", "/nonexistent"}, 1, {"No such file"});
}

TEST_F(Tidectl, ConfigDiffTellsWhatWaitsForARestart) {
  place_agent_program();
  const std::string file = folder_.path() + "/t.toml";
  std::ofstream(file) << "schema = 1\nmode = \"active\"\n[pool.embedded]\ncodec = \"zstd\"\n";
  expect({"config", "diff", file}, 0, {"mode", "reload", "pool.embedded.codec", "restart"});
  std::ofstream(file) << "schema = 1\n";
  expect({"config", "diff", file}, 0, {"no difference"});
  std::ofstream(file) << "broken";
  expect({"config", "diff", file}, 1, {"config check"});
}

}  // namespace
}  // namespace tidepool::daemon::testing
