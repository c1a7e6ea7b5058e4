#include "tests/integration/controller/etcd_controllers.h"

namespace tidepool::pool::controller::testing {
namespace {

constexpr int kControllers = 3;

}  // namespace

std::string quoted_list(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& each : words) text += (text.empty() ? "[\"" : ", \"") + each + "\"";
  return text + "]";
}

EtcdControllers::EtcdControllers(std::chrono::seconds lease, const ControllerSettings& more)
    : trouble_(etcd_.trouble()) {
  ControllerSettings settings{{"state.store", "\"etcd\""},
                              {"etcd.endpoints", quoted_list(etcd_.urls())},
                              {"etcd.lease", "\"" + std::to_string(lease.count()) + "s\""}};
  settings.insert(more.begin(), more.end());
  for (int i = 0; i < kControllers && trouble_.empty(); ++i) {
    const std::string name = "controller-" + std::to_string(i);
    controllers_.push_back(std::make_unique<ControllerProcess>(settings, name));
    if (!controllers_.back()->start()) trouble_ = name + " does not start";
  }
}

std::vector<std::string> EtcdControllers::endpoints() const {
  std::vector<std::string> endpoints;
  for (const auto& each : controllers_) endpoints.push_back(each->endpoint());
  return endpoints;
}

ControllerProcess* EtcdControllers::leader() const {
  ControllerProcess* found = nullptr;
  tests::await([&] {
    for (const auto& each : controllers_)
      if (each->pid() != 0 && each->metric("tidepool_controller_leader") == 1) found = each.get();
    return found != nullptr;
  });
  return found;
}

}  // namespace tidepool::pool::controller::testing
