// Between the thread that reads requests and those that answer them: which worker, and what the audit log is told.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "service/http/audit_log.h"
#include "service/http/server.h"
#include "service/http/worker_pool.h"

namespace tidepool::http {

class Dispatcher {
 public:
  // `handler` must outlive it.
  Dispatcher(const ServerOptions& options, Handler& handler, std::unique_ptr<AuditLog> audit);

  // Has a worker answer and call `done` there. False: too many wait; nothing was done.
  bool submit(Request request, const Handler::Route& route, std::function<void(Response)> done);
  // Waits for the answers under way; those that wait are dropped.
  void end();

  AuditLog& audit() { return *audit_; }

 private:
  Response answer(const Request& request, const Handler::Route& route);

  Handler& handler_;
  std::unique_ptr<AuditLog> audit_;
  std::unique_ptr<WorkerPool> workers_;
  std::unique_ptr<WorkerPool> urgent_;
};

}  // namespace tidepool::http
