#include "cli/api_client.h"

#include "service/http/client.h"

namespace tidepool::cli {
namespace {

// A thousand VMs with their mappings are about 2 MiB.
constexpr std::size_t kLargestAnswer = 64u << 20;
constexpr std::string_view kUnix = "unix:";

std::string without_scheme(const std::string& endpoint) {
  return endpoint.starts_with(kUnix) ? endpoint.substr(kUnix.size()) : endpoint;
}

Failure broken(Error error, const Peer& peer) {
  const auto is = [&](std::errc code) { return error.code == std::make_error_condition(code); };
  if (is(std::errc::invalid_argument)) return Failure(error);
  const std::string unit = "systemctl status " + peer.program;
  error.attempted = (is(std::errc::timed_out) ? "wait for the " : "reach the ") + peer.who + " on";
  error.subject = without_scheme(error.subject);
  if (is(std::errc::no_such_file_or_directory) || is(std::errc::connection_refused))
    error.remedy = "is " + peer.program + " running? " + unit;
  if (is(std::errc::permission_denied) && error.remedy.empty())
    error.remedy = "be root or a member of the group tidepool";
  return Failure(error);
}

}  // namespace

ApiClient::ApiClient(Peer peer) : peer_(std::move(peer)) {}
ApiClient::~ApiClient() = default;
ApiClient::ApiClient(ApiClient&&) noexcept = default;

std::string ApiClient::where() const {
  std::string all;
  for (const std::string& endpoint : peer_.endpoints) all += (all.empty() ? "" : ", ") + without_scheme(endpoint);
  return all;
}

Result<Reply> ApiClient::request(std::string_view method, std::string_view target, std::string_view body) {
  if (!client_) {
    http::ClientOptions options;
    options.endpoints = peer_.endpoints;
    options.user_agent = "tidectl";
    options.timeout = options.connect_timeout = peer_.timeout;
    options.max_answer = kLargestAnswer;
    if (!peer_.identity.empty()) {
      const std::string folder = peer_.identity.substr(0, peer_.identity.rfind('/') + 1);
      options.tls = {peer_.identity + ".pem", peer_.identity + ".key", folder + "ca.pem"};
    }
    for (const std::string& each : peer_.endpoints)
      if (each.starts_with("https:") && peer_.identity.empty())
        return failure(std::errc::invalid_argument, "use", each,
                       "it wants to know who asks: --identity DIR/NAME, of a certificate as pki issue makes it");
    Result<std::unique_ptr<http::Client>> made = http::Client::make(options);
    if (!made) return broken(made.error(), peer_);
    client_ = std::move(*made);
  }
  Result<http::Answer> answer = client_->request(method, target, body);
  if (!answer) return broken(answer.error(), peer_);
  return Reply{answer->status, std::move(answer->body)};
}

}  // namespace tidepool::cli
