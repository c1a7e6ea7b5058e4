#include "pool/controller/api/forms.h"

#include <algorithm>
#include <array>
#include <vector>

#include "service/http/target.h"

namespace tidepool::pool::controller {
namespace {

constexpr std::size_t kLargestRegistration = 96 << 20;  // a million slices
constexpr std::size_t kLargestSync = 8 << 20;           // four thousand VMs

using Kind = http::Handler::Route;

// Heartbeats, syncs and renewals change nothing that somebody decided: they are not in the audit log.
constexpr Kind kQuiet{};
constexpr Kind kChanges{.changes = true};
constexpr Kind kUrgent{.urgent = true};

constexpr std::array<RefusalForm, 7> kRefusals{{{Refusal::Code::kInvalid, 400, "invalid"},
                                                {Refusal::Code::kNotFound, 404, "not_found"},
                                                {Refusal::Code::kConflict, 409, "conflict"},
                                                {Refusal::Code::kStale, 409, "stale"},
                                                {Refusal::Code::kNoCapacity, 422, "no_capacity"},
                                                {Refusal::Code::kOverLimit, 422, "over_limit"},
                                                {Refusal::Code::kUnavailable, 503, "unavailable"}}};

}  // namespace

std::span<const RequestForm> request_forms() {
  static const std::vector<RequestForm> forms{
      {"POST",
       "/v1/servers/{name}/register",
       RegisterServer{},
       Role::kServer,
       {.changes = true, .hide_body = true, .max_body = kLargestRegistration}},
      {"POST", "/v1/servers/{name}/heartbeat", ServerHeartbeat{}, Role::kServer, kQuiet},
      {"POST", "/v1/hosts/{name}/sync", SyncHost{}, Role::kAgent, {.max_body = kLargestSync}},
      {"POST", "/v1/hosts/{name}/grants", GrantSlices{}, Role::kAgent, {.changes = true, .hide_answer = true}},
      {"POST", "/v1/hosts/{name}/confirmations", ConfirmSlices{}, Role::kAgent, kChanges},
      {"POST", "/v1/hosts/{name}/renewals", RenewLeases{}, Role::kAgent, kQuiet},
      {"POST", "/v1/hosts/{name}/releases", ReleaseSlices{}, Role::kAgent, kChanges},
      {"PATCH", "/v1/vms/{host}/{vm}", SetVm{}, Role::kAdmin, kChanges},
      {"PUT", "/v1/tenants/{name}", SetTenant{}, Role::kAdmin, kChanges},
      {"PUT", "/v1/hosts/{name}", SetHost{}, Role::kAdmin, kChanges},
      {"POST", "/v1/servers/{name}/drain", DrainServer{}, Role::kAdmin, kChanges},
      {"POST", "/v1/servers/{name}/undrain", DrainServer{.server = {}, .drain = false}, Role::kAdmin, kChanges},
      {"GET", "/v1/servers/{name}/ok-to-stop", OkToStop{}, Role::kReader, kQuiet},
      {"POST", "/v1/servers/{name}/forget", ForgetServer{}, Role::kAdmin, kChanges},
      {"POST", "/v1/hosts/{name}/forget", ForgetHost{}, Role::kAdmin, kChanges},
      {"POST", "/v1/vms/{host}/{vm}/forget", ForgetVm{}, Role::kAdmin, kChanges},
      {"GET", "/v1/status", GetStatus{}, Role::kReader, kUrgent},
      {"GET", "/v1/servers", ListServers{}, Role::kReader, kQuiet},
      {"GET", "/v1/hosts", ListHosts{}, Role::kReader, kQuiet},
      {"GET", "/v1/vms", ListVms{}, Role::kReader, kQuiet},
      {"GET", "/v1/leases", ListLeases{}, Role::kReader, kQuiet},
      {"GET", "/v1/history", ListHistory{}, Role::kReader, kQuiet},
  };
  return forms;
}

const RequestForm& form_of(const Request& request) {
  const auto* drain = std::get_if<DrainServer>(&request);
  // Every alternative stands in the table: a test keeps it.
  return *std::ranges::find_if(request_forms(), [&](const RequestForm& form) {
    return form.kind.index() == request.index() && (!drain || std::get<DrainServer>(form.kind).drain == drain->drain);
  });
}

std::string filled(std::string_view pattern, const Parameters& values) {
  std::string target;
  while (!pattern.empty()) {
    const std::size_t open = std::min(pattern.find('{'), pattern.size());
    target += pattern.substr(0, open);
    pattern.remove_prefix(open);
    if (pattern.empty()) break;
    const std::size_t close = pattern.find('}');
    if (const auto value = values.find(std::string(pattern.substr(1, close - 1))); value != values.end())
      target += http::percent_encoded(value->second);
    pattern.remove_prefix(close + 1);
  }
  return target;
}

const RefusalForm& form_of(Refusal::Code code) {
  return *std::ranges::find(kRefusals, code, &RefusalForm::kind);
}

std::optional<Refusal::Code> refusal_code(std::string_view code) {
  const auto* const found = std::ranges::find(kRefusals, code, &RefusalForm::code);
  if (found == kRefusals.end()) return std::nullopt;
  return found->kind;
}

}  // namespace tidepool::pool::controller
