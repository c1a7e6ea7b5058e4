// One function per command; arguments are already checked for shape.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/session.h"

namespace tidepool::cli {

// Values as they were typed; the agent reads sizes and shares itself.
struct SettingArguments {
  std::string mode;
  std::string service_class;
  std::string guarantee;
  std::string limit;  // "none" takes the limit away
  std::string stall_budget;
  std::string min_cold_age;
};

struct AdoptArguments {
  int pid = 0;
  std::string domain;
  std::string cgroup;
  std::string mechanism;  // empty: the agent's default, the pager
  std::string name;
  std::string mapping;
  bool check = false;
  bool no_wait = false;
  std::vector<std::string> force;
  SettingArguments settings;
};

struct RecordArguments {
  std::string file;
  std::string duration = "60s";
  std::string max_size = "1GiB";
  bool stop = false;
  bool no_wait = false;
};

struct HeatmapArguments {
  std::string last = "1h";
  std::string file;  // ends with .svg or .png; empty: to the terminal
};

struct LogArguments {
  std::string vm;
  unsigned long since = 0;
  bool follow = false;
};

ExitCode run_doctor(Session& session, bool hints);
ExitCode run_status(Session& session);
ExitCode run_health(Session& session);
ExitCode run_top(Session& session);

ExitCode run_vm_list(Session& session);
ExitCode run_vm_show(Session& session, const std::string& vm);
ExitCode run_vm_adopt(Session& session, const AdoptArguments& arguments);
ExitCode run_vm_release(Session& session, const std::string& vm, bool no_wait);
ExitCode run_vm_set(Session& session, const std::string& vm, const SettingArguments& settings);
ExitCode run_vm_hold(Session& session, const std::string& vm, bool held, const std::string& reason);
ExitCode run_vm_record(Session& session, const std::string& vm, const RecordArguments& arguments);
ExitCode run_vm_heatmap(Session& session, const std::string& vm, const HeatmapArguments& arguments);
ExitCode run_vm_working_set(Session& session, const std::string& vm, const std::string& last);
ExitCode run_vm_events(Session& session, const LogArguments& arguments);
ExitCode run_operation(Session& session, const std::string& id, bool wait);
ExitCode run_explain(Session& session, const std::string& vm);
ExitCode run_decisions(Session& session, const LogArguments& arguments);

ExitCode run_host_show(Session& session);
ExitCode run_host_frozen(Session& session, bool frozen);
ExitCode run_host_fits(Session& session, const std::string& guaranteed, const std::string& oversubscribed);
ExitCode run_host_evacuate(Session& session, bool no_wait);
ExitCode run_pool_resize(Session& session, const std::string& size);

ExitCode run_config_check(Session& session, const std::string& file);
ExitCode run_config_show(Session& session);
ExitCode run_config_diff(Session& session, const std::string& file);

// "shared" and the like, "/memfd:*", "7f00-7f20" as in /proc/PID/maps, ">=64MiB". Absent when it is none of them.
std::optional<boost::json::value> mapping_from(const std::string& text);

}  // namespace tidepool::cli
