// Mutual TLS: who gets in, as whom, and what those who do not can do.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/unit/service/http_kit.h"

namespace tidepool::http::testing {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kGet = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n";

void await(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::sleep_for(2ms);
}

TEST(Tls, PeerIsWhoItsCertificateSays) {
  TlsRig rig;
  rig.start();
  const auto client = rig.client(rig.issue("host-1", "agent"));
  const Result<Answer> answer = client->request("PUT", "/thing?x=1", "body");
  ASSERT_TRUE(answer) << answer.error().message();
  EXPECT_EQ(answer->status, 200u);
  EXPECT_EQ(answer->body, "PUT /thing?x=1 body\n");
  const Caller caller = rig.recorder.requests().front().caller;
  EXPECT_TRUE(caller.tls);
  EXPECT_EQ(caller.name, "host-1");
  EXPECT_EQ(caller.role, "agent");
  EXPECT_TRUE(caller.address.starts_with("127.0.0.1:")) << caller.address;
  EXPECT_EQ(caller.uid, ~0u) << "a uid is of unix sockets only";
}

TEST(Tls, AuditLogNamesThePeerAndKeepsNoSecrets) {
  TlsRig rig;
  rig.start();
  const auto client = rig.client(rig.issue("host-1", "agent"));
  ASSERT_TRUE(client->request("POST", "/secret/thing", "hush-hush"));
  rig.server.reset();
  std::ifstream file(rig.options.audit_log);
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_NE(text.str().find(R"("name":"host-1","role":"agent","address":"127.0.0.1:)"), std::string::npos)
      << text.str();
  EXPECT_NE(text.str().find(R"("controller_pid")"), std::string::npos);
  EXPECT_EQ(text.str().find("hush-hush"), std::string::npos) << text.str();
}

TEST(Tls, NobodyGetsInWithoutACertificateOfTheAuthority) {
  TlsRig rig;
  rig.start();
  TlsRig other;
  EXPECT_EQ(BareTls(rig.server->address(), {}).ask(kGet), "") << "no certificate";
  EXPECT_EQ(BareTls(rig.server->address(), other.issue("host-1", "admin")).ask(kGet), "") << "another authority's";
  EXPECT_EQ(BareTls(rig.server->address(), rig.issue("late", "admin", -1s)).ask(kGet), "") << "expired";
  EXPECT_EQ(BareTls(rig.server->address(), rig.issue("old", "admin"), TLS1_2_VERSION).ask(kGet), "") << "TLS 1.2";
  const UniqueFd plain = connect_to(rig.server->address());
  write_all(plain.get(), kGet);
  EXPECT_EQ(read_header(plain.get()), "") << "no TLS at all";
  await([&] { return rig.server->counters().unproven == 5; });
  EXPECT_NE(BareTls(rig.server->address(), rig.issue("host-1", "admin")).ask(kGet), "");
  EXPECT_EQ(rig.recorder.requests().size(), 1u);
}

TEST(Tls, ClientIsToldWhyItIsRefused) {
  TlsRig rig;
  rig.start();
  TlsRig other;
  TlsFiles mixed = other.issue("host-1", "agent");
  mixed.authority = rig.options.tls.authority;  // it trusts the server, which does not trust it
  const Result<Answer> refused = rig.client(mixed)->request("GET", "/x");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, std::make_error_condition(std::errc::permission_denied)) << refused.error().message();
  EXPECT_NE(refused.error().message().find("unknown ca"), std::string::npos) << refused.error().message();

  const Result<Answer> own = rig.client(rig.issue("late", "agent", -1s))->request("GET", "/x");
  ASSERT_FALSE(own);
  EXPECT_NE(own.error().message().find("expired"), std::string::npos) << own.error().message();
}

TEST(Tls, ClientTrustsOnlyTheServerThatItMeans) {
  TlsRig rig;
  rig.start();
  TlsRig other;
  const auto refused = [&](const TlsFiles& files, std::string_view why) {
    const Result<Answer> answer = rig.client(files)->request("GET", "/x");
    ASSERT_FALSE(answer) << why;
    EXPECT_EQ(answer.error().code, std::make_error_condition(std::errc::permission_denied)) << answer.error().message();
    EXPECT_NE(answer.error().message().find(why), std::string::npos) << answer.error().message();
  };
  refused(other.issue("host-1", "agent"), "certificate");  // of another authority

  const TlsFiles files = rig.issue("host-1", "agent");
  rig.options.tls = rig.issue("host-2", "agent");
  rig.start();
  refused(files, "purpose");  // an agent that plays the controller

  const Result<Issued> elsewhere = issue(rig.authority, {"elsewhere", "controller", {"elsewhere.example"}}, 1h);
  ASSERT_TRUE(elsewhere);
  rig.options.tls = elsewhere->files;
  rig.start();
  refused(files, "mismatch");
  EXPECT_TRUE(rig.recorder.requests().empty());
}

TEST(Tls, StalledStrangersTakeNoPlaceOfThoseThatAreKnown) {
  TlsRig rig;
  rig.options.max_unproven = 4;
  rig.options.request_timeout = 2s;
  rig.start();
  const auto known = rig.client(rig.issue("host-1", "agent"));
  ASSERT_TRUE(known->request("GET", "/first"));
  std::vector<UniqueFd> strangers;
  for (int i = 0; i < 12; ++i) strangers.push_back(connect_to(rig.server->address()));
  await([&] { return rig.server->counters().turned_away >= 8; });
  ASSERT_TRUE(known->request("GET", "/second")) << "its connection goes on";
  EXPECT_EQ(rig.server->counters().unproven, 0u);
  await([&] { return rig.server->counters().unproven == 4; });  // their time is up
  EXPECT_TRUE(rig.client(rig.issue("host-2", "agent"))->request("GET", "/third"));
}

TEST(Tls, RequestsAreBoundedAsOnTheSocket) {
  TlsRig rig;
  rig.options.request_timeout = 500ms;
  rig.options.max_body = 1000;
  rig.start();
  const TlsFiles files = rig.issue("host-1", "agent");
  EXPECT_NE(BareTls(rig.server->address(), files).ask("POST /x HTTP/1.1\r\nContent-Length: 5000\r\n\r\n").find(" 413 "),
            std::string::npos);
  EXPECT_NE(BareTls(rig.server->address(), files).ask("\x01\x02 nonsense\r\n\r\n").find(" 400 "), std::string::npos);
  EXPECT_EQ(BareTls(rig.server->address(), files).ask("GET /x HTTP/1.1\r\n"), "") << "the rest never came";
  await([&] { return rig.server->counters().cut_off == 3; });
}

TEST(Tls, ConnectionDoesNotOutliveItsCertificate) {
  TlsRig rig;
  rig.start();
  const auto brief = rig.issue("brief", "agent", 2s);
  BareTls connection(rig.server->address(), brief);
  EXPECT_NE(connection.ask(kGet), "");
  std::this_thread::sleep_until(std::chrono::system_clock::now() + 3s);  // the condition is the clock itself
  EXPECT_EQ(connection.ask(kGet), "");
}

TEST(Tls, CertificatesAreReplacedWhileItServes) {
  TlsRig rig;
  rig.start();
  const auto before = rig.client(rig.issue("host-1", "agent"));
  ASSERT_TRUE(before->request("GET", "/1"));
  ASSERT_TRUE(rotate_authority(rig.authority, 1h));
  ASSERT_TRUE(rotate(rig.authority, "controller-1", 1h));
  ASSERT_TRUE(rig.server->reload_tls());
  ASSERT_TRUE(before->request("GET", "/2"));
  const TlsFiles old_files{rig.authority + "/host-1.pem", rig.authority + "/host-1.key", rig.authority + "/ca.pem"};
  EXPECT_TRUE(rig.client(old_files)->request("GET", "/3")) << "the former authority is still trusted";
  EXPECT_TRUE(rig.client(rig.issue("host-2", "agent"))->request("GET", "/4"));

  std::ofstream(rig.authority + "/controller-1.pem") << "nonsense";
  EXPECT_FALSE(rig.server->reload_tls());
  EXPECT_TRUE(rig.client(rig.issue("host-3", "agent"))->request("GET", "/5")) << "the old ones stay";
}

TEST(Tls, FilesThatCannotBeUsedAreNamed) {
  TlsRig rig;
  const auto problem = [&](const TlsFiles& files) {
    rig.options.tls = files;
    const auto started = Server::start(rig.options, rig.recorder);
    return started ? std::string("started") : started.error().message();
  };
  const TlsFiles good = rig.options.tls;
  EXPECT_NE(problem({"", "", ""}).find("certificate"), std::string::npos);
  TlsFiles files = good;
  files.key = rig.folder / "absent.key";
  EXPECT_NE(problem(files).find("absent.key: No such file"), std::string::npos) << problem(files);
  files.key = rig.issue("host-1", "agent").key;
  EXPECT_NE(problem(files).find("it is not that of"), std::string::npos) << problem(files);
  ::chmod(good.key.c_str(), 0644);
  EXPECT_NE(problem(good).find("others may read it"), std::string::npos) << problem(good);
  ::chmod(good.key.c_str(), 0600);
  std::ofstream(rig.folder / "nonsense.pem") << "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
  files = good;
  files.certificate = rig.folder / "nonsense.pem";
  EXPECT_NE(problem(files).find("nonsense.pem"), std::string::npos);
  files = good;
  files.authority = rig.folder / "nonsense.pem";
  EXPECT_NE(problem(files).find("nonsense.pem"), std::string::npos);
  EXPECT_EQ(problem(good), "started");
}

}  // namespace
}  // namespace tidepool::http::testing
