// Documents as tables for people.
#pragma once

#include <string>

namespace boost::json {
class value;
}

namespace tidepool::cli {

// A message and what helps, as one line: a remedy that is a sentence of its own follows as one, another in parentheses.
std::string with_remedy(std::string message, const std::string& remedy);

// Each takes the answer of the route it is named after.
std::string doctor_view(const boost::json::value& document, bool hints, bool colour);
std::string health_view(const boost::json::value& document, bool colour);
std::string status_view(const boost::json::value& document, bool colour);
std::string host_view(const boost::json::value& document, bool colour);
std::string evacuation_view(const boost::json::value& document, bool colour);
std::string pool_view(const boost::json::value& document, bool colour);
std::string vms_view(const boost::json::value& document, bool colour);
std::string vm_view(const boost::json::value& document, bool colour);
std::string working_set_view(const boost::json::value& document, bool colour);
std::string adoption_view(const boost::json::value& document, bool colour);
std::string findings_view(const boost::json::value& findings, bool colour);
std::string change_view(const boost::json::value& document, bool colour);
std::string operation_view(const boost::json::value& document, bool colour);
// Pages of logs: the first with a header, so that the others continue it.
std::string events_view(const boost::json::value& document, bool header, bool colour);
std::string decisions_view(const boost::json::value& document, bool header, bool colour);
std::string explanation_view(const boost::json::value& document, bool colour);
std::string config_view(const boost::json::value& document, bool colour);
// Of the pool's controller.
std::string pool_status_view(const boost::json::value& document, bool colour);
std::string pool_servers_view(const boost::json::value& document, bool colour);
std::string pool_server_view(const boost::json::value& document, bool colour);
std::string pool_hosts_view(const boost::json::value& document, bool colour);
std::string pool_vms_view(const boost::json::value& document, bool colour);
std::string pool_leases_view(const boost::json::value& document, bool colour);
std::string pool_history_view(const boost::json::value& document, bool colour);
std::string pool_plan_view(const boost::json::value& document, bool colour);
// Host in two lines, then VMs with their faults.
std::string top_view(const boost::json::value& host, const boost::json::value& vms, bool colour);

}  // namespace tidepool::cli
