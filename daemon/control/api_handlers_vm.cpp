#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <functional>

#include "base/quantity_text.h"
#include "daemon/control/api_error.h"
#include "daemon/control/api_handlers.h"
#include "daemon/control/api_json.h"

namespace tidepool::daemon {
namespace {

namespace json = boost::json;

// Of what PATCH changes and of nothing that changes by itself, so If-Match means "nobody else changed the settings".
std::string etag_of(const VmStatus& vm) {
  std::uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a: the same in every build, unlike std::hash
  for (const char c : json::serialize(to_json(vm.policy))) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3ull;
  }
  std::array<char, 24> text{};
  std::snprintf(text.data(), text.size(), "\"%016llx\"", static_cast<unsigned long long>(hash));
  return text.data();
}

ApiResponse get_vms(const ApiCall& call) {
  const Result<std::uint64_t> limit = number_parameter(call, "limit", kDefaultListLimit, 1, kMostListed);
  if (!limit) return failed(limit.error());
  Result<std::vector<VmStatus>> vms = call.service.vm_list();
  if (!vms) return failed(vms.error());
  std::ranges::sort(*vms, {}, &VmStatus::name);
  // The cursor is the last name that was seen: VMs that come and go meanwhile shift nothing.
  const auto cursor = call.query.find("cursor");
  auto at =
      cursor == call.query.end() ? vms->begin() : std::ranges::upper_bound(*vms, cursor->second, {}, &VmStatus::name);
  json::array items;
  for (; at != vms->end() && items.size() < *limit; ++at) items.emplace_back(to_json(*at));
  json::object page{{"items", std::move(items)}};
  page["next_cursor"] = at != vms->end() ? json::value(std::prev(at)->name) : json::value(nullptr);
  return document(200, page);
}

ApiResponse get_refused(const ApiCall& call) {
  json::array items;
  for (const RefusedProcess& process : call.service.refused()) items.emplace_back(to_json(process));
  return document(200, json::object{{"items", std::move(items)}});
}

ApiResponse get_vm(const ApiCall& call) {
  const Result<VmStatus> vm = call.service.vm_show(call.vm);
  if (!vm) return failed(vm.error());
  ApiResponse response = document(200, to_json(*vm));
  response.etag = etag_of(*vm);
  return response;
}

ApiResponse started(const Result<Operation>& operation) {
  if (!operation) return failed(operation.error());
  if (operation->state == OperationState::kRefused) {
    std::string message = operation->error ? operation->error->message() : "refused";
    std::string remedy;
    for (const Finding& finding : operation->findings) {
      if (finding.kind != FindingKind::kRefusal) continue;
      message = finding.message;
      remedy = finding.remedy;
      break;
    }
    return {.status = 422,
            .body = error_body("refused", message, remedy, operation->findings),
            .etag = {},
            .location = {},
            .allow = {}};
  }
  ApiResponse response = document(202, to_json(*operation));
  response.location = "/v1/operations/" + operation->id;
  return response;
}

ApiResponse post_vms(const ApiCall& call) {
  const Result<AdoptRequest> request = adopt_request_from(call.request.body);
  if (!request) return failed(request.error());
  return started(call.service.vm_adopt(*request));
}

ApiResponse post_check(const ApiCall& call) {
  const Result<AdoptRequest> request = adopt_request_from(call.request.body);
  if (!request) return failed(request.error());
  const Result<AdoptOutcome> outcome = call.service.vm_adopt_check(*request);
  if (!outcome) return failed(outcome.error());
  return document(200, to_json(*outcome));
}

ApiResponse delete_vm(const ApiCall& call) {
  return started(call.service.vm_release(call.vm));
}

ApiResponse patch_vm(const ApiCall& call) {
  const Result<bool> plan = flag_parameter(call, "plan");
  if (!plan) return failed(plan.error());
  const Result<VmSettings> settings = vm_settings_from(call.request.body);
  if (!settings) return failed(settings.error());
  if (!call.request.if_match.empty() && call.request.if_match != "*") {
    const Result<VmStatus> vm = call.service.vm_show(call.vm);
    if (!vm) return failed(vm.error());
    if (etag_of(*vm) != call.request.if_match)
      return refused(412, "conflict", "the settings of " + vm->name + " changed meanwhile",
                     "read them again and retry");
  }
  const Result<ChangeReport> report = call.service.vm_set(call.vm, *settings, *plan);
  if (!report) return failed(report.error());
  if (!report->allowed && !*plan) return refused(422, "refused", report->arithmetic, report->remedy);
  ApiResponse response = document(200, to_json(*report));
  if (const Result<VmStatus> vm = call.service.vm_show(call.vm)) response.etag = etag_of(*vm);
  return response;
}

ApiResponse put_hold(const ApiCall& call) {
  const Result<HoldRequest> request = hold_request_from(call.request.body);
  if (!request) return failed(request.error());
  const Result<> done =
      request->held ? call.service.vm_hold(call.vm, request->reason) : call.service.vm_unhold(call.vm);
  if (!done) return failed(done.error());
  return document(200, {{"held", request->held}});
}

ApiResponse post_recording(const ApiCall& call) {
  const Result<RecordRequest> request = record_request_from(call.request.body);
  if (!request) return failed(request.error());
  return started(call.service.vm_record(call.vm, *request));
}

ApiResponse delete_recording(const ApiCall& call) {
  const Result<> done = call.service.vm_record_end(call.vm);
  if (!done) return failed(done.error());
  return document(200, {{"recording", false}});
}

ApiResponse get_events(const ApiCall& call) {
  const Result<std::uint64_t> since = number_parameter(call, "since", 0, 0, ~std::uint64_t{0});
  if (!since) return failed(since.error());
  const Result<std::uint64_t> limit = number_parameter(call, "limit", kDefaultListLimit, 1, kMostListed);
  if (!limit) return failed(limit.error());
  const auto page = call.service.vm_events(call.vm, *since, *limit);
  if (!page) return failed(page.error());
  json::array items;
  for (const VmEvent& event : page->items) items.emplace_back(to_json(event));
  return log_page(std::move(items), page->last_sequence, page->lost, page->began);
}

// "1h"; how far back a view goes.
Result<std::chrono::milliseconds> last_parameter(const ApiCall& call) {
  const auto given = call.query.find("last");
  if (given == call.query.end()) return kUsualView;
  const auto last = parse_duration(given->second);
  if (last && *last >= kShortestView && *last <= kLongestView) return *last;
  return failure(std::errc::invalid_argument, "read the parameter last", "'" + given->second + "'",
                 "a time from " + exact_text(kShortestView) + " to " + exact_text(kLongestView) + ", such as 1h");
}

ApiResponse get_heatmap(const ApiCall& call) {
  const auto last = last_parameter(call);
  if (!last) return failed(last.error());
  const Result<Heatmap> map = call.service.vm_heatmap(call.vm, *last);
  if (!map) return failed(map.error());
  return document(200, to_json(*map));
}

ApiResponse get_working_set(const ApiCall& call) {
  const auto last = last_parameter(call);
  if (!last) return failed(last.error());
  const Result<WorkingSet> set = call.service.vm_working_set(call.vm, *last);
  if (!set) return failed(set.error());
  return document(200, to_json(*set));
}

ApiResponse get_explanation(const ApiCall& call) {
  const Result<Explanation> explanation = call.service.explain(call.vm);
  if (!explanation) return failed(explanation.error());
  return document(200, to_json(*explanation));
}

}  // namespace

std::vector<ApiEntry> vm_entries() {
  return {
      {{.method = "GET", .pattern = "/v1/vms"}, {"limit", "cursor"}, get_vms},
      {{.method = "POST", .pattern = "/v1/vms", .changes = true}, {}, post_vms},
      {{.method = "POST", .pattern = "/v1/adoption-check"}, {}, post_check},
      {{.method = "GET", .pattern = "/v1/refused"}, {}, get_refused},
      {{.method = "GET", .pattern = "/v1/vms/{vm}"}, {}, get_vm},
      {{.method = "PATCH", .pattern = "/v1/vms/{vm}", .changes = true}, {"plan"}, patch_vm},
      {{.method = "DELETE", .pattern = "/v1/vms/{vm}", .changes = true}, {}, delete_vm},
      {{.method = "PUT", .pattern = "/v1/vms/{vm}/hold", .changes = true}, {}, put_hold},
      {{.method = "POST", .pattern = "/v1/vms/{vm}/recording", .changes = true}, {}, post_recording},
      {{.method = "DELETE", .pattern = "/v1/vms/{vm}/recording", .changes = true}, {}, delete_recording},
      {{.method = "GET", .pattern = "/v1/vms/{vm}/heatmap"}, {"last"}, get_heatmap},
      {{.method = "GET", .pattern = "/v1/vms/{vm}/working-set"}, {"last"}, get_working_set},
      {{.method = "GET", .pattern = "/v1/vms/{vm}/events"}, {"since", "limit"}, get_events},
      {{.method = "GET", .pattern = "/v1/vms/{vm}/explanation"}, {}, get_explanation},
  };
}

}  // namespace tidepool::daemon
