// Memory servers as the pool of a host, where a controller says which slices of which servers each VM has.
//
// A thread asks the controller (docs/adr/0016-pool-controller.md): it tells of the VMs, gets slices ahead of need,
// renews leases, does the controller's tasks and gives back what it is to give back. While the controller is away
// everything goes on with what is held; nothing that is held is ever dropped because the controller does not know it.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "base/result.h"
#include "pool/client/remote_store.h"
#include "pool/controller/port/controller_port.h"
#include "pool/pool.h"

namespace tidepool::pool {

struct ControlledPoolOptions {
  std::unique_ptr<controller::ControllerPort> port;
  std::string host;      // the name that the controller knows this host by
  std::string machine;   // what tells machines apart: /etc/machine-id
  std::string boot;      // of the machine
  std::string instance;  // of this agent: random at its start
  // Of every VM's store. Its capacity is the most that a VM can ever have; `slice` must be the controller's; `lease`
  // and `lost_after` are the controller's to say.
  RemoteStoreOptions store;
  // How much could come home now, for the controller to know. Any thread; none: nothing is said.
  std::function<Bytes()> spare{};
  // Between two looks at the stores. A call to the controller is made when there is something to say.
  std::chrono::milliseconds tick{250};
};

std::unique_ptr<Pool> make_controlled_pool(ControlledPoolOptions options);

}  // namespace tidepool::pool
