#include "cli/commands_pool.h"

#include <unistd.h>

#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <thread>

#include "base/quantity_text.h"
#include "cli/agent_program.h"
#include "cli/document.h"
#include "cli/views.h"

namespace tidepool::cli {
namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPoll{500};
constexpr unsigned kLargestPage = 1000;

// What is typed badly here would be refused there with less to say about it.
tl::expected<json::object, std::string> bounds_document(const BoundsArguments& bounds) {
  json::object document;
  const auto size = [&](const char* name, const std::string& text) {
    const std::optional<Bytes> bytes = parse_bytes(text);
    if (bytes) document[name] = bytes->value;
    return bytes.has_value();
  };
  if (!bounds.reservation.empty() && !size("reservation_bytes", bounds.reservation))
    return tl::unexpected("'" + bounds.reservation + "' is not a size such as 2GiB");
  if (bounds.limit == "none") {
    document["limit_bytes"] = nullptr;
  } else if (!bounds.limit.empty() && !size("limit_bytes", bounds.limit)) {
    return tl::unexpected("'" + bounds.limit + "' is neither a size such as 8GiB nor 'none'");
  }
  if (!bounds.weight.empty()) {
    double weight = 0;
    const char* const last = bounds.weight.data() + bounds.weight.size();
    const auto [end, error] = std::from_chars(bounds.weight.data(), last, weight);
    if (error != std::errc{} || end != last || !std::isfinite(weight) || weight <= 0)
      return tl::unexpected("'" + bounds.weight + "' is not a weight: a number above 0");
    document["weight"] = weight;
  }
  if (document.empty())
    return tl::unexpected(std::string("nothing to change: give --size, --reservation, --limit or --weight"));
  return document;
}

std::string plan_query(const Session& session) {
  return session.options().plan ? "?plan=true" : "";
}

// Sends a change, or asks for its plan, and shows what comes of it.
ExitCode change(Session& session, std::string_view method, const std::string& path, const std::string& body = "") {
  const Fetched done = session.send(method, path + plan_query(session), body);
  if (!done) return done.error();
  if (!session.options().quiet || session.options().format != Format::kTable) session.show(*done, pool_plan_view);
  return ExitCode::kOk;
}

ExitCode change_bounds(Session& session, std::string_view method, const std::string& path,
                       const BoundsArguments& bounds) {
  const auto document = bounds_document(bounds);
  if (!document) {
    session.error(document.error());
    return ExitCode::kUsage;
  }
  return change(session, method, path, json::serialize(*document));
}

// Asks `look` again and again for what is left to do, until that is empty.
ExitCode wait_for(Session& session, const std::string& what,
                  const std::function<tl::expected<std::string, ExitCode>()>& look) {
  const auto began = Clock::now();
  const auto& limit = session.options().timeout;
  while (true) {
    const auto left = look();
    if (!left) return session.progress("", true), left.error();
    if (left->empty()) {
      session.progress("", true);
      session.note(what + ": done");
      return ExitCode::kOk;
    }
    session.progress(what + ": " + *left, false);
    if (limit && Clock::now() - began > *limit) {
      session.progress("", true);
      session.error(what + " goes on (" + *left + "); it did not end within " + exact_text(*limit));
      return ExitCode::kTimedOut;
    }
    std::this_thread::sleep_for(kPoll);
  }
}

// The only item that `fits`; the reason why there is none was printed.
Fetched only_item(Session& session, const Fetched& list, const std::string& what,
                  const std::function<bool(const json::value&)>& fits) {
  if (!list) return tl::unexpected(list.error());
  const json::value* found = nullptr;
  for (const json::value& each : find(*list, "items")->get_array())
    if (fits(each)) found = &each;
  if (found) return *found;
  session.error("the controller knows no " + what);
  return tl::unexpected(ExitCode::kFailed);
}

// "host/vm", completed by asking where the host is left out.
tl::expected<std::string, ExitCode> vm_path(Session& session, const std::string& vm) {
  const auto path = [](const std::string& host, const std::string& name) {
    return "/v1/vms/" + percent_encoded(host) + "/" + percent_encoded(name);
  };
  if (const std::size_t slash = vm.find('/'); slash != std::string::npos)
    return path(vm.substr(0, slash), vm.substr(slash + 1));
  const Fetched list = session.get_all_after("/v1/vms?vm=" + percent_encoded(vm));
  if (!list) return tl::unexpected(list.error());
  const json::array& items = find(*list, "items")->get_array();
  if (items.size() == 1) return path(text_at(items.front(), "host"), vm);
  std::string hosts;
  for (const json::value& each : items) hosts += " " + text_at(each, "host") + "/" + vm;
  session.error(items.empty() ? "the controller knows no VM '" + vm + "'"
                              : "several hosts have one; say which:" + hosts);
  return tl::unexpected(items.empty() ? ExitCode::kFailed : ExitCode::kUsage);
}

ExitCode show_list(Session& session, const std::string& target, const View& view) {
  return session.repeat([&] {
    const Fetched document = session.get_all_after(target);
    if (!document) return document.error();
    session.show(*document, view);
    return ExitCode::kOk;
  });
}

ExitCode show_one(Session& session, const std::string& target, const View& view) {
  return session.repeat([&] {
    const Fetched document = session.get(target);
    if (!document) return document.error();
    session.show(*document, view);
    return ExitCode::kOk;
  });
}

}  // namespace

ExitCode run_pool_status(Session& session) {
  Session controller = session.controller();
  const bool named = !session.options().controllers.empty();
  const bool default_there = ::access(std::string(kControllerSocket).c_str(), F_OK) == 0;
  const bool agent_there = ::access(session.options().socket.c_str(), F_OK) == 0;
  if (named || (default_there && !agent_there)) return show_one(controller, "/v1/status", pool_status_view);
  if (default_there)
    session.note("this is the agent's own pool; the whole one: tidectl pool status --controller unix:" +
                 std::string(kControllerSocket));
  return show_one(session, "/v1/pool", pool_view);
}

ExitCode run_pool_leases(Session& session, const LeaseFilter& filter) {
  Session controller = session.controller();
  std::string target = "/v1/leases?limit=" + std::to_string(kLargestPage);
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) target += "&" + std::string(name) + "=" + percent_encoded(value);
  };
  add("host", filter.host);
  add("vm", filter.vm);
  add("server", filter.server);
  return show_list(controller, target, pool_leases_view);
}

ExitCode run_pool_history(Session& session, const HistoryArguments& arguments) {
  Session controller = session.controller();
  std::string target = "/v1/history?limit=" + std::to_string(arguments.limit);
  if (!arguments.subject.empty()) target += "&subject=" + percent_encoded(arguments.subject);
  return show_one(controller, target, pool_history_view);
}

ExitCode run_pool_set_vm(Session& session, const std::string& vm, const BoundsArguments& bounds) {
  // Before anybody is asked which VM is meant.
  if (const auto document = bounds_document(bounds); !document) {
    session.error(document.error());
    return ExitCode::kUsage;
  }
  Session controller = session.controller();
  const auto path = vm_path(controller, vm);
  if (!path) return path.error();
  const ExitCode code = change_bounds(controller, "PATCH", *path, bounds);
  if (code != ExitCode::kOk || !bounds.wait || session.options().plan) return code;
  const std::string rest = path->substr(std::string_view("/v1/vms/").size());
  const std::string target =
      "/v1/vms?host=" + rest.substr(0, rest.find('/')) + "&vm=" + rest.substr(rest.find('/') + 1);
  return wait_for(controller, "resize of " + vm, [&]() -> tl::expected<std::string, ExitCode> {
    const Fetched item = only_item(controller, controller.get_all_after(target), "VM '" + vm + "'",
                                   [](const json::value&) { return true; });
    if (!item) return tl::unexpected(item.error());
    const json::value* limit = find(*item, "limit_bytes");
    const bool above = limit && !limit->is_null() && number_at(*item, "held_bytes") > number_at(*item, "limit_bytes");
    if (number_at(*item, "give_back_bytes") == 0 && !above) return "";
    return size_at(*item, "held_bytes") + " held, " + size_at(*item, "give_back_bytes") + " to give back";
  });
}

ExitCode run_pool_set_tenant(Session& session, const std::string& tenant, const BoundsArguments& bounds) {
  Session controller = session.controller();
  return change_bounds(controller, "PUT", "/v1/tenants/" + percent_encoded(tenant), bounds);
}

ExitCode run_pool_set_host(Session& session, const std::string& host, const BoundsArguments& bounds) {
  Session controller = session.controller();
  return change_bounds(controller, "PUT", "/v1/hosts/" + percent_encoded(host), bounds);
}

ExitCode run_pool_vm_list(Session& session) {
  Session controller = session.controller();
  return show_list(controller, "/v1/vms", pool_vms_view);
}

ExitCode run_pool_host_list(Session& session) {
  Session controller = session.controller();
  return show_list(controller, "/v1/hosts", pool_hosts_view);
}

ExitCode run_pool_node_list(Session& session) {
  Session controller = session.controller();
  return show_list(controller, "/v1/servers", pool_servers_view);
}

ExitCode run_pool_node_show(Session& session, const std::string& node) {
  Session controller = session.controller();
  return controller.repeat([&] {
    const Fetched item = only_item(controller, controller.get_all_after("/v1/servers"), "memory server '" + node + "'",
                                   [&](const json::value& each) { return text_at(each, "name") == node; });
    if (!item) return item.error();
    controller.show(*item, pool_server_view);
    return ExitCode::kOk;
  });
}

ExitCode run_pool_node_drain(Session& session, const std::string& node, bool drain, bool wait) {
  Session controller = session.controller();
  const std::string path = "/v1/servers/" + percent_encoded(node);
  const ExitCode code = change(controller, "POST", path + (drain ? "/drain" : "/undrain"));
  if (code != ExitCode::kOk || !wait || session.options().plan) return code;
  return wait_for(controller, "drain of " + node, [&]() -> tl::expected<std::string, ExitCode> {
    const Fetched answer = controller.get(path + "/ok-to-stop");
    if (!answer) return tl::unexpected(answer.error());
    if (flag_at(*answer, "possible") && number_at(*answer, "slices_to_copy") == 0) return "";
    return text_at(*answer, "slices_to_copy") + " slices to move";
  });
}

ExitCode run_pool_node_ok_to_stop(Session& session, const std::string& node) {
  Session controller = session.controller();
  const Fetched answer = controller.get("/v1/servers/" + percent_encoded(node) + "/ok-to-stop");
  if (!answer) return answer.error();
  const bool possible = flag_at(*answer, "possible");
  controller.show(*answer, [&](const json::value& document, bool colour) {
    return (possible ? "yes\n" : "") + pool_plan_view(document, colour);
  });
  return possible ? ExitCode::kOk : ExitCode::kRefused;
}

ExitCode run_pool_forget(Session& session, Forgotten what, const std::string& name) {
  Session controller = session.controller();
  std::string path = (what == Forgotten::kServer ? "/v1/servers/" : "/v1/hosts/") + percent_encoded(name);
  std::string question = what == Forgotten::kServer
                             ? "Forget memory server " + name + ", with everything that it has?"
                             : "Is host " + name + " gone? What its VMs hold is taken from them.";
  if (what == Forgotten::kVm) {
    const auto found = vm_path(controller, name);
    if (!found) return found.error();
    path = *found;
    question = "Is VM " + name + " gone? What it holds is taken from it.";
  }
  if (!session.options().plan)
    if (const auto code = controller.confirm(question)) return *code;
  return change(controller, "POST", path + "/forget");
}

ExitCode run_pool_backup(Session& session, const std::string& file) {
  Session controller = session.controller();
  const std::string path = std::filesystem::absolute(file).lexically_normal().string();
  const Fetched done = controller.send("POST", "/v1/backup", json::serialize(json::object{{"file", path}}));
  if (!done) return done.error();
  controller.show(*done, [](const json::value& document, bool) {
    return text_at(document, "records") + " records, " + size_at(document, "file_bytes") + ", in " +
           text_at(document, "file") + " on the controller's machine\n";
  });
  return ExitCode::kOk;
}

ExitCode run_pool_restore(Session& session, const std::string& file, const std::string& config) {
  const std::optional<std::string> program = find_program("tidepool-controller");
  if (!program) {
    session.error("no tidepool-controller beside tidectl or in PATH: restore on the controller's machine");
    return ExitCode::kFailed;
  }
  if (const auto code = session.confirm("Replace all that the controller knows by " + file + "?")) return *code;
  std::vector<std::string> arguments{"--restore", std::filesystem::absolute(file).lexically_normal().string()};
  if (!config.empty()) arguments.insert(arguments.end(), {"--config", config});
  const Result<ProgramEnd> end = run_program(*program, arguments, false);
  if (!end) {
    session.error(end.error().message());
    return ExitCode::kFailed;
  }
  return end->exit_code == 0 ? ExitCode::kOk : ExitCode::kFailed;
}

}  // namespace tidepool::cli
