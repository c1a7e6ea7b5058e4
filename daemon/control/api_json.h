// The API's types as JSON and back. docs/api.md describes the documents. Bytes are exact integers in fields named
// *_bytes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "daemon/control/agent_service.h"

namespace boost::json {
class object;
class value;
}  // namespace boost::json

namespace tidepool::daemon {

boost::json::object to_json(const DoctorReport& report);
boost::json::object to_json(const HealthReport& report);
boost::json::object to_json(const Finding& finding);
boost::json::object to_json(const Operation& operation);
boost::json::object to_json(const VmPolicy& policy);
boost::json::object to_json(const VmStatus& vm);
boost::json::object to_json(const AdoptOutcome& outcome);
boost::json::object to_json(const RefusedProcess& process);
boost::json::object to_json(const VmEvent& event);
boost::json::object to_json(const Decision& decision);
boost::json::object to_json(const Explanation& explanation);
boost::json::object to_json(const ChangeReport& report);
boost::json::object to_json(const HostStatus& host);
boost::json::object to_json(const AgentStatus& status);
boost::json::object to_json(const EvacuationReport& report);
boost::json::object to_json(const FitReport& report);
boost::json::object to_json(const PoolStatus& pool);
boost::json::object to_json(const RunningConfig& config);
boost::json::object to_json(const Heatmap& map);
boost::json::object to_json(const WorkingSet& set);

// What `tidepoold --doctor` prints: the same document that GET /v1/doctor answers with.
std::string doctor_document(const DoctorReport& report);

// Request bodies. A field that is not known, missing or of the wrong type is an invalid_argument error that names it.
Result<AdoptRequest> adopt_request_from(std::string_view body);
Result<VmSettings> vm_settings_from(std::string_view body);
struct HoldRequest {
  bool held = true;
  std::string reason;
};
Result<HoldRequest> hold_request_from(std::string_view body);
Result<RecordRequest> record_request_from(std::string_view body);
Result<bool> frozen_from(std::string_view body);
Result<Amount> capacity_from(std::string_view body);

}  // namespace tidepool::daemon
