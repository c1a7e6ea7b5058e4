// tidepoold, composed: the service behind the admin API, and the life of the agent from start to an orderly end.
#pragma once

#include <memory>
#include <string>

#include "daemon/control/agent_service.h"
#include "daemon/control/config.h"

namespace tidepool::daemon {

struct AgentOptions {
  std::string config_path;  // empty: built-in defaults
  Config config;
};

class Agent : public AgentService {
 public:
  // Opens the pool, finds whoever holds descriptors, starts the pager and the policy. Nothing is adopted yet.
  static Result<std::unique_ptr<Agent>> start(AgentOptions options);

  // SIGHUP: reads the file again; what needs a restart is named and waits.
  virtual Result<> reload() = 0;
  // SIGTERM: brings everything home and lets go. An error says what cannot come home and how long it would take: the
  // agent must then stay.
  virtual Result<> come_home() = 0;
  // A line for `systemctl status`.
  virtual std::string summary() const = 0;
};

}  // namespace tidepool::daemon
