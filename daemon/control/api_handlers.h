// The calls behind the routes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "daemon/control/api_router.h"

namespace boost::json {
class array;
class object;
}  // namespace boost::json

namespace tidepool::daemon {

struct ApiCall {
  const ApiRequest& request;
  AgentService& service;
  std::string vm;                            // {vm}, decoded
  std::string id;                            // {id}, decoded
  std::map<std::string, std::string> query;  // decoded
};

using ApiHandler = ApiResponse (*)(const ApiCall& call);

struct ApiEntry {
  ApiRoute route;
  std::vector<std::string_view> query;  // parameters that the route knows
  ApiHandler handler;
};

// Of the agent and its host, of VMs: one table each, joined by the router.
std::vector<ApiEntry> host_entries();
std::vector<ApiEntry> vm_entries();

// Common answers.
ApiResponse document(unsigned status, const boost::json::object& object);
// A page of events or decisions.
ApiResponse log_page(boost::json::array items, std::uint64_t last_sequence, bool lost, WallTime began);
ApiResponse failed(const Error& error);
ApiResponse refused(unsigned status, std::string_view code, std::string_view message, std::string_view remedy = {});
// Parameters. An absent one gives the fallback.
Result<std::uint64_t> number_parameter(const ApiCall& call, const std::string& name, std::uint64_t fallback,
                                       std::uint64_t least, std::uint64_t most);
Result<bool> flag_parameter(const ApiCall& call, const std::string& name);

inline constexpr std::uint64_t kDefaultListLimit = 100;
inline constexpr std::uint64_t kMostListed = 1000;

}  // namespace tidepool::daemon
