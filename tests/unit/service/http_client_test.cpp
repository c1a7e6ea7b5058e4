// The HTTP client: fail-over, bounds, and its end.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>

#include "service/http/client.h"
#include "tests/unit/service/http_kit.h"

namespace tidepool::http::testing {
namespace {

using namespace std::chrono_literals;

ClientOptions options_for(std::vector<std::string> endpoints) {
  ClientOptions options;
  options.endpoints = std::move(endpoints);
  options.timeout = 60s;
  options.connect_timeout = 60s;
  return options;
}

std::unique_ptr<Client> client_of(const ClientOptions& options) {
  Result<std::unique_ptr<Client>> made = Client::make(options);
  EXPECT_TRUE(made) << made.error().message();
  return std::move(*made);
}

struct LocalServer {
  explicit LocalServer(const std::string& name) {
    options.socket = folder / name;
    start();
  }
  void start() {
    Result<std::unique_ptr<Server>> started = Server::start(options, recorder);
    EXPECT_TRUE(started) << started.error().message();
    server = std::move(*started);
  }
  std::string endpoint() const { return "unix:" + options.socket; }

  Folder folder;
  Recorder recorder;
  ServerOptions options;
  std::unique_ptr<Server> server;
};

Response not_leading(const std::string& leader) {
  Response response;
  response.status = 503;
  response.body = "{}\n";
  response.leader = leader;
  return response;
}

// Until the client is gone, whatever it still says.
void await_end(int fd) {
  std::array<char, 4096> rest{};
  while (::read(fd, rest.data(), rest.size()) > 0) {
  }
}

// Nobody listens there any more.
std::string dead_endpoint() {
  return ScriptedServer([](int) {}).endpoint();
}

TEST(HttpClient, KeepsItsConnectionAndFindsANewOneAfterARestart) {
  LocalServer local("a.sock");
  const auto client = client_of(options_for({local.endpoint()}));
  for (int i = 0; i < 5; ++i) {
    const Result<Answer> answer = client->request("POST", "/x", std::to_string(i));
    ASSERT_TRUE(answer) << answer.error().message();
    EXPECT_EQ(answer->body, "POST /x " + std::to_string(i) + "\n");
  }
  EXPECT_EQ(local.server->counters().connections, 1u);
  local.server.reset();
  EXPECT_FALSE(client->request("POST", "/x"));
  local.start();
  EXPECT_TRUE(client->request("POST", "/x"));
}

TEST(HttpClient, PassesOverWhoCannotBeReachedAndStaysWithWhoAnswered) {
  LocalServer local("a.sock");
  const auto client = client_of(options_for({"unix:/nonexistent/socket", dead_endpoint(), local.endpoint()}));
  ASSERT_TRUE(client->request("POST", "/x"));
  EXPECT_EQ(client->endpoint(), local.endpoint());
  local.server.reset();
  const Result<Answer> nobody = client->request("POST", "/x");
  ASSERT_FALSE(nobody);
}

TEST(HttpClient, GoesToTheLeaderThatIsNamed) {
  LocalServer first("a.sock");
  LocalServer second("b.sock");
  LocalServer third("c.sock");
  first.recorder.set_answer([&](const Request&) { return not_leading(third.endpoint()); });
  second.recorder.set_answer([&](const Request&) { return not_leading(""); });
  const auto client = client_of(options_for({first.endpoint(), second.endpoint(), third.endpoint()}));
  const Result<Answer> answer = client->request("POST", "/x", "y");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->body, "POST /x y\n");
  EXPECT_TRUE(second.recorder.requests().empty()) << "the hint was good";

  // Strangers are not followed, and nobody goes round for ever.
  first.recorder.set_answer([&](const Request&) { return not_leading("unix:/etc/passwd"); });
  third.recorder.set_answer([&](const Request&) { return not_leading(first.endpoint()); });
  const Result<Answer> nobody = client->request("POST", "/x", "y");
  ASSERT_TRUE(nobody);
  EXPECT_EQ(nobody->status, 503u);
  EXPECT_TRUE(nobody->leader);
  EXPECT_LE(first.recorder.requests().size() + second.recorder.requests().size() + third.recorder.requests().size(),
            8u);
}

TEST(HttpClient, OrdinaryOverloadIsAnAnswer) {
  LocalServer local("a.sock");
  local.recorder.set_answer([](const Request&) {
    Response response;
    response.status = 503;
    return response;
  });
  const Result<Answer> answer = client_of(options_for({local.endpoint()}))->request("GET", "/x");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 503u);
  EXPECT_FALSE(answer->leader);
}

TEST(HttpClient, SendsTwiceOnlyWhatMayBe) {
  ScriptedServer breaks([](int fd) { read_header(fd); });  // and says nothing
  LocalServer local("a.sock");
  ClientOptions options = options_for({breaks.endpoint(), local.endpoint()});
  const Result<Answer> once = client_of(options)->request("POST", "/x");
  ASSERT_FALSE(once);
  EXPECT_EQ(once.error().code, std::make_error_condition(std::errc::connection_aborted)) << once.error().message();
  EXPECT_TRUE(client_of(options)->request("GET", "/x"));
  options.repeatable = true;
  EXPECT_TRUE(client_of(options)->request("POST", "/x"));
  EXPECT_EQ(local.recorder.requests().size(), 2u);
}

TEST(HttpClient, OneThatNeverAnswersDoesNotUseUpTheTimeOfTheNext) {
  std::atomic<bool> end{false};
  ScriptedServer stuck([&](int) {
    while (!end) std::this_thread::sleep_for(1ms);
  });
  LocalServer local("a.sock");
  ClientOptions options = options_for({stuck.endpoint(), local.endpoint()});
  options.repeatable = true;
  options.timeout = 2s;
  const Result<Answer> answer = client_of(options)->request("POST", "/x");
  EXPECT_TRUE(answer) << answer.error().message();

  options.endpoints = {stuck.endpoint()};
  options.timeout = 50ms;
  const Result<Answer> late = client_of(options)->request("GET", "/x");
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, std::make_error_condition(std::errc::timed_out)) << late.error().message();
  end = true;
}

TEST(HttpClient, AnswersAreBounded) {
  LocalServer local("a.sock");
  local.recorder.set_answer([](const Request&) {
    Response response;
    response.body = std::string(100'000, 'x');
    return response;
  });
  ClientOptions options = options_for({local.endpoint()});
  options.max_answer = 99'999;
  const Result<Answer> answer = client_of(options)->request("GET", "/x");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, std::make_error_condition(std::errc::message_size)) << answer.error().message();
  options.max_answer = 100'000;
  EXPECT_TRUE(client_of(options)->request("GET", "/x"));

  for (const std::string_view nonsense : {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "SSH-2.0-OpenSSH\r\n",
                                          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "\0\0\0\0"}) {
    ScriptedServer hostile([&](int fd) {
      read_header(fd);
      write_all(fd, nonsense);
    });
    EXPECT_FALSE(client_of(options_for({hostile.endpoint()}))->request("GET", "/x")) << nonsense;
  }
}

TEST(HttpClient, StopEndsTheCallThatRunsAndAllLaterOnes) {
  std::atomic<bool> reached{false};
  ScriptedServer stuck([&](int fd) {
    read_header(fd);
    reached = true;
    await_end(fd);
  });
  auto client = client_of(options_for({stuck.endpoint()}));
  std::thread caller([&] {
    const Result<Answer> answer = client->request("GET", "/x");
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code, std::make_error_condition(std::errc::operation_canceled));
  });
  while (!reached) std::this_thread::sleep_for(1ms);
  client->stop();
  caller.join();
  const Result<Answer> later = client->request("GET", "/x");
  ASSERT_FALSE(later);
  EXPECT_EQ(later.error().code, std::make_error_condition(std::errc::operation_canceled));
  client.reset();
}

TEST(HttpClient, FollowsAnAnswerThatDoesNotEnd) {
  std::atomic<bool> silent{false};
  ScriptedServer watch([&](int fd) {
    if (read_header(fd).empty()) return;
    write_all(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    if (!silent) write_all(fd, "6\r\nsecond\r\n");
    await_end(fd);
  });
  const auto client = client_of(options_for({dead_endpoint(), watch.endpoint()}));
  std::string seen;
  const Result<> enough = client->follow("POST", "/v3/watch", "{}", 60s, [&](std::string_view piece) {
    seen += piece;
    return seen != "firstsecond";
  });
  EXPECT_TRUE(enough) << enough.error().message();
  EXPECT_EQ(seen, "firstsecond");

  silent = true;
  const Result<> quiet = client->follow("POST", "/v3/watch", "{}", 50ms, [](std::string_view) { return true; });
  ASSERT_FALSE(quiet);
  EXPECT_EQ(quiet.error().code, std::make_error_condition(std::errc::timed_out));

  ScriptedServer refuses([](int fd) {
    read_header(fd);
    write_all(fd, "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope");
  });
  const Result<> refused =
      client_of(options_for({refuses.endpoint()}))->follow("GET", "/", "", 60s, [](std::string_view) { return true; });
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("404"), std::string::npos) << refused.error().message();
}

TEST(HttpClient, OptionsThatMakeNoSenseAreRefused) {
  EXPECT_FALSE(Client::make(options_for({})));
  EXPECT_FALSE(Client::make(options_for({"https://127.0.0.1:1"}))) << "no certificate";
  EXPECT_FALSE(Client::make(options_for({"unix:/x", "ftp://x:1"})));
}

}  // namespace
}  // namespace tidepool::http::testing
