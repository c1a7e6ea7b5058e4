// The agent's /metrics endpoint: every scrape reads the parts as they are.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "daemon/agent/context.h"
#include "daemon/agent/policy_driver.h"

namespace tidepool::daemon {

class AgentMetrics {
 public:
  // `address` empty: no endpoint. `context` and `driver` must outlive it.
  static Result<std::unique_ptr<AgentMetrics>> serve(const std::string& address, Context& context,
                                                     PolicyDriver& driver);
  virtual ~AgentMetrics() = default;
};

}  // namespace tidepool::daemon
