#include "telemetry/metrics/metrics_exporter.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>

#include <charconv>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "telemetry/metrics/metric_families.h"

namespace tidepool::telemetry {
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
Failure why_not(const BindAddress& address, const std::string& said) {
  const UniqueFd probe(socket(address.socket_address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  const std::string remedy = "set api.metrics to a free local address";
  if (probe.valid()) {
    setsockopt(probe.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    const auto* const where = reinterpret_cast<const sockaddr*>(&address.socket_address);
    if (bind(probe.get(), where, address.length) != 0 || listen(probe.get(), 1) != 0)
      return errno_failure("serve metrics on", address.text, remedy);
  }
  return failure(std::errc::io_error, "serve metrics on", address.text, said);
}

class SnapshotCollectable final : public prometheus::Collectable {
 public:
  explicit SnapshotCollectable(std::function<MetricsSnapshot()> snapshot) : snapshot_(std::move(snapshot)) {}
  std::vector<prometheus::MetricFamily> Collect() const override { return metric_families(snapshot_()); }

 private:
  std::function<MetricsSnapshot()> snapshot_;
};

}  // namespace

std::string render_text(const MetricsSnapshot& snapshot) {
  const prometheus::TextSerializer serializer;
  return serializer.Serialize(metric_families(snapshot));
}

struct MetricsEndpoint::Impl {
  std::shared_ptr<SnapshotCollectable> collectable;  // the exposer holds it weakly
  std::unique_ptr<prometheus::Exposer> exposer;      // last: its threads end first
};

MetricsEndpoint::MetricsEndpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MetricsEndpoint::~MetricsEndpoint() = default;

Result<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::serve(const std::string& address,
                                                                std::function<MetricsSnapshot()> snapshot) {
  const std::optional<BindAddress> bind_address = parse_address(address);
  if (!bind_address)
    return failure(std::errc::invalid_argument, "serve metrics on", address,
                   "expected ADDRESS:PORT, for example 127.0.0.1:9842");
  auto impl = std::make_unique<Impl>();
  impl->collectable = std::make_shared<SnapshotCollectable>(std::move(snapshot));
  try {
    impl->exposer = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
        "listening_ports", bind_address->text, "num_threads", kThreads, "request_timeout_ms", kRequestTimeoutMs});
    impl->exposer->RegisterCollectable(impl->collectable);
    if (impl->exposer->GetListeningPorts().empty()) return why_not(*bind_address, "nothing listens");
  } catch (const std::exception& error) {
    return why_not(*bind_address, error.what());
  }
  return std::unique_ptr<MetricsEndpoint>(new MetricsEndpoint(std::move(impl)));
}

int MetricsEndpoint::port() const {
  return impl_->exposer->GetListeningPorts().front();
}

}  // namespace tidepool::telemetry
