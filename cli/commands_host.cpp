#include <boost/json.hpp>
#include <iostream>
#include <map>
#include <set>

#include "base/quantity_text.h"
#include "cli/agent_program.h"
#include "cli/commands.h"
#include "cli/document.h"
#include "cli/table.h"
#include "cli/views.h"

namespace tidepool::cli {
namespace {

namespace json = boost::json;

ExitCode show_route(Session& session, std::string_view target, const View& view) {
  return session.repeat([&] {
    const Fetched document = session.get(target);
    if (!document) return document.error();
    session.show(*document, view);
    return ExitCode::kOk;
  });
}

// The agent looks at the kernel with its own privileges, so its program tells the same when no agent runs.
Fetched doctor_without_agent(Session& session) {
  const std::optional<std::string> program = find_agent_program();
  if (!program) {
    session.error("no tidepoold beside tidectl or in PATH that could look instead");
    return tl::unexpected(ExitCode::kUnreachable);
  }
  session.note("asking " + *program + " --doctor instead");
  const Result<ProgramEnd> end = run_program(*program, {"--doctor"}, true);
  if (!end) {
    session.error(end.error().message());
    return tl::unexpected(ExitCode::kFailed);
  }
  std::optional<json::value> document = parse_document(end->output);
  if (!document) {
    session.error(*program + " --doctor ended with " + std::to_string(end->exit_code) + " and told nothing");
    return tl::unexpected(ExitCode::kFailed);
  }
  return std::move(*document);
}

}  // namespace

ExitCode run_doctor(Session& session, bool hints) {
  return session.repeat([&] {
    Fetched document = session.get("/v1/doctor");
    if (!document && document.error() == ExitCode::kUnreachable) document = doctor_without_agent(session);
    if (!document) return document.error();
    session.show(*document, [&](const json::value& report, bool colour) { return doctor_view(report, hints, colour); });
    if (const json::value* rows = find(*document, "rows"); rows && rows->is_array())
      for (const json::value& row : rows->get_array())
        if (text_at(row, "verdict") == "fail") return ExitCode::kFailed;
    return ExitCode::kOk;
  });
}

ExitCode run_status(Session& session) {
  return show_route(session, "/v1/status", status_view);
}
ExitCode run_host_show(Session& session) {
  return show_route(session, "/v1/host", host_view);
}
ExitCode run_config_show(Session& session) {
  return show_route(session, "/v1/config", config_view);
}

ExitCode run_health(Session& session) {
  return session.repeat([&] {
    const Fetched document = session.send("GET", "/v1/health", {}, 503);
    if (!document) return document.error();
    session.show(*document, health_view);
    return flag_at(*document, "healthy") ? ExitCode::kOk : ExitCode::kFailed;
  });
}

ExitCode run_top(Session& session) {
  return session.repeat([&] {
    const Fetched host = session.get("/v1/host");
    if (!host) return host.error();
    const Fetched vms = session.get_all("/v1/vms");
    if (!vms) return vms.error();
    const json::value both{{"host", *host}, {"vms", *find(*vms, "items")}};
    session.show(both, [&](const json::value&, bool colour) { return top_view(*host, *vms, colour); });
    return ExitCode::kOk;
  });
}

ExitCode run_host_frozen(Session& session, bool frozen) {
  const Fetched done = session.send("PUT", "/v1/host/frozen", json::serialize(json::object{{"frozen", frozen}}));
  if (!done) return done.error();
  if (!session.options().quiet)
    session.show(*done, [&](const json::value&, bool) { return frozen ? "frozen: nothing moves\n" : "thawed\n"; });
  return ExitCode::kOk;
}

ExitCode run_host_evacuate(Session& session, bool no_wait) {
  const Fetched plan = session.get("/v1/host/evacuation");
  if (!plan) return plan.error();
  const bool possible = flag_at(*plan, "possible");
  if (session.options().plan) {
    session.show(*plan, evacuation_view);
    return possible ? ExitCode::kOk : ExitCode::kRefused;
  }
  if (!possible) {
    session.show(*plan, evacuation_view);
    session.error("refused: " + size_at(*plan, "shortfall_bytes") + " of far memory would not fit back");
    return ExitCode::kRefused;
  }
  const std::string question =
      "Bring " + size_at(*plan, "far_bytes") + " of every VM home and leave all of them in observe mode?";
  if (const auto code = session.confirm(question)) return *code;
  Fetched operation = session.send("POST", "/v1/host/evacuation");
  if (!operation) return operation.error();
  if (!no_wait) return session.follow(std::move(*operation));
  session.show(*operation, operation_view);
  return ExitCode::kOk;
}

ExitCode run_host_fits(Session& session, const std::string& guaranteed, const std::string& oversubscribed) {
  const Fetched fit = session.get("/v1/host/fit?guaranteed=" + percent_encoded(guaranteed) +
                                  "&oversubscribed=" + percent_encoded(oversubscribed));
  if (!fit) return fit.error();
  session.show(*fit, [](const json::value& document, bool) {
    return std::string(flag_at(document, "fits") ? "yes: " : "no: ") + text_at(document, "arithmetic") + "\n";
  });
  return flag_at(*fit, "fits") ? ExitCode::kOk : ExitCode::kRefused;
}

ExitCode run_pool_resize(Session& session, const std::string& size) {
  const std::string body = json::serialize(json::object{{"capacity", size}});
  const Fetched plan = session.send("PUT", "/v1/pool/embedded?plan=true", body);
  if (!plan) return plan.error();
  const bool allowed = flag_at(*plan, "allowed");
  if (session.options().plan || !allowed) {
    session.show(*plan, change_view);
    return allowed ? ExitCode::kOk : ExitCode::kRefused;
  }
  if (const auto code = session.confirm("Resize the embedded pool to " + size + "?")) return *code;
  const Fetched done = session.send("PUT", "/v1/pool/embedded", body);
  if (!done) return done.error();
  session.show(*done, change_view);
  return ExitCode::kOk;
}

ExitCode run_config_check(Session& session, const std::string& file) {
  const std::optional<std::string> program = find_agent_program();
  if (!program) {
    session.error("no tidepoold beside tidectl or in PATH to check with");
    return ExitCode::kFailed;
  }
  const bool table = session.options().format == Format::kTable;
  std::vector<std::string> arguments{"--check-config", file};
  if (!table) arguments.push_back("--json");
  const Result<ProgramEnd> end = run_program(*program, arguments, !table);
  if (!end) {
    session.error(end.error().message());
    return ExitCode::kFailed;
  }
  if (!table) {
    const std::optional<json::value> document = parse_document(end->output);
    if (!document) {
      session.error(*program + " ended with " + std::to_string(end->exit_code) + " and told nothing");
      return ExitCode::kFailed;
    }
    session.show(*document, {});
  }
  return end->exit_code == 0 ? ExitCode::kOk : ExitCode::kFailed;
}

namespace {

// What differs between the file's values and those in force, as a document of its own.
json::value difference(const json::value& running, const json::value& checked) {
  std::map<std::string, std::pair<std::string, std::string>> values;
  if (const json::value* now = find(running, "values"); now && now->is_object())
    for (const auto& [key, value] : now->get_object()) values[std::string(key)].first = text_at(value, "");
  if (const json::value* then = find(checked, "values"); then && then->is_object())
    for (const auto& [key, value] : then->get_object()) values[std::string(key)].second = text_at(value, "");
  std::set<std::string> restart;
  if (const json::value* keys = find(checked, "restart_keys"); keys && keys->is_array())
    for (const json::value& key : keys->get_array()) restart.insert(text_at(key, ""));
  json::array changes;
  for (const auto& [key, pair] : values)
    if (pair.first != pair.second)
      changes.push_back(
          {{"key", key}, {"running", pair.first}, {"file", pair.second}, {"restart", restart.contains(key)}});
  return json::object{{"changes", std::move(changes)}};
}

std::string difference_view(const json::value& document, bool colour) {
  Table table({"KEY", "RUNNING", "FILE", "APPLIES WITH"});
  for (const json::value& each : find(document, "changes")->get_array())
    table.add({text_at(each, "key"), text_at(each, "running"), text_at(each, "file"),
               flag_at(each, "restart") ? Cell("restart", Paint::kWarn) : Cell("reload")});
  return table.empty() ? "no difference\n" : table.text(colour);
}

}  // namespace

ExitCode run_config_diff(Session& session, const std::string& file) {
  const Fetched running = session.get("/v1/config");
  if (!running) return running.error();
  const std::string path = file.empty() ? text_at(*running, "path") : file;
  if (path.empty()) {
    session.error("the agent runs without a file; name one");
    return ExitCode::kUsage;
  }
  const std::optional<std::string> program = find_agent_program();
  if (!program) {
    session.error("no tidepoold beside tidectl or in PATH to read the file with");
    return ExitCode::kFailed;
  }
  const Result<ProgramEnd> end = run_program(*program, {"--check-config", path, "--json"}, true);
  if (!end) {
    session.error(end.error().message());
    return ExitCode::kFailed;
  }
  const std::optional<json::value> checked = parse_document(end->output);
  if (!checked || !flag_at(*checked, "ok")) {
    session.error(path + " has problems: tidectl config check " + path);
    return ExitCode::kFailed;
  }
  session.show(difference(*running, *checked), difference_view);
  return ExitCode::kOk;
}

}  // namespace tidepool::cli
