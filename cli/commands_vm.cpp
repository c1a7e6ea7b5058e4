#include <boost/json.hpp>
#include <charconv>
#include <filesystem>
#include <thread>
#include <utility>

#include "base/quantity_text.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/document.h"
#include "cli/views.h"

namespace tidepool::cli {
namespace {

namespace json = boost::json;

constexpr std::chrono::milliseconds kFollowPeriod{1000};
constexpr unsigned kPage = 1000;

std::string vm_path(const std::string& vm) {
  return "/v1/vms/" + percent_encoded(vm);
}

void put_settings(json::object& body, const SettingArguments& settings) {
  const auto put = [&](const char* key, const std::string& value) {
    if (!value.empty()) body[key] = value;
  };
  put("mode", settings.mode);
  put("class", settings.service_class);
  put("guarantee", settings.guarantee);
  put("limit", settings.limit);
  if (settings.limit == "none") body["limit"] = nullptr;
  put("stall_budget", settings.stall_budget);
  put("min_cold_age", settings.min_cold_age);
}

std::optional<std::uint64_t> hexadecimal(std::string_view text) {
  if (text.starts_with("0x")) text.remove_prefix(2);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

using LogView = std::string (*)(const json::value& page, bool header, bool colour);

// Prints a log from a sequence on; with --follow for ever.
ExitCode show_log(Session& session, const std::string& route, const LogArguments& arguments, LogView view) {
  std::uint64_t since = arguments.since;
  bool header = true;
  const char joint = route.find('?') == std::string::npos ? '?' : '&';
  bool began = false;
  std::string last_log;
  bool away = false;
  while (true) {
    const std::string target = route + joint + "since=" + std::to_string(since) + "&limit=" + std::to_string(kPage);
    // Once it has begun, following goes on over a restart of the agent: it is said once that nobody answers, not every
    // second.
    Fetched page = away ? session.try_get(target) : session.get(target);
    if (!page && arguments.follow && began && page.error() == ExitCode::kUnreachable) {
      if (!away) session.note("waiting for the agent to come back");
      away = true;
      std::this_thread::sleep_for(kFollowPeriod);
      continue;
    }
    if (!page) return page.error();
    if (away) session.note("the agent answers again");
    away = false;
    // Each agent numbers from one.
    const std::string log = text_at(*page, "log_began");
    const bool another = log != std::exchange(last_log, log);
    if (std::exchange(began, true) && another) {
      session.note("the agent was started anew and numbers from the beginning");
      since = 0;
      continue;
    }
    const json::value* items = find(*page, "items");
    const std::size_t count = items && items->is_array() ? items->get_array().size() : 0;
    if (flag_at(*page, "lost") && since != 0) session.note("older entries are no longer kept");
    if (count > 0) since = number_at(items->get_array().back(), "sequence");
    // A document per page that has something, and one in any case when it is the only one.
    if (count > 0 || !arguments.follow) {
      session.show(*page, [&](const json::value& document, bool colour) { return view(document, header, colour); });
      header = false;
    }
    if (count == kPage) continue;
    if (!arguments.follow) return ExitCode::kOk;
    std::this_thread::sleep_for(kFollowPeriod);
  }
}

}  // namespace

std::optional<json::value> mapping_from(const std::string& text) {
  if (text.starts_with(">=")) {
    const std::optional<Bytes> size = parse_bytes(std::string_view(text).substr(2));
    if (!size) return std::nullopt;
    return json::value{{"at_least", size->value}};
  }
  // As in /proc/PID/maps. A name with a dash in it is not two hexadecimal numbers.
  const std::size_t dash = text.find('-');
  if (dash != std::string::npos) {
    const auto start = hexadecimal(std::string_view(text).substr(0, dash));
    const auto end = hexadecimal(std::string_view(text).substr(dash + 1));
    if (start && end) {
      if (*start >= *end || (*start | *end) % kPageSize != 0) return std::nullopt;
      return json::value{{"range", {{"start", *start}, {"end", *end}}}};
    }
  }
  const std::string name = text.starts_with("path:") ? text.substr(5) : text;
  if (name.empty()) return std::nullopt;
  return json::value{{"name", name}};
}

ExitCode run_vm_list(Session& session) {
  return session.repeat([&] {
    Fetched document = session.get_all("/v1/vms");
    if (!document) return document.error();
    // Names alone, which shells complete by, need no second question.
    if (!session.options().quiet || session.options().format != Format::kTable) {
      const Fetched refused = session.get("/v1/refused");
      if (!refused) return refused.error();
      document->get_object()["refused"] = refused->at("items");
    }
    const json::value* list = find(*document, "items");
    if (list && list->get_array().empty() && session.options().format == Format::kTable)
      session.note("no VM is adopted yet: tidectl vm adopt --help");
    session.show(*document, [&](const json::value& vms, bool colour) {
      if (!session.options().quiet) return vms_view(vms, colour);
      std::string names;
      for (const json::value& vm : find(vms, "items")->get_array()) names += printable(text_at(vm, "name")) + "\n";
      return names;
    });
    return ExitCode::kOk;
  });
}

ExitCode run_vm_show(Session& session, const std::string& vm) {
  return session.repeat([&] {
    const Fetched document = session.get(vm_path(vm));
    if (!document) return document.error();
    session.show(*document, vm_view);
    return ExitCode::kOk;
  });
}

ExitCode run_vm_adopt(Session& session, const AdoptArguments& arguments) {
  json::object body;
  if (arguments.pid != 0) body["pid"] = arguments.pid;
  if (!arguments.domain.empty()) body["domain"] = arguments.domain;
  if (!arguments.cgroup.empty()) body["cgroup"] = arguments.cgroup;
  if (!arguments.mechanism.empty()) body["mechanism"] = arguments.mechanism;
  if (!arguments.name.empty()) body["name"] = arguments.name;
  if (!arguments.mapping.empty()) {
    const std::optional<json::value> mapping = mapping_from(arguments.mapping);
    if (!mapping) {
      session.error("--mapping '" + arguments.mapping +
                    "' is neither auto, shared, private, all, START-END (page aligned), >=SIZE nor a pattern");
      return ExitCode::kUsage;
    }
    body["mapping"] = *mapping;
  }
  if (!arguments.force.empty()) {
    json::array codes;
    for (const std::string& code : arguments.force) codes.emplace_back(code);
    body["force"] = std::move(codes);
  }
  put_settings(body, arguments.settings);
  if (arguments.check || session.options().plan) {
    const Fetched outcome = session.send("POST", "/v1/adoption-check", json::serialize(body));
    if (!outcome) return outcome.error();
    session.show(*outcome, adoption_view);
    return flag_at(*outcome, "eligible") ? ExitCode::kOk : ExitCode::kRefused;
  }
  if (!arguments.force.empty()) {
    if (const auto code = session.confirm("Forced adoption can corrupt the process's memory. Adopt all the same?"))
      return *code;
  }
  Fetched operation = session.send("POST", "/v1/vms", json::serialize(body));
  if (!operation) return operation.error();
  if (!arguments.no_wait) return session.follow(std::move(*operation));
  session.show(*operation, operation_view);
  return ExitCode::kOk;
}

ExitCode run_vm_release(Session& session, const std::string& vm, bool no_wait) {
  Fetched operation = session.send("DELETE", vm_path(vm));
  if (!operation) return operation.error();
  if (!no_wait) return session.follow(std::move(*operation));
  session.show(*operation, operation_view);
  return ExitCode::kOk;
}

ExitCode run_vm_set(Session& session, const std::string& vm, const SettingArguments& settings) {
  json::object body;
  put_settings(body, settings);
  if (body.empty()) {
    session.error("name at least one setting: --mode, --class, --guarantee, --limit, --stall-budget, --min-cold-age");
    return ExitCode::kUsage;
  }
  const bool plan = session.options().plan;
  const Fetched report = session.send("PATCH", vm_path(vm) + (plan ? "?plan=true" : ""), json::serialize(body));
  if (!report) return report.error();
  if (plan || !session.options().quiet || session.options().format != Format::kTable)
    session.show(*report, change_view);
  return flag_at(*report, "allowed") ? ExitCode::kOk : ExitCode::kRefused;
}

ExitCode run_vm_hold(Session& session, const std::string& vm, bool held, const std::string& reason) {
  json::object body{{"held", held}};
  if (!reason.empty()) body["reason"] = reason;
  const Fetched done = session.send("PUT", vm_path(vm) + "/hold", json::serialize(body));
  if (!done) return done.error();
  if (!session.options().quiet)
    session.show(
        *done, [&](const json::value&, bool) { return held ? "held: nothing of it moves out\n" : "no longer held\n"; });
  return ExitCode::kOk;
}

ExitCode run_vm_record(Session& session, const std::string& vm, const RecordArguments& arguments) {
  const std::string route = vm_path(vm) + "/recording";
  if (arguments.stop) {
    const Fetched done = session.send("DELETE", route);
    if (!done) return done.error();
    if (!session.options().quiet)
      session.show(*done, [](const json::value&, bool) { return std::string("its recording ends now\n"); });
    return ExitCode::kOk;
  }
  // The agent writes, from wherever it stands: the path must mean the same to it.
  std::error_code error;
  const std::filesystem::path file = std::filesystem::absolute(arguments.file, error);
  if (error) {
    session.error("--file '" + arguments.file + "': " + error.message());
    return ExitCode::kFailed;
  }
  const json::object body{{"file", file.string()}, {"duration", arguments.duration}, {"max_size", arguments.max_size}};
  Fetched operation = session.send("POST", route, json::serialize(body));
  if (!operation) return operation.error();
  if (!arguments.no_wait) return session.follow(std::move(*operation));
  session.show(*operation, operation_view);
  return ExitCode::kOk;
}

ExitCode run_vm_events(Session& session, const LogArguments& arguments) {
  return show_log(session, vm_path(arguments.vm) + "/events", arguments, events_view);
}

ExitCode run_decisions(Session& session, const LogArguments& arguments) {
  const std::string route =
      arguments.vm.empty() ? "/v1/decisions" : "/v1/decisions?vm=" + percent_encoded(arguments.vm);
  return show_log(session, route, arguments, decisions_view);
}

ExitCode run_operation(Session& session, const std::string& id, bool wait) {
  const std::string route = "/v1/operations/" + percent_encoded(id);
  if (wait) {
    Fetched operation = session.get(route);
    if (!operation) return operation.error();
    return session.follow(std::move(*operation));
  }
  return session.repeat([&] {
    const Fetched operation = session.get(route);
    if (!operation) return operation.error();
    session.show(*operation, operation_view);
    return ExitCode::kOk;
  });
}

ExitCode run_explain(Session& session, const std::string& vm) {
  return session.repeat([&] {
    const Fetched document = session.get(vm_path(vm) + "/explanation");
    if (!document) return document.error();
    session.show(*document, explanation_view);
    return ExitCode::kOk;
  });
}

}  // namespace tidepool::cli
