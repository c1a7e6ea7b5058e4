// Three controllers on three members of etcd, all of their own, ended with the object.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "tests/integration/controller/controller_process.h"
#include "tests/support/etcd_cluster.h"

namespace tidepool::pool::controller::testing {

// "[...]" of TOML, for text that needs no escapes.
std::string quoted_list(const std::vector<std::string>& words);

class EtcdControllers {
 public:
  // All of them answer when this returns; see trouble(). `more` goes to every controller.
  explicit EtcdControllers(std::chrono::seconds lease, const ControllerSettings& more = {});

  // Empty: they answer. Otherwise what is wrong.
  const std::string& trouble() const { return trouble_; }
  tests::EtcdCluster& etcd() { return etcd_; }
  const std::vector<std::unique_ptr<ControllerProcess>>& all() const { return controllers_; }
  std::vector<std::string> endpoints() const;
  // The one that leads, awaited; null when none came to.
  ControllerProcess* leader() const;

 private:
  tests::EtcdCluster etcd_{3};
  std::vector<std::unique_ptr<ControllerProcess>> controllers_;
  std::string trouble_;
};

}  // namespace tidepool::pool::controller::testing
