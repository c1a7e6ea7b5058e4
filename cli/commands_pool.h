// The pool that several hosts share: what its controller is asked. Arguments are already checked for shape.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "cli/session.h"

namespace tidepool::cli {

// As they were typed; empty: stays as it is. "none" takes a limit away.
struct BoundsArguments {
  std::string reservation;
  std::string limit;
  std::string weight;
  bool wait = false;  // until it is complete
};

struct LeaseFilter {
  std::string host;
  std::string vm;
  std::string server;
};

struct HistoryArguments {
  std::string subject;
  unsigned limit = 50;
};

enum class Forgotten { kServer, kHost, kVm };

// The agent's own pool, as always; the controller's where one was named or no agent answers.
ExitCode run_pool_status(Session& session);
ExitCode run_pool_leases(Session& session, const LeaseFilter& filter);
ExitCode run_pool_history(Session& session, const HistoryArguments& arguments);
// `vm` is "HOST/VM", or "VM" where only one host has one of that name.
ExitCode run_pool_set_vm(Session& session, const std::string& vm, const BoundsArguments& bounds);
ExitCode run_pool_set_tenant(Session& session, const std::string& tenant, const BoundsArguments& bounds);
ExitCode run_pool_set_host(Session& session, const std::string& host, const BoundsArguments& bounds);
ExitCode run_pool_vm_list(Session& session);
ExitCode run_pool_host_list(Session& session);
ExitCode run_pool_node_list(Session& session);
ExitCode run_pool_node_show(Session& session, const std::string& node);
ExitCode run_pool_node_drain(Session& session, const std::string& node, bool drain, bool wait);
ExitCode run_pool_node_ok_to_stop(Session& session, const std::string& node);
ExitCode run_pool_forget(Session& session, Forgotten what, const std::string& name);
ExitCode run_pool_backup(Session& session, const std::string& file);
// Has tidepool-controller do it: no controller may run then.
ExitCode run_pool_restore(Session& session, const std::string& file, const std::string& config);

}  // namespace tidepool::cli
