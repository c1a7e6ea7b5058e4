#include "cli/command_line.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>

#include "base/quantity_text.h"
#include "base/text.h"
#include "cli/command_line_pool.h"
#include "cli/command_tree.h"
#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/session.h"

namespace tidepool::cli {
namespace {

constexpr const char* kDefaultSocket = "/run/tidepool/agent.sock";
constexpr std::chrono::milliseconds kTopPeriod{2000};

// Everything that the parser writes into. Lives as long as the parser.
struct Line {
  CLI::App app{"Tidepool: what runs on this host's memory, and where it lies", "tidectl"};
  std::string output = "table";
  std::string watch;
  std::string timeout;
  GlobalOptions global;
  std::string vm;
  std::string text;  // a file, a size, a reason, a shell
  std::string more_text = "0";
  bool flag = false;
  AdoptArguments adopt;
  SettingArguments settings;
  LogArguments log;
  RecordArguments record;
  HeatmapArguments heatmap;
  PoolLine pool;
  PkiLine pki;
  Action action;
  bool plans = false;  // the command knows --plan
};

CLI::App* command(Line& line, CLI::App* parent, const char* name, const char* help, const char* example, Action action,
                  bool plans = false) {
  CLI::App* app = parent->add_subcommand(name, help);
  app->footer(std::string("Global options: tidectl --help\nExample:\n  ") + example);
  app->callback([&line, action = std::move(action), plans] {
    line.action = action;
    line.plans = plans;
  });
  return app;
}

CLI::App* group(CLI::App* parent, const char* name, const char* help) {
  CLI::App* app = parent->add_subcommand(name, help);
  app->require_subcommand(1);
  return app;
}

// CLI11 2.3 takes "-1" for an unsigned number and wraps it around.
const CLI::Validator kNatural(
    [](const std::string& text) {
      const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
      return digits ? std::string() : "'" + text + "' is not a whole number from 0 on";
    },
    "NUMBER");
const CLI::Validator kNotEmpty(
    [](const std::string& text) { return text.empty() ? "must not be empty" : std::string(); }, "TEXT");

// Whether there is such a group, the agent knows.
const CLI::Validator kControlGroup(
    [](const std::string& text) -> std::string {
      const std::string shown = "'" + text + "'";
      if (text.find_first_not_of("/. \t") == std::string::npos)
        return shown +
               " names no control group: give a path as in /proc/PID/cgroup, and not that of the root, in which "
               "all processes are";
      if ((text + "/").find("../") != std::string::npos || text.starts_with("./") ||
          text.find("/./") != std::string::npos || text.ends_with("/."))
        return shown + " is no control group's path: give it without '.' and '..'";
      return {};
    },
    "PATH");

const CLI::Validator kDuration(
    [](const std::string& text) {
      return parse_duration(text) ? std::string() : "'" + text + "' is not a time such as 60s or 2h";
    },
    "TIME");
const CLI::Validator kSize(
    [](const std::string& text) {
      return parse_bytes(text) ? std::string() : "'" + text + "' is not a size such as 512MiB";
    },
    "SIZE");

void vm_argument(Line& line, CLI::App* app) {
  app->add_option("VM", line.vm, "name or UUID")->required()->check(kNotEmpty);
}

void no_wait_flag(Line& line, CLI::App* app) {
  app->add_flag("--no-wait", line.flag, "start it, print its id and return");
}

void setting_options(CLI::App* app, SettingArguments& settings) {
  app->add_option("--mode", settings.mode, "observe: count only; dry-run: play it on paper; active: move")
      ->check(CLI::IsMember({"observe", "dry-run", "active"}));
  const auto setting = [&](const char* name, std::string& into, const char* help) {
    app->add_option(name, into, help)->check(kNotEmpty);
  };
  setting("--class", settings.service_class, "service class");
  setting("--guarantee", settings.guarantee, "resident memory that is never taken: 4GiB or 50%");
  setting("--limit", settings.limit, "resident memory at most: 6GiB, 75% or none");
  setting("--stall-budget", settings.stall_budget, "share of time it may wait for far pages: 1%");
  setting("--min-cold-age", settings.min_cold_age, "memory touched more recently stays: 2m");
}

void add_globals(Line& line) {
  CLI::App& app = line.app;
  app.add_option("-o,--output", line.output, "table, json or yaml")
      ->check(CLI::IsMember({"table", "json", "yaml"}))
      ->group("Global options");
  app.add_flag("--watch{2s}", line.watch, "repeat, every 2s or --watch=TIME")->group("Global options");
  app.add_option("--timeout", line.timeout, "wait so long for an answer (10s) or an operation's end (no limit)")
      ->group("Global options");
  app.add_flag("--plan", line.global.plan, "show what would be done and its arithmetic, do nothing")
      ->group("Global options");
  app.add_flag("--yes", line.global.yes, "do not ask")->group("Global options");
  app.add_flag("--no-color", line.global.no_color, "no colours (also: NO_COLOR)")->group("Global options");
  app.add_flag("-q,--quiet", line.global.quiet, "errors and what was asked for only; vm list: names only")
      ->group("Global options");
  line.global.socket = kDefaultSocket;
  app.add_option("--socket", line.global.socket, "the agent's socket (also: TIDEPOOL_SOCKET)")
      ->check(kNotEmpty)
      ->envname("TIDEPOOL_SOCKET")
      ->group("Global options");
  app.add_option("--controller", line.global.controllers,
                 "the pool's controllers: unix:/PATH, https://HOST:PORT; with commas (also: TIDEPOOL_CONTROLLER)")
      ->check(kNotEmpty)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->envname("TIDEPOOL_CONTROLLER")
      ->group("Global options");
  app.add_option("--identity", line.global.identity,
                 "for https: DIR/NAME of a certificate as pki issue makes it (also: TIDEPOOL_IDENTITY)")
      ->check(kNotEmpty)
      ->envname("TIDEPOOL_IDENTITY")
      ->group("Global options");
}

void add_general(Line& line) {
  CLI::App* app = &line.app;
  CLI::App* doctor = command(line, app, "doctor", "what this kernel and configuration offer, and what that means",
                             "tidectl doctor --fix-hints", [&line](Session& s) { return run_doctor(s, line.flag); });
  doctor->add_flag("--fix-hints", line.flag, "tell what would help");
  command(line, app, "status", "the agent and its host at a glance", "tidectl status -o json",
          [](Session& s) { return run_status(s); });
  command(line, app, "health", "is every part alive? exit 1 when not",
          "tidectl health -q || systemctl restart tidepoold", [](Session& s) { return run_health(s); });
  command(line, app, "top", "a live table of VMs", "tidectl top --watch=1s", [](Session& s) { return run_top(s); });
  CLI::App* explain = command(line, app, "explain", "why a VM is as it is, in sentences", "tidectl explain web-3",
                              [&line](Session& s) { return run_explain(s, line.vm); });
  vm_argument(line, explain);
  CLI::App* decisions =
      command(line, app, "decisions", "what was decided, and why", "tidectl decisions --vm web-3 --follow",
              [&line](Session& s) { return run_decisions(s, line.log); });
  decisions->add_option("--vm", line.log.vm, "of this VM only");
  decisions->add_option("--since", line.log.since, "after this sequence number")->check(kNatural);
  decisions->add_flag("--follow", line.log.follow, "go on as they come");
  CLI::App* operation =
      command(line, app, "operation", "what became of something started with --no-wait",
              "tidectl operation op-7 --wait", [&line](Session& s) { return run_operation(s, line.text, line.flag); });
  operation->add_option("ID", line.text, "as --no-wait printed it")->required();
  operation->add_flag("--wait", line.flag, "wait for its end, and exit as the command itself would have");
}

void add_vm_record(Line& line, CLI::App* vm) {
  CLI::App* record =
      command(line, vm, "record", "what trackers see of it, into a file that policy can be tried on",
              "tidectl vm record web-3 --file /var/log/tidepool/web-3.trace --duration 10m", [&line](Session& s) {
                line.record.no_wait = line.flag;
                return run_vm_record(s, line.vm, line.record);
              });
  vm_argument(line, record);
  CLI::Option_group* what = record->add_option_group("what", "exactly one of");
  what->add_option("--file", line.record.file, "file to create, on the agent's host; must not exist")->check(kNotEmpty);
  what->add_flag("--stop", line.record.stop, "end its recording now");
  what->require_option(1);
  record->add_option("--duration", line.record.duration, "for how long: 1s to 24h (60s)")->check(kDuration);
  record->add_option("--max-size", line.record.max_size, "ends when the file would become larger: 1MiB to 64GiB (1GiB)")
      ->check(kSize);
  no_wait_flag(line, record);
}

void add_vm_memory(Line& line, CLI::App* vm) {
  CLI::App* heatmap = command(line, vm, "heatmap", "how hot its memory was, by address and time",
                              "tidectl vm heatmap web-3\n  tidectl vm heatmap web-3 --last 1d --file web-3.svg",
                              [&line](Session& s) { return run_vm_heatmap(s, line.vm, line.heatmap); });
  vm_argument(line, heatmap);
  heatmap->add_option("--file", line.heatmap.file, "a picture instead, overwritten: x.svg or x.png")->check(kNotEmpty);
  CLI::App* wss = command(line, vm, "wss", "its working set over time, and what it could give up at which slowdown",
                          "tidectl vm wss web-3 --last 1d",
                          [&line](Session& s) { return run_vm_working_set(s, line.vm, line.heatmap.last); });
  vm_argument(line, wss);
  for (CLI::App* each : {heatmap, wss})
    each->add_option("--last", line.heatmap.last, "how far back: 1m to 7d (1h)")->check(kDuration);
}

void target_options(Line& line, CLI::App* adopt, bool domain) {
  CLI::Option_group* target = adopt->add_option_group("target", "exactly one of");
  target->add_option("--pid", line.adopt.pid, "process id")->check(CLI::PositiveNumber);
  if (domain)
    target->add_option("--domain", line.adopt.domain, "VM's name or UUID, as QEMU's options or libvirt have it")
        ->check(kNotEmpty);
  target->add_option("--cgroup", line.adopt.cgroup, "control group: its process, or the parent of all its processes")
      ->check(kControlGroup);
  target->require_option(1);
}

void mechanism_option(Line& line, CLI::App* adopt) {
  adopt
      ->add_option("--mechanism", line.adopt.mechanism,
                   "pager: to the pool, by a userfaultfd placed in the process; kernel: to zram or zswap, by the "
                   "kernel, nothing placed (--pid or --cgroup)")
      ->check(CLI::IsMember({"pager", "kernel"}));
}

void pager_options(Line& line, CLI::App* adopt) {
  adopt
      ->add_option("--mapping", line.adopt.mapping,
                   "which memory: auto (default), shared, private, all, START-END as in /proc/PID/maps, >=SIZE, or a "
                   "pattern of names such as /dev/shm/*")
      ->check(kNotEmpty);
  adopt->add_option("--force", line.adopt.force, "override a forceable finding, by its code; may be repeated")
      ->allow_extra_args(false);
}

// Of VMs and of workloads alike.
void add_shared(Line& line, CLI::App* parent, const std::string& noun, const std::string& example) {
  const std::string start = "tidectl " + noun;
  command(line, parent, "list", "all that is adopted", (start + " list --watch=2s").c_str(),
          [](Session& s) { return run_vm_list(s); });
  vm_argument(line, command(line, parent, "show", "one in detail", (start + " show " + example + " -o yaml").c_str(),
                            [&line](Session& s) { return run_vm_show(s, line.vm); }));
  CLI::App* release = command(line, parent, "release", "bring its pages home and leave the process as it was found",
                              (start + " release " + example).c_str(),
                              [&line](Session& s) { return run_vm_release(s, line.vm, line.flag); });
  vm_argument(line, release);
  no_wait_flag(line, release);
  CLI::App* set = command(
      line, parent, "set", "change its settings; --plan shows the arithmetic",
      (start + " set " + example + " --guarantee 4GiB --plan").c_str(),
      [&line](Session& s) { return run_vm_set(s, line.vm, line.settings); }, true);
  vm_argument(line, set);
  setting_options(set, line.settings);
}

CLI::App* add_adopt(Line& line, CLI::App* parent, const char* example, const char* mechanism) {
  CLI::App* adopt = command(
      line, parent, "adopt", "take a running process into care; --check only looks", example,
      [&line, mechanism](Session& s) {
        line.adopt.settings = line.settings;
        line.adopt.no_wait = line.flag;
        if (line.adopt.mechanism.empty()) line.adopt.mechanism = mechanism;
        return run_vm_adopt(s, line.adopt);
      },
      true);
  adopt->add_option("--name", line.adopt.name, "name to give it (default: QEMU's -name, else from the executable)")
      ->check(kNotEmpty);
  adopt->add_flag("--check", line.adopt.check, "only tell whether and how it would be adopted");
  mechanism_option(line, adopt);
  no_wait_flag(line, adopt);
  setting_options(adopt, line.settings);
  return adopt;
}

void add_workload(Line& line) {
  CLI::App* workload = group(&line.app, "workload", "processes and control groups; every command of vm takes them too");
  add_shared(line, workload, "workload", "cache");
  target_options(
      line,
      add_adopt(line, workload, "tidectl workload adopt --cgroup /batch.slice --name batch --mode active", "kernel"),
      false);
}

void add_vm(Line& line) {
  CLI::App* vm = group(&line.app, "vm", "adopted VMs and processes");
  add_shared(line, vm, "vm", "web-3");
  CLI::App* adopt = add_adopt(
      line, vm, "tidectl vm adopt --pid 4711 --check\n  tidectl vm adopt --domain web-3 --mode active --guarantee 4GiB",
      "");
  target_options(line, adopt, true);
  pager_options(line, adopt);
  CLI::App* hold = command(line, vm, "hold", "nothing of it moves out until unhold",
                           "tidectl vm hold web-3 --reason \"live migration\"",
                           [&line](Session& s) { return run_vm_hold(s, line.vm, true, line.text); });
  vm_argument(line, hold);
  hold->add_option("--reason", line.text, "shown in vm show");
  vm_argument(line, command(line, vm, "unhold", "moving out may go on", "tidectl vm unhold web-3",
                            [&line](Session& s) { return run_vm_hold(s, line.vm, false, ""); }));
  CLI::App* events =
      command(line, vm, "events", "what happened to it", "tidectl vm events web-3 --follow", [&line](Session& s) {
        line.log.vm = line.vm;
        return run_vm_events(s, line.log);
      });
  vm_argument(line, events);
  events->add_option("--since", line.log.since, "after this sequence number")->check(kNatural);
  events->add_flag("--follow", line.log.follow, "go on as they come");
  add_vm_record(line, vm);
  add_vm_memory(line, vm);
}

void add_host(Line& line) {
  CLI::App* host = group(&line.app, "host", "this host's memory");
  command(line, host, "show", "promised, touched, resident, far, overhead, net saved", "tidectl host show",
          [](Session& s) { return run_host_show(s); });
  command(line, host, "freeze", "stop all movement at once; faults are still answered", "tidectl host freeze",
          [](Session& s) { return run_host_frozen(s, true); });
  command(line, host, "thaw", "let memory move again", "tidectl host thaw",
          [](Session& s) { return run_host_frozen(s, false); });
  no_wait_flag(
      line, command(
                line, host, "evacuate", "bring everything home and observe only; --plan: does it fit, how long",
                "tidectl host evacuate --plan", [&line](Session& s) { return run_host_evacuate(s, line.flag); }, true));
  CLI::App* fits = command(line, host, "fits", "would one more VM fit? yes or no, with the arithmetic",
                           "tidectl host fits --guaranteed 4GiB --oversubscribed 4GiB",
                           [&line](Session& s) { return run_host_fits(s, line.text, line.more_text); });
  fits->add_option("--guaranteed", line.text, "what it holds at all times: 4GiB")->required();
  fits->add_option("--oversubscribed", line.more_text, "how much more it may want: 4GiB");
}

void add_pool_and_pki(Line& line) {
  const AddCommand add = [&line](CLI::App* parent, const char* name, const char* help, const char* example,
                                 Action action, bool plans) {
    return command(line, parent, name, help, example, std::move(action), plans);
  };
  add_pool_commands(&line.app, line.pool, add, run_pool_resize);
  add_pki_commands(&line.app, line.pki, add);
}

void add_config_and_completion(Line& line) {
  CLI::App* config = group(&line.app, "config", "the agent's configuration");
  command(line, config, "check", "is a file right? needs no agent", "tidectl config check /etc/tidepool/tidepool.toml",
          [&line](Session& s) { return run_config_check(s, line.text); })
      ->add_option("FILE", line.text, "the file")
      ->required();
  command(line, config, "show", "what is in force", "tidectl config show -o json",
          [](Session& s) { return run_config_show(s); });
  command(line, config, "diff", "what a file would change, and what waits for a restart", "tidectl config diff",
          [&line](Session& s) { return run_config_diff(s, line.text); })
      ->add_option("FILE", line.text, "default: the agent's own file");
  command(line, &line.app, "completion", "completion script for a shell", "source <(tidectl completion bash)",
          [&line](Session&) {
            std::fputs(completion_script(line.text, completion_tree(line.app))->c_str(), stdout);
            return ExitCode::kOk;
          })
      ->add_option("SHELL", line.text, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
}

int usage_error(const Line& line, int argc, char** argv, const CLI::ParseError& error) {
  const std::string hint = suggestion(line.app, argc, argv);
  std::cerr << "tidectl: " << printable(hint.starts_with("'") ? hint : error.what());
  if (!hint.empty() && !hint.starts_with("'")) std::cerr << "; " << hint;
  std::cerr << "\nRun with --help for what there is.\n";
  return static_cast<int>(ExitCode::kUsage);
}

// Absent: fine. Otherwise what is wrong.
std::optional<std::string> finish_globals(Line& line) {
  if (line.output == "json") line.global.format = Format::kJson;
  if (line.output == "yaml") line.global.format = Format::kYaml;
  const auto duration = [](const std::string& text) {
    const auto value = parse_duration(text);
    return value && value->count() > 0 ? value : std::nullopt;
  };
  if (!line.watch.empty()) {
    line.global.watch = duration(line.watch);
    if (!line.global.watch) return "--watch wants a time such as 2s, not '" + line.watch + "'";
  }
  if (!line.timeout.empty()) {
    line.global.timeout = duration(line.timeout);
    if (!line.global.timeout) return "--timeout wants a time such as 10s, not '" + line.timeout + "'";
  }
  if (line.global.plan && !line.plans) return "--plan: this command changes nothing that could be planned";
  const bool is_top = line.app.got_subcommand("top");
  if (is_top && !line.global.watch && line.global.format == Format::kTable && ::isatty(STDOUT_FILENO) == 1)
    line.global.watch = kTopPeriod;
  return std::nullopt;
}

}  // namespace

int run_command_line(int argc, char** argv) {
  Line line;
  line.app.fallthrough();  // global options may stand behind the command, where people put them
  line.app.require_subcommand(1);
  line.app.footer(
      "Exit: 0 ok, 1 failed, 2 usage, 3 refused, 4 unreachable, 5 timed out or partial.\n"
      "Examples:\n  tidectl doctor\n  tidectl vm adopt --pid 4711 --check\n  tidectl vm list -o json\n  tidectl host "
      "evacuate --plan");
  line.app.set_version_flag("--version", TIDEPOOL_VERSION);
  add_globals(line);
  add_general(line);
  add_vm(line);
  add_workload(line);
  add_host(line);
  add_pool_and_pki(line);
  add_config_and_completion(line);
  try {
    line.app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << line.app.help();
    return 0;
  } catch (const CLI::CallForVersion&) {
    std::cout << "tidectl " << TIDEPOOL_VERSION << "\n";
    return 0;
  } catch (const CLI::ParseError& error) {
    return usage_error(line, argc, argv, error);
  }
  if (const auto wrong = finish_globals(line)) {
    std::cerr << "tidectl: " << printable(*wrong) << "\n";
    return static_cast<int>(ExitCode::kUsage);
  }
  Session session(line.global);
  return static_cast<int>(line.action(session));
}

}  // namespace tidepool::cli
