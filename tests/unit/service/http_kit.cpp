#include "tests/unit/service/http_kit.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "service/http/endpoint.h"

namespace tidepool::http::testing {

Folder::Folder() {
  std::string pattern = std::filesystem::temp_directory_path() / "http-test-XXXXXX";
  path_ = ::mkdtemp(pattern.data());
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Response Recorder::answer(const Request& request) {
  std::function<Response(const Request&)> answer;
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back(request);
    answer = answer_;
  }
  if (answer) return answer(request);
  Response response;
  response.body = request.method + " " + request.target + " " + request.body + "\n";
  return response;
}

void Recorder::set_answer(std::function<Response(const Request&)> answer) {
  const std::lock_guard lock(mutex_);
  answer_ = std::move(answer);
}

std::vector<Request> Recorder::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

TlsRig::TlsRig() {
  EXPECT_TRUE(make_authority(authority, std::chrono::hours(1)));
  const Result<Issued> own =
      http::issue(authority, {"controller-1", "controller", {"127.0.0.1", "localhost"}}, std::chrono::hours(1));
  EXPECT_TRUE(own);
  options.who = "controller";
  options.address = "127.0.0.1:0";
  options.tls = own->files;
  options.audit_log = folder / "audit.jsonl";
}

TlsFiles TlsRig::issue(const std::string& name, const std::string& role, std::chrono::seconds valid) {
  const Result<Issued> issued = http::issue(
      authority,
      {name, role, role == "controller" ? std::vector<std::string>{"127.0.0.1"} : std::vector<std::string>{}}, valid);
  EXPECT_TRUE(issued) << issued.error().message();
  return issued->files;
}

void TlsRig::start() {
  server.reset();
  Result<std::unique_ptr<Server>> started = Server::start(options, recorder);
  ASSERT_TRUE(started) << started.error().message();
  server = std::move(*started);
}

std::unique_ptr<Client> TlsRig::client(const TlsFiles& files) const {
  ClientOptions wanted;
  wanted.endpoints = {endpoint()};
  wanted.tls = files;
  wanted.timeout = std::chrono::seconds(60);
  wanted.connect_timeout = std::chrono::seconds(60);
  Result<std::unique_ptr<Client>> made = Client::make(wanted);
  EXPECT_TRUE(made) << made.error().message();
  return made ? std::move(*made) : nullptr;
}

UniqueFd connect_to(const std::string& address) {
  const auto parts = split_host_port(address);
  UniqueFd fd{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(parts->second);
  ::inet_pton(AF_INET, parts->first.c_str(), &to.sin_addr);
  EXPECT_EQ(::connect(fd.get(), static_cast<sockaddr*>(static_cast<void*>(&to)), sizeof to), 0);
  return fd;
}

BareTls::BareTls(const std::string& address, const TlsFiles& files, int highest_version)
    : fd_(connect_to(address)), context_(SSL_CTX_new(TLS_client_method()), SSL_CTX_free) {
  SSL_CTX_set_max_proto_version(context_.get(), highest_version);
  if (!files.empty()) {
    EXPECT_EQ(SSL_CTX_use_certificate_chain_file(context_.get(), files.certificate.c_str()), 1);
    EXPECT_EQ(SSL_CTX_use_PrivateKey_file(context_.get(), files.key.c_str(), SSL_FILETYPE_PEM), 1);
  }
  std::signal(SIGPIPE, SIG_IGN);  // OpenSSL writes as it likes
  tls_.reset(SSL_new(context_.get()));
  SSL_set_fd(tls_.get(), fd_.get());
  SSL_connect(tls_.get());
}

std::string BareTls::ask(std::string_view request) {
  std::size_t done = 0;
  SSL_write_ex(tls_.get(), request.data(), request.size(), &done);
  std::array<char, 4096> answer{};
  const int got = SSL_read(tls_.get(), answer.data(), answer.size());
  ERR_clear_error();
  return got > 0 ? std::string(answer.data(), static_cast<std::size_t>(got)) : "";
}

ScriptedServer::ScriptedServer(std::function<void(int fd)> treat)
    : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), treat_(std::move(treat)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = static_cast<sockaddr*>(static_cast<void*>(&address));
  EXPECT_EQ(::bind(listener_.get(), generic, sizeof address), 0);
  EXPECT_EQ(::listen(listener_.get(), 16), 0);
  EXPECT_EQ(::getsockname(listener_.get(), generic, &size), 0);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] {
    while (!stopping_) {
      pollfd ready{listener_.get(), POLLIN, 0};
      if (::poll(&ready, 1, 20) <= 0) continue;
      const UniqueFd fd{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)};
      ++connections_;
      treat_(fd.get());
    }
  });
}

ScriptedServer::~ScriptedServer() {
  stopping_ = true;
  thread_.join();
}

std::string read_header(int fd) {
  std::string text;
  char c = 0;
  while (!text.ends_with("\r\n\r\n") && ::read(fd, &c, 1) == 1) text += c;
  return text.ends_with("\r\n\r\n") ? text : "";
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
}

}  // namespace tidepool::http::testing
