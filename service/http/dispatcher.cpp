#include "service/http/dispatcher.h"

#include <utility>

namespace tidepool::http {

Dispatcher::Dispatcher(const ServerOptions& options, Handler& handler, std::unique_ptr<AuditLog> audit)
    : handler_(handler),
      audit_(std::move(audit)),
      workers_(std::make_unique<WorkerPool>(options.workers, options.max_waiting)),
      urgent_(std::make_unique<WorkerPool>(1, options.max_waiting)) {}

bool Dispatcher::submit(Request request, const Handler::Route& route, std::function<void(Response)> done) {
  WorkerPool& pool = route.urgent ? *urgent_ : *workers_;
  return pool.submit(
      [this, request = std::move(request), route, done = std::move(done)] { done(answer(request, route)); });
}

void Dispatcher::end() {
  workers_.reset();
  urgent_.reset();
}

Response Dispatcher::answer(const Request& request, const Handler::Route& route) {
  static constexpr std::string_view kLeftOut = "(not recorded)";
  if (!route.changes) return handler_.answer(request);
  const std::uint64_t record = audit_->begin(request.caller, request.method, request.target,
                                             route.hide_body ? kLeftOut : std::string_view(request.body));
  Response response = handler_.answer(request);
  audit_->end(record, response.status,
              route.hide_answer && response.status < 300 ? kLeftOut : std::string_view(response.body));
  return response;
}

}  // namespace tidepool::http
