// What tests of HTTP have in common: a handler that remembers, certificates, and peers without manners.
#pragma once

#include <openssl/ssl.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "service/http/client.h"
#include "service/http/pki.h"
#include "service/http/server.h"

namespace tidepool::http::testing {

class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Answers with method, target and body, or as it is told.
class Recorder final : public Handler {
 public:
  Route route(std::string_view, std::string_view target) const override {
    return {.changes = target.starts_with("/secret"),
            .hide_body = target.starts_with("/secret"),
            .hide_answer = target.starts_with("/secret")};
  }
  Response answer(const Request& request) override;

  void set_answer(std::function<Response(const Request&)> answer);
  std::vector<Request> requests() const;

 private:
  mutable std::mutex mutex_;
  std::vector<Request> requests_;
  std::function<Response(const Request&)> answer_;
};

// A server over TLS on 127.0.0.1 with certificates of an authority of its own.
struct TlsRig {
  TlsRig();
  TlsFiles issue(const std::string& name, const std::string& role, std::chrono::seconds valid = std::chrono::hours(1));
  // Also again, with other options.
  void start();
  std::string endpoint() const { return "https://" + server->address(); }
  std::unique_ptr<Client> client(const TlsFiles& files) const;

  Folder folder;
  std::string authority = folder / "pki";
  Recorder recorder;
  ServerOptions options;
  std::unique_ptr<Server> server;
};

// A TLS client that checks nothing, and shows whatever it is given.
class BareTls {
 public:
  // `files` empty: no certificate.
  BareTls(const std::string& address, const TlsFiles& files, int highest_version = TLS1_3_VERSION);
  // What the server says to a request; empty: it ended the connection.
  std::string ask(std::string_view request);

 private:
  UniqueFd fd_;
  std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context_{nullptr, SSL_CTX_free};
  std::unique_ptr<SSL, void (*)(SSL*)> tls_{nullptr, SSL_free};
};

UniqueFd connect_to(const std::string& address);

// Listens on 127.0.0.1 and treats each connection, one after the other, as it is told.
class ScriptedServer {
 public:
  explicit ScriptedServer(std::function<void(int fd)> treat);
  ~ScriptedServer();
  std::string endpoint() const { return "http://127.0.0.1:" + std::to_string(port_); }
  int connections() const { return connections_; }

 private:
  UniqueFd listener_;
  int port_ = 0;
  std::function<void(int fd)> treat_;
  std::atomic<bool> stopping_{false};
  std::atomic<int> connections_{0};
  std::thread thread_;
};
// The request's header, to its empty line; empty: the client ended.
std::string read_header(int fd);
void write_all(int fd, std::string_view text);

}  // namespace tidepool::http::testing
