// The part of the command line that is about the shared pool and its certificates.
#pragma once

#include <functional>
#include <string>

#include "cli/commands_pki.h"
#include "cli/commands_pool.h"

namespace CLI {
class App;
}

namespace tidepool::cli {

using Action = std::function<ExitCode(Session&)>;
// Makes a command below a parent: name, help, example, what it does, and whether it knows --plan.
using AddCommand = std::function<CLI::App*(CLI::App* parent, const char* name, const char* help, const char* example,
                                           Action action, bool plans)>;

// What the parser writes into. Lives as long as it.
struct PoolLine {
  std::string name;  // of a VM, node, host or tenant
  std::string file;
  std::string config;
  std::string size;
  bool wait = false;
  BoundsArguments bounds;
  LeaseFilter leases;
  HistoryArguments history;
};

struct PkiLine {
  std::string folder;
  PkiArguments arguments;
};

// `resize_embedded` is what `pool resize --size` does without a VM: the agent's own pool.
void add_pool_commands(CLI::App* root, PoolLine& line, const AddCommand& command,
                       const std::function<ExitCode(Session&, const std::string& size)>& resize_embedded);
void add_pki_commands(CLI::App* root, PkiLine& line, const AddCommand& command);

}  // namespace tidepool::cli
