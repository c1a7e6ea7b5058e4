#include "cli/command_line_pool.h"

#include <CLI/CLI.hpp>

#include "service/http/pki.h"

namespace tidepool::cli {
namespace {

const CLI::Validator kSomething(
    [](const std::string& text) { return text.empty() ? "must not be empty" : std::string(); }, "TEXT");
// CLI11 2.3 takes "-1" for an unsigned number and wraps it around.
CLI::Validator number_up_to(unsigned most) {
  return {[most](std::string& text) -> std::string {
            const bool digits =
                !text.empty() && text.size() < 8 && text.find_first_not_of("0123456789") == std::string::npos;
            if (digits && std::stoul(text) >= 1 && std::stoul(text) <= most) return "";
            return "'" + text + "' is not a whole number from 1 to " + std::to_string(most);
          },
          "NUMBER"};
}

CLI::App* pool_group(CLI::App* parent, const char* name, const char* help) {
  CLI::App* app = parent->add_subcommand(name, help);
  app->require_subcommand(1);
  return app;
}

void name_argument(PoolLine& line, CLI::App* app, const char* what, const char* help) {
  app->add_option(what, line.name, help)->required()->check(kSomething);
}

void bounds_options(PoolLine& line, CLI::App* app, bool reservation) {
  if (reservation)
    app->add_option("--reservation", line.bounds.reservation, "always kept for it: 2GiB, 0")->check(kSomething);
  app->add_option("--limit", line.bounds.limit, "most that it may have: 8GiB, or none")->check(kSomething);
  app->add_option("--weight", line.bounds.weight, "of its share beyond the reservation: 1, 2.5")->check(kSomething);
}

void wait_flag(PoolLine& line, CLI::App* app) {
  app->add_flag("--wait", line.wait, "until it is complete, with progress; --timeout bounds it");
}

void add_nodes(CLI::App* pool, PoolLine& line, const AddCommand& command) {
  CLI::App* node = pool_group(pool, "node", "memory servers");
  const auto named = [&](const char* name, const char* help, const char* example, Action action, bool plans) {
    CLI::App* app = command(node, name, help, example, std::move(action), plans);
    name_argument(line, app, "NODE", "name of a memory server");
    return app;
  };
  command(
      node, "list", "all, with state and use", "tidectl pool node list --watch",
      [](Session& s) { return run_pool_node_list(s); }, false);
  named(
      "show", "one in detail", "tidectl pool node show memd-1",
      [&line](Session& s) { return run_pool_node_show(s, line.name); }, false);
  wait_flag(line, named(
                      "drain", "move everything off it; --plan: would it fit?",
                      "tidectl pool node drain memd-1 --wait --timeout 1h",
                      [&line](Session& s) { return run_pool_node_drain(s, line.name, true, line.wait); }, true));
  named(
      "undrain", "let it have slices again", "tidectl pool node undrain memd-1",
      [&line](Session& s) { return run_pool_node_drain(s, line.name, false, false); }, true);
  named(
      "ok-to-stop", "may it be stopped without loss? exit 3 when not",
      "tidectl pool node ok-to-stop memd-1 && systemctl stop tidepool-memd",
      [&line](Session& s) { return run_pool_node_ok_to_stop(s, line.name); }, false);
  named(
      "forget", "a lost one that will not come back", "tidectl pool node forget memd-1 --plan",
      [&line](Session& s) { return run_pool_forget(s, Forgotten::kServer, line.name); }, true);
}

void add_hosts_and_vms(CLI::App* pool, PoolLine& line, const AddCommand& command) {
  CLI::App* vm = pool_group(pool, "vm", "VMs as the controller knows them");
  command(
      vm, "list", "all, with bounds, share and use", "tidectl pool vm list",
      [](Session& s) { return run_pool_vm_list(s); }, false);
  name_argument(line,
                command(
                    vm, "forget", "it is gone: what it holds is taken from it", "tidectl pool vm forget host-1/web-3",
                    [&line](Session& s) { return run_pool_forget(s, Forgotten::kVm, line.name); }, true),
                "VM", "HOST/VM");
  CLI::App* host = pool_group(pool, "host", "hosts as the controller knows them");
  command(
      host, "list", "all, with bounds and use", "tidectl pool host list",
      [](Session& s) { return run_pool_host_list(s); }, false);
  CLI::App* set = command(
      host, "set", "bounds of all its VMs together", "tidectl pool host set host-1 --limit 64GiB",
      [&line](Session& s) { return run_pool_set_host(s, line.name, line.bounds); }, true);
  name_argument(line, set, "HOST", "name of a host");
  bounds_options(line, set, false);
  name_argument(
      line,
      command(
          host, "forget", "it is gone: what its VMs hold is taken from them", "tidectl pool host forget host-1",
          [&line](Session& s) { return run_pool_forget(s, Forgotten::kHost, line.name); }, true),
      "HOST", "name of a host");
  CLI::App* tenant = pool_group(pool, "tenant", "bounds of all VMs of a tenant together");
  CLI::App* bounds = command(
      tenant, "set", "change them; --plan shows the arithmetic",
      "tidectl pool tenant set shop --reservation 32GiB --limit 128GiB",
      [&line](Session& s) { return run_pool_set_tenant(s, line.name, line.bounds); }, true);
  name_argument(line, bounds, "TENANT", "name of a tenant");
  bounds_options(line, bounds, true);
}

// One command for two things: with a VM what the controller gives it, without one the agent's embedded pool.
ExitCode resize(Session& session, PoolLine& line,
                const std::function<ExitCode(Session&, const std::string& size)>& resize_embedded) {
  const bool other = !line.bounds.reservation.empty() || !line.bounds.limit.empty() || !line.bounds.weight.empty();
  if (line.name.empty()) {
    if (line.size.empty() || other || line.wait) {
      session.error(other || line.wait ? "of which VM? Without one, resize knows --size only: the embedded pool's"
                                       : "--size is required");
      return ExitCode::kUsage;
    }
    return resize_embedded(session, line.size);
  }
  if (!line.size.empty() && !line.bounds.limit.empty()) {
    session.error("--size and --limit of a VM are the same: give one");
    return ExitCode::kUsage;
  }
  if (!line.size.empty()) line.bounds.limit = line.size;
  line.bounds.wait = line.wait;
  return run_pool_set_vm(session, line.name, line.bounds);
}

}  // namespace

void add_pool_commands(CLI::App* root, PoolLine& line, const AddCommand& command,
                       const std::function<ExitCode(Session&, const std::string& size)>& resize_embedded) {
  CLI::App* pool = pool_group(root, "pool", "the agent's pool, and the one that hosts share");
  command(
      pool, "status", "capacity and use: of the agent's own pool, or of the controller's with --controller",
      "tidectl pool status\n  tidectl pool status --controller https://pool-1:9843 --identity /etc/tidepool/pki/alice",
      [](Session& s) { return run_pool_status(s); }, false);
  CLI::App* size = command(
      pool, "resize", "what a VM may have of the shared pool; without VM: the embedded pool's capacity",
      "tidectl pool resize web-3 --size 8GiB --plan\n  tidectl pool resize host-1/web-3 --size 2GiB --wait\n  tidectl "
      "pool resize --size 8GiB",
      [&line, resize_embedded](Session& s) { return resize(s, line, resize_embedded); }, true);
  size->add_option("VM", line.name, "VM, or HOST/VM")->check(kSomething);
  size->add_option("--size", line.size, "a VM: its limit, 8GiB or none; the embedded pool: 8GiB or 10% of host DRAM")
      ->check(kSomething);
  bounds_options(line, size, true);
  wait_flag(line, size);
  CLI::App* leases = command(
      pool, "leases", "which slices are whose, and where", "tidectl pool leases --server memd-1",
      [&line](Session& s) { return run_pool_leases(s, line.leases); }, false);
  leases->add_option("--host", line.leases.host, "of this host only")->check(kSomething);
  leases->add_option("--vm", line.leases.vm, "of VMs of this name only")->check(kSomething);
  leases->add_option("--server", line.leases.server, "with a replica at this server")->check(kSomething);
  CLI::App* history = command(
      pool, "history", "what happened, the newest first", "tidectl pool history --of \"vm host-1/web-3\"",
      [&line](Session& s) { return run_pool_history(s, line.history); }, false);
  history->add_option("--of", line.history.subject, "\"vm HOST/VM\", \"server NAME\", \"host NAME\" or \"tenant NAME\"")
      ->check(kSomething);
  history->add_option("--limit", line.history.limit, "entries at most (50)")->check(number_up_to(1000));
  add_nodes(pool, line, command);
  add_hosts_and_vms(pool, line, command);
  command(
      pool, "backup", "all records of the controller, into a file on its machine",
      "tidectl pool backup /var/backups/tidepool-pool.db",
      [&line](Session& s) { return run_pool_backup(s, line.file); }, false)
      ->add_option("FILE", line.file, "file to create; must not exist")
      ->required()
      ->check(kSomething);
  CLI::App* restore = command(
      pool, "restore", "replace all records by a backup's; no controller may run then",
      "tidectl pool restore /var/backups/tidepool-pool.db",
      [&line](Session& s) { return run_pool_restore(s, line.file, line.config); }, false);
  restore->add_option("FILE", line.file, "as pool backup made it")->required()->check(kSomething);
  restore->add_option("--config", line.config, "the controller's configuration (default: its own default)")
      ->check(kSomething);
}

void add_pki_commands(CLI::App* root, PkiLine& line, const AddCommand& command) {
  CLI::App* pki = pool_group(root, "pki", "certificates for controllers, agents, memory servers and people");
  const auto add = [&](const char* name, const char* help, const char* example, Action action, bool days) {
    CLI::App* app = command(pki, name, help, example, std::move(action), false);
    app->add_option("DIR", line.folder, "folder of the authority")->required()->check(kSomething);
    if (days) app->add_option("--days", line.arguments.days, "how long it is valid")->check(number_up_to(36500));
    return app;
  };
  add(
      "init", "an authority of one's own; refuses to overwrite one", "tidectl pki init /etc/tidepool/pki",
      [&line](Session& s) { return run_pki_init(s, line.folder, line.arguments); }, true);
  CLI::App* issue = add(
      "issue", "a key and a certificate; refuses to overwrite one",
      "tidectl pki issue /etc/tidepool/pki host-1 --role agent\n  tidectl pki issue /etc/tidepool/pki "
      "controller-1 --role controller --host pool-1.example --host 10.0.0.1",
      [&line](Session& s) { return run_pki_issue(s, line.folder, line.arguments); }, true);
  issue->add_option("NAME", line.arguments.name, "of the host, the memory server, the controller or the person")
      ->required()
      ->check(kSomething);
  const auto roles = http::pki_roles();
  issue->add_option("--role", line.arguments.role, "what it may do")
      ->required()
      ->check(CLI::IsMember(std::vector<std::string>(roles.begin(), roles.end())));
  issue->add_option("--host", line.arguments.hosts, "name or address that a controller is reached under; repeatable")
      ->allow_extra_args(false)
      ->check(kSomething);
  CLI::App* rotate = add(
      "rotate", "new keys and certificates for one name, or for all that were issued",
      "tidectl pki rotate /etc/tidepool/pki host-1\n  tidectl pki rotate /etc/tidepool/pki --authority",
      [&line](Session& s) { return run_pki_rotate(s, line.folder, line.arguments); }, true);
  CLI::Option* name = rotate->add_option("NAME", line.arguments.name, "default: everybody")->check(kSomething);
  rotate->add_flag("--authority", line.arguments.authority, "the authority itself; the former stays trusted")
      ->excludes(name);
  add(
      "list", "what was issued, and how long it is valid", "tidectl pki list /etc/tidepool/pki",
      [&line](Session& s) { return run_pki_list(s, line.folder); }, false);
}

}  // namespace tidepool::cli
