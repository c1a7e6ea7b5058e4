#include "service/metrics_endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>
#include <sys/socket.h>

#include <charconv>
#include <exception>
#include <optional>
#include <string_view>
#include <utility>

#include "base/unique_fd.h"

namespace tidepool {
namespace {

constexpr const char* kRequestTimeoutMs = "5000";
constexpr const char* kThreads = "2";

struct BindAddress {
  sockaddr_storage socket_address{};
  socklen_t length = 0;
  std::string text;  // as CivetWeb wants it
};

std::optional<std::uint16_t> port_of(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return port;
}

// CivetWeb's own syntax also takes lists, port suffixes that ask for TLS, and bare ports; none of that is wanted here.
std::optional<BindAddress> parse_address(std::string_view address) {
  const std::size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  std::string host(address.substr(0, colon));
  const auto port = port_of(address.substr(colon + 1));
  if (!port) return std::nullopt;
  if (host == "localhost") host = "127.0.0.1";

  BindAddress result;
  auto* const v4 = reinterpret_cast<sockaddr_in*>(&result.socket_address);
  auto* const v6 = reinterpret_cast<sockaddr_in6*>(&result.socket_address);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    if (inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &v6->sin6_addr) != 1) return std::nullopt;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(*port);
    result.length = sizeof(sockaddr_in6);
  } else {
    if (inet_pton(AF_INET, host.c_str(), &v4->sin_addr) != 1) return std::nullopt;
    v4->sin_family = AF_INET;
    v4->sin_port = htons(*port);
    result.length = sizeof(sockaddr_in);
  }
  result.text = host + ":" + std::to_string(*port);
  return result;
}

// CivetWeb only says that it failed; the same bind says why.
Failure why_not(const BindAddress& address, const std::string& key, const std::string& said) {
  const UniqueFd probe(socket(address.socket_address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  const std::string remedy = "set " + key + " to a free local address";
  if (probe.valid()) {
    setsockopt(probe.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    const auto* const where = reinterpret_cast<const sockaddr*>(&address.socket_address);
    if (bind(probe.get(), where, address.length) != 0 || listen(probe.get(), 1) != 0)
      return errno_failure("serve metrics on", address.text, remedy);
  }
  return failure(std::errc::io_error, "serve metrics on", address.text, said);
}

class FamiliesCollectable final : public prometheus::Collectable {
 public:
  explicit FamiliesCollectable(std::function<std::vector<prometheus::MetricFamily>()> families)
      : families_(std::move(families)) {}
  std::vector<prometheus::MetricFamily> Collect() const override { return families_(); }

 private:
  std::function<std::vector<prometheus::MetricFamily>()> families_;
};

}  // namespace

struct FamiliesEndpoint::Impl {
  std::shared_ptr<FamiliesCollectable> collectable;  // the exposer holds it weakly
  std::unique_ptr<prometheus::Exposer> exposer;      // last: its threads end first
};

FamiliesEndpoint::FamiliesEndpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FamiliesEndpoint::~FamiliesEndpoint() = default;

Result<std::unique_ptr<FamiliesEndpoint>> FamiliesEndpoint::serve(
    const std::string& address, const std::string& key,
    std::function<std::vector<prometheus::MetricFamily>()> families) {
  const std::optional<BindAddress> bind_address = parse_address(address);
  if (!bind_address)
    return failure(std::errc::invalid_argument, "serve metrics on", address,
                   "expected ADDRESS:PORT, for example 127.0.0.1:9842");
  auto impl = std::make_unique<Impl>();
  impl->collectable = std::make_shared<FamiliesCollectable>(std::move(families));
  try {
    impl->exposer = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
        "listening_ports", bind_address->text, "num_threads", kThreads, "request_timeout_ms", kRequestTimeoutMs});
    impl->exposer->RegisterCollectable(impl->collectable);
    if (impl->exposer->GetListeningPorts().empty()) return why_not(*bind_address, key, "nothing listens");
  } catch (const std::exception& error) {
    return why_not(*bind_address, key, error.what());
  }
  return std::unique_ptr<FamiliesEndpoint>(new FamiliesEndpoint(std::move(impl)));
}

int FamiliesEndpoint::port() const {
  return impl_->exposer->GetListeningPorts().front();
}

}  // namespace tidepool
