#include "daemon/control/api_server.h"

#include "daemon/control/api_router.h"

namespace tidepool::daemon {

ApiServerOptions api_server_options(const Config& config) {
  ApiServerOptions options;
  options.socket = config.api.socket;
  options.group = config.api.group;
  options.audit_log = config.api.audit_log;
  options.workers = config.api.workers;
  options.max_connections = config.api.max_connections;
  options.request_timeout = config.api.request_timeout;
  return options;
}

class ApiServer::Routes final : public http::Handler {
 public:
  explicit Routes(AgentService& service) : service_(service) {}

  Route route(std::string_view method, std::string_view target) const override {
    const ApiRoute* found = find_route(method, target);
    return found ? Route{.changes = found->changes, .urgent = found->urgent} : Route{};
  }
  http::Response answer(const http::Request& request) override { return daemon::answer(request, service_); }
  void audit_trouble(std::string_view problem) override { service_.audit_trouble(problem); }

 private:
  AgentService& service_;
};

ApiServer::ApiServer(AgentService& service) : routes_(std::make_unique<Routes>(service)) {}
ApiServer::~ApiServer() = default;

Result<std::unique_ptr<ApiServer>> ApiServer::start(const ApiServerOptions& options, AgentService& service,
                                                    std::optional<UnixListener> listener) {
  std::unique_ptr<ApiServer> api{new ApiServer(service)};
  Result<std::unique_ptr<http::Server>> server = http::Server::start(options, *api->routes_, std::move(listener));
  if (!server) return Failure(server.error());
  api->server_ = std::move(*server);
  return api;
}

}  // namespace tidepool::daemon
