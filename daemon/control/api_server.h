// The admin API on a unix socket: the routes of api_router.h behind the server of service/http.
#pragma once

#include <memory>
#include <optional>

#include "base/result.h"
#include "daemon/control/agent_service.h"
#include "service/http/server.h"
#include "service/unix_listener.h"

namespace tidepool::daemon {

using ApiServerOptions = http::ServerOptions;
using ApiServerCounters = http::ServerCounters;

ApiServerOptions api_server_options(const Config& config);

class ApiServer {
 public:
  // Answers when this returns. `service` must outlive the server. With a `listener`, whoever connected to it before is
  // answered too; without, the errors are those of UnixListener as well.
  static Result<std::unique_ptr<ApiServer>> start(const ApiServerOptions& options, AgentService& service,
                                                  std::optional<UnixListener> listener = std::nullopt);
  // Stops accepting, closes connections, waits for calls of the service that are running.
  ~ApiServer();

  // Thread-safe.
  ApiServerCounters counters() const { return server_->counters(); }
  Result<> reopen_audit_log() { return server_->reopen_audit_log(); }

 private:
  class Routes;
  explicit ApiServer(AgentService& service);
  std::unique_ptr<Routes> routes_;
  std::unique_ptr<http::Server> server_;
};

}  // namespace tidepool::daemon
