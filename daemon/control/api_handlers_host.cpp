#include <boost/json.hpp>

#include "base/quantity_text.h"
#include "daemon/control/api_error.h"
#include "daemon/control/api_handlers.h"
#include "daemon/control/api_json.h"

namespace tidepool::daemon {
namespace {

namespace json = boost::json;

template <class T>
ApiResponse answer_with(const Result<T>& result) {
  if (!result) return failed(result.error());
  return document(200, to_json(*result));
}

ApiResponse get_version(const ApiCall& call) {
  const Result<AgentStatus> status = call.service.status();
  if (!status) return failed(status.error());
  return document(200, {{"version", status->version}, {"api", "v1"}});
}

ApiResponse get_status(const ApiCall& call) {
  return answer_with(call.service.status());
}
ApiResponse get_doctor(const ApiCall& call) {
  return answer_with(call.service.doctor());
}
ApiResponse get_config(const ApiCall& call) {
  return answer_with(call.service.config_show());
}
ApiResponse get_host(const ApiCall& call) {
  return answer_with(call.service.host_show());
}
ApiResponse get_pool(const ApiCall& call) {
  return answer_with(call.service.pool_status());
}
ApiResponse get_operation(const ApiCall& call) {
  return answer_with(call.service.operation(call.id));
}
ApiResponse get_evacuation(const ApiCall& call) {
  return answer_with(call.service.host_evacuation_plan());
}

// "4GiB"; nothing where it is not given.
Result<Bytes> size_parameter(const ApiCall& call, const std::string& name) {
  const auto given = call.query.find(name);
  if (given == call.query.end()) return Bytes{};
  if (const auto size = parse_bytes(given->second)) return *size;
  return failure(std::errc::invalid_argument, "read the parameter " + name, given->second, "a size such as 4GiB");
}

ApiResponse get_fit(const ApiCall& call) {
  const Result<Bytes> guaranteed = size_parameter(call, "guaranteed");
  if (!guaranteed) return failed(guaranteed.error());
  const Result<Bytes> oversubscribed = size_parameter(call, "oversubscribed");
  if (!oversubscribed) return failed(oversubscribed.error());
  return answer_with(call.service.host_fits(*guaranteed, *oversubscribed));
}

// The document is the same either way; the status is for probes that read nothing else.
ApiResponse get_health(const ApiCall& call) {
  const Result<HealthReport> health = call.service.health();
  if (!health) return failed(health.error());
  return document(health->healthy() ? 200 : 503, to_json(*health));
}

ApiResponse put_frozen(const ApiCall& call) {
  const Result<bool> frozen = frozen_from(call.request.body);
  if (!frozen) return failed(frozen.error());
  const Caller& caller = call.request.caller;
  const Result<> done = *frozen ? call.service.host_freeze(caller) : call.service.host_thaw(caller);
  if (!done) return failed(done.error());
  return document(200, {{"frozen", *frozen}});
}

ApiResponse post_evacuation(const ApiCall& call) {
  const Result<Operation> operation = call.service.host_evacuate();
  if (!operation) return failed(operation.error());
  ApiResponse response = document(202, to_json(*operation));
  response.location = "/v1/operations/" + operation->id;
  return response;
}

ApiResponse put_pool(const ApiCall& call) {
  const Result<bool> plan = flag_parameter(call, "plan");
  if (!plan) return failed(plan.error());
  const Result<Amount> capacity = capacity_from(call.request.body);
  if (!capacity) return failed(capacity.error());
  const Result<ChangeReport> report = call.service.pool_resize(*capacity, *plan);
  if (!report) return failed(report.error());
  if (!report->allowed && !*plan) return refused(422, "refused", report->arithmetic, report->remedy);
  return document(200, to_json(*report));
}

ApiResponse get_decisions(const ApiCall& call) {
  const Result<std::uint64_t> since = number_parameter(call, "since", 0, 0, ~std::uint64_t{0});
  if (!since) return failed(since.error());
  const Result<std::uint64_t> limit = number_parameter(call, "limit", kDefaultListLimit, 1, kMostListed);
  if (!limit) return failed(limit.error());
  const auto vm = call.query.find("vm");
  const auto page = call.service.decisions(vm == call.query.end() ? "" : vm->second, *since, *limit);
  if (!page) return failed(page.error());
  json::array items;
  for (const Decision& decision : page->items) items.emplace_back(to_json(decision));
  return log_page(std::move(items), page->last_sequence, page->lost, page->began);
}

}  // namespace

std::vector<ApiEntry> host_entries() {
  return {
      {{.method = "GET", .pattern = "/v1/version", .urgent = true}, {}, get_version},
      {{.method = "GET", .pattern = "/v1/health", .urgent = true}, {}, get_health},
      {{.method = "GET", .pattern = "/v1/status"}, {}, get_status},
      {{.method = "GET", .pattern = "/v1/doctor"}, {}, get_doctor},
      {{.method = "GET", .pattern = "/v1/config"}, {}, get_config},
      {{.method = "GET", .pattern = "/v1/host"}, {}, get_host},
      {{.method = "PUT", .pattern = "/v1/host/frozen", .changes = true, .urgent = true}, {}, put_frozen},
      {{.method = "GET", .pattern = "/v1/host/evacuation"}, {}, get_evacuation},
      {{.method = "GET", .pattern = "/v1/host/fit"}, {"guaranteed", "oversubscribed"}, get_fit},
      {{.method = "POST", .pattern = "/v1/host/evacuation", .changes = true}, {}, post_evacuation},
      {{.method = "GET", .pattern = "/v1/pool"}, {}, get_pool},
      {{.method = "PUT", .pattern = "/v1/pool/embedded", .changes = true}, {"plan"}, put_pool},
      {{.method = "GET", .pattern = "/v1/decisions"}, {"vm", "since", "limit"}, get_decisions},
      {{.method = "GET", .pattern = "/v1/operations/{id}"}, {}, get_operation},
  };
}

}  // namespace tidepool::daemon
