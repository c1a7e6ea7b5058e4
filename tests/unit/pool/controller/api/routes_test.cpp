// The controller's routes: who may do what, and what errors look like.
#include "pool/controller/api/routes.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <filesystem>
#include <stdexcept>

#include "service/http/client.h"
#include "service/http/pki.h"
#include "tests/unit/pool/controller/api/samples.h"

namespace tidepool::pool::controller::testing {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;

class Remembering final : public ControllerService {
 public:
  Result<Answer> call(const Request& request, const std::string& actor) override {
    if (throws) throw std::runtime_error("out of luck");
    asked.push_back(request);
    actors.push_back(actor);
    if (error) return Failure(*error);
    if (refusal) return Answer{*refusal};
    return sample_answer_to(request);
  }
  std::string leader() override { return leads; }
  Result<BackupAnswer> backup(const std::string& file) override {
    if (error) return Failure(*error);
    return BackupAnswer{file, 3, Bytes{4096}};
  }

  std::vector<Request> asked;
  std::vector<std::string> actors;
  std::optional<Error> error;
  std::optional<Refusal> refusal;
  std::string leads;
  bool throws = false;
};

http::Caller with_certificate(const std::string& name, const std::string& role) {
  http::Caller caller;
  caller.tls = true;
  caller.name = name;
  caller.role = role;
  return caller;
}

http::Caller root() {
  http::Caller caller;
  caller.uid = 0;
  return caller;
}

class ControllerRoutes : public ::testing::Test {
 protected:
  http::Response ask(const http::Caller& caller, const std::string& method, const std::string& target,
                     const std::string& body = "") {
    return handler_.answer({.method = method, .target = target, .body = body, .if_match = {}, .caller = caller});
  }
  http::Response ask(const http::Caller& caller, const HttpForm& form) {
    return ask(caller, form.method, form.target, form.body);
  }
  static std::string code_of(const http::Response& response) {
    return std::string(json::parse(response.body).at("error").at("code").as_string());
  }

  Remembering service_;
  ApiHandler handler_{service_};
};

TEST_F(ControllerRoutes, RolesDoWhatTheyMayAndNothingElse) {
  // Samples name "name-1" in their paths.
  const std::vector<std::pair<http::Caller, Role>> callers{{root(), Role::kAdmin},
                                                           {with_certificate("alice", "admin"), Role::kAdmin},
                                                           {with_certificate("name-1", "agent"), Role::kAgent},
                                                           {with_certificate("name-1", "server"), Role::kServer},
                                                           {with_certificate("name-1", "reader"), Role::kReader},
                                                           {with_certificate("name-1", ""), Role::kNone},
                                                           {with_certificate("name-1", "controller"), Role::kNone},
                                                           {http::Caller{}, Role::kNone}};
  for (const RequestForm& form : request_forms()) {
    const HttpForm sample = http_form(sample_of(form.kind));
    for (const auto& [caller, role] : callers) {
      const std::size_t before = service_.asked.size();
      const http::Response response = ask(caller, sample);
      const bool may = role == Role::kAdmin || (role != Role::kNone && role == form.role);
      EXPECT_EQ(response.status, may ? 200u : 403u) << form.pattern << " " << caller.role << " " << response.body;
      EXPECT_EQ(service_.asked.size(), before + (may ? 1 : 0)) << "what is forbidden is not asked";
      if (!may) {
        EXPECT_EQ(code_of(response), "forbidden");
      }
    }
  }
  EXPECT_EQ(ask(with_certificate("name-1", "agent"), "POST", "/v1/backup", R"({"file":"/x"})").status, 403u);
  EXPECT_EQ(ask(root(), "POST", "/v1/backup", R"({"file":"/x"})").status, 200u);
}

TEST_F(ControllerRoutes, AgentsAndServersSpeakForThemselvesOnly) {
  for (const RequestForm& form : request_forms()) {
    if (form.role != Role::kAgent && form.role != Role::kServer) continue;
    const std::string role = form.role == Role::kAgent ? "agent" : "server";
    const http::Response response = ask(with_certificate("name-2", role), http_form(sample_of(form.kind)));
    EXPECT_EQ(response.status, 403u) << form.pattern;
    EXPECT_NE(response.body.find("name-1"), std::string::npos) << response.body;
  }
  EXPECT_TRUE(service_.asked.empty());
  // Not by writing the name in another way either.
  EXPECT_EQ(ask(with_certificate("host-1", "agent"), "POST", "/v1/hosts/host-1%2f/sync", "{}").status, 403u);
  EXPECT_EQ(ask(with_certificate("host-1", "agent"), "POST", "/v1/hosts/host-2/sync?name=host-1", "{}").status, 403u);
}

TEST_F(ControllerRoutes, TheHistoryLearnsWhoAsked) {
  ASSERT_EQ(ask(root(), "GET", "/v1/status").status, 200u);
  ASSERT_EQ(ask(with_certificate("alice", "admin"), "GET", "/v1/status").status, 200u);
  EXPECT_EQ(service_.actors, (std::vector<std::string>{"uid 0", "admin alice"}));
}

TEST_F(ControllerRoutes, PathsQueriesAndBodiesArriveDecoded) {
  ASSERT_EQ(ask(root(), "PATCH", "/v1/vms/host-1/web%203?plan=true", R"({"limit_bytes":1048576})").status, 200u);
  const auto& set = std::get<SetVm>(service_.asked.back());
  EXPECT_EQ(set.host, "host-1");
  EXPECT_EQ(set.vm, "web 3");
  EXPECT_TRUE(set.plan);
  EXPECT_EQ(set.bounds.limit, Bytes{1048576});
  ASSERT_EQ(ask(root(), "POST", "/v1/servers/m1/undrain").status, 200u);
  EXPECT_FALSE(std::get<DrainServer>(service_.asked.back()).drain);
}

TEST_F(ControllerRoutes, WhatMakesNoSenseIsToldSo) {
  EXPECT_EQ(ask(root(), "GET", "/v2/status").status, 404u);
  const http::Response method = ask(root(), "DELETE", "/v1/status");
  EXPECT_EQ(method.status, 405u);
  EXPECT_EQ(method.allow, "GET");
  EXPECT_EQ(ask(root(), "GET", "/v1/status?plan=true").status, 400u);
  EXPECT_EQ(ask(root(), "GET", "/v1/status?x=1").status, 400u);
  EXPECT_EQ(ask(root(), "PATCH", "/v1/vms/a/b?host=c", "{}").status, 400u);
  EXPECT_EQ(ask(root(), "PATCH", "/v1/vms/%zz/b", "{}").status, 400u);
  EXPECT_EQ(ask(root(), "PUT", "/v1/tenants/a", "{nonsense").status, 400u);
  EXPECT_EQ(ask(root(), "PUT", "/v1/tenants/a", R"({"limit":1})").status, 400u);
  EXPECT_TRUE(service_.asked.empty());
}

TEST_F(ControllerRoutes, OneThatDoesNotLeadSaysWhoDoes) {
  const std::string why = "this controller does not lead, and nobody is known to (disk full)";
  service_.error = failure(std::errc::operation_not_permitted, "commit", "x", why).value();
  service_.leads = "https://controller-2:9843";
  const http::Response response = ask(root(), "GET", "/v1/status");
  EXPECT_EQ(response.status, 503u);
  EXPECT_EQ(code_of(response), "not_leader");
  EXPECT_EQ(json::parse(response.body).at("error").at("message").as_string(), why);
  EXPECT_EQ(response.leader, "https://controller-2:9843");
  const Result<Answer> read = answer_from(GetStatus{}, response.status, response.body);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, std::make_error_condition(std::errc::operation_not_permitted));
  service_.leads.clear();
  EXPECT_EQ(ask(root(), "POST", "/v1/backup", R"({"file":"/x"})").leader, "") << "known to be nobody";
}

TEST_F(ControllerRoutes, RefusalsAndFailuresHaveStatusAndReason) {
  service_.refusal = Refusal{Refusal::Code::kNoCapacity, "no room", "8 GiB > 4 GiB", "less", 0};
  const http::Response refused = ask(root(), "GET", "/v1/status");
  EXPECT_EQ(refused.status, 422u);
  EXPECT_EQ(json::parse(refused.body).at("error").at("arithmetic").as_string(), "8 GiB > 4 GiB");
  EXPECT_FALSE(refused.leader);
  service_.refusal.reset();
  service_.error = failure(std::errc::io_error, "commit", "disk").value();
  EXPECT_EQ(ask(root(), "GET", "/v1/status").status, 500u);
  service_.error.reset();
  service_.throws = true;
  EXPECT_EQ(ask(root(), "GET", "/v1/status").status, 500u);
}

TEST_F(ControllerRoutes, ChangesAreAuditedAndSecretsAreNot) {
  for (const ApiRoute& route : api_routes()) {
    if (route.role == Role::kAdmin) {
      EXPECT_TRUE(route.kind.changes) << route.pattern;
    }
    if (route.method == "GET") {
      EXPECT_FALSE(route.kind.changes) << route.pattern;
    }
  }
  EXPECT_TRUE(handler_.route("POST", "/v1/servers/m1/register").hide_body) << "the key";
  EXPECT_TRUE(handler_.route("POST", "/v1/hosts/h1/grants").hide_answer) << "the leases' secrets";
  EXPECT_FALSE(handler_.route("POST", "/v1/hosts/h1/sync").changes);
  EXPECT_FALSE(handler_.route("GET", "/nothing").changes);
}

TEST_F(ControllerRoutes, OverTlsTheCertificateDecides) {
  const std::string folder = std::filesystem::temp_directory_path() / ("controller-api-" + std::to_string(::getpid()));
  ASSERT_TRUE(http::make_authority(folder, 1h));
  const auto own = http::issue(folder, {"controller-1", "controller", {"127.0.0.1"}}, 1h);
  const auto agent = http::issue(folder, {"host-1", "agent", {}}, 1h);
  ASSERT_TRUE(own && agent);
  http::ServerOptions options;
  options.who = "controller";
  options.address = "127.0.0.1:0";
  options.tls = own->files;
  {
    const auto server = http::Server::start(options, handler_);
    ASSERT_TRUE(server) << server.error().message();
    http::ClientOptions wanted;
    wanted.endpoints = {"https://" + (*server)->address()};
    wanted.tls = agent->files;
    const auto client = http::Client::make(wanted);
    ASSERT_TRUE(client);
    GrantSlices grant{.host = "host-1", .epoch = 1, .request = "r1", .holder = {}, .slices = 2};
    HttpForm form = http_form(grant);
    auto answer = (*client)->request(form.method, form.target, form.body);
    ASSERT_TRUE(answer) << answer.error().message();
    EXPECT_TRUE(answer_from(grant, answer->status, answer->body));
    grant.host = "host-2";
    form = http_form(grant);
    answer = (*client)->request(form.method, form.target, form.body);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 403u);
    const Result<Answer> read = answer_from(grant, answer->status, answer->body);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, std::make_error_condition(std::errc::permission_denied));
  }
  EXPECT_EQ(service_.asked.size(), 1u);
  EXPECT_EQ(service_.actors.front(), "agent host-1");
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace tidepool::pool::controller::testing
