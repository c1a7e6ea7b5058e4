// Memory servers, hosts and a store for the controller's core, simulated: one step at a time, from one seed.
//
// Messages are delayed, lost, doubled and overtaken; servers and agents end and begin anew; machines boot; the
// controller ends before or after a commit and is loaded from the store. After every step what must hold is checked.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "pool/controller/core/core.h"
#include "pool/controller/core/spread.h"

namespace tidepool::pool::controller {

inline constexpr std::uint64_t kSimulatedSlice = std::uint64_t{2} << 20;

// As the protocol says that a server behaves.
struct SimulatedServer {
  struct Held {
    HolderId holder{};
    std::uint64_t epoch = 0;
    std::uint64_t content = 0;  // version of the one page that stands for all
  };
  std::string name;
  std::string domain;
  std::uint64_t capacity = 0;  // slices
  std::uint64_t boot = 0;
  bool up = true;
  bool cut = false;  // not heard by the controller; hosts reach it
  bool registered = false;
  bool ending = false;  // it wants to, when it is empty
  std::map<std::uint64_t, Held> slices;
  std::map<std::uint64_t, std::uint64_t> fences;
  std::vector<FreeCommand> done;

  BootId boot_id() const;
  bool attach(const protocol::Claims& claims, const BootId& boot_known, bool& full);
  // The slice for its holder, in that epoch of that boot; null: refused.
  Held* reach(std::uint64_t id, std::uint64_t epoch, const BootId& boot_known);
  void begin_anew(std::uint64_t next_boot);
};

struct SimulatedSlice {
  struct Copy {
    std::uint64_t epoch = 0;
    BootId boot{};
    bool settled = false;  // the controller knows that it is in force
  };
  std::map<std::string, Copy> copies;  // by server
  bool confirmed = false;
  std::uint64_t content = 0;  // version of the page; 0: none
};

struct SimulatedVm {
  std::string name;
  HolderId holder{};
  std::uint64_t wanted = 0;  // slices
  bool forgotten = false;    // an operator said so: what it has may be taken
  std::map<std::uint64_t, SimulatedSlice> slices;
  std::uint64_t give_back = 0;
  std::set<std::tuple<std::uint64_t, std::string, std::uint64_t>> given_up;  // replicas: slice, server, epoch
  std::set<std::uint64_t> released;  // never used again, whatever an answer says that was under way
};

struct SimulatedHost {
  std::string name;
  std::uint64_t boots = 1;
  std::uint64_t agents = 1;
  std::uint64_t epoch = 0;
  bool up = true;
  std::vector<SimulatedVm> vms;
  std::vector<HolderId> gone;
  std::vector<LostReplica> lost;
  std::vector<TaskReport> reports;
};

struct PoolShape {
  unsigned servers = 4;
  unsigned domains = 3;
  unsigned hosts = 3;
  unsigned slices_per_server = 6;
  unsigned replicas = 2;
  bool faults = true;
};

class SimulatedPool {
 public:
  SimulatedPool(const PoolShape& shape, std::uint64_t seed);
  ~SimulatedPool();

  void step();    // something happens
  void settle();  // faults are over: what is under way comes to its end
  // What is wrong; empty as long as all is well.
  const std::string& wrong() const { return wrong_; }

  // The last lines of the history, for whoever looks into a failure.
  std::string told();

  Core& core() { return *core_; }
  const std::map<std::string, std::string>& records() const { return store_; }
  std::map<std::string, SimulatedServer>& servers() { return servers_; }
  std::map<std::string, SimulatedHost>& hosts() { return hosts_; }
  std::uint64_t writes() const { return writes_; }
  std::uint64_t loads() const { return loads_; }
  std::uint64_t grants() const { return grants_; }
  std::uint64_t copies() const { return copies_; }

 private:
  struct Message {
    std::string from;
    Request request;
  };
  struct Reply {
    std::string to;
    Request request;
    Answer answer;
  };

  bool chance(unsigned percent) { return shape_.faults && random_.below(100) < percent; }
  void fail(std::string what);
  void load();
  void commit(const std::vector<StateChange>& changes);
  std::optional<Answer> ask(const Request& request);
  void tick();
  void send(std::string from, Request request);
  void deliver();
  void take(const Reply& reply);

  void server_speaks(SimulatedServer& server);
  void take_server(SimulatedServer& server, const ServerAnswer& answer);
  void free_at(SimulatedServer& server, const FreeCommand& command);

  void give_up(SimulatedHost& host, SimulatedVm& vm, std::uint64_t id, const std::string& server, std::uint64_t epoch);
  void see_boots(SimulatedHost& host);
  void host_speaks(SimulatedHost& host);
  void host_acts(SimulatedHost& host);
  void take_sync(SimulatedHost& host, const SyncAnswer& answer);
  void take_grant(SimulatedHost& host, const GrantSlices& request, const GrantAnswer& answer);
  void take_confirm(SimulatedHost& host, const ConfirmSlices& request, const ConfirmAnswer& answer);
  void take_renewal(SimulatedHost& host, const RenewLeases& request, const RenewAnswer& answer);
  void do_task(SimulatedHost& host, SimulatedVm& vm, const Task& task);
  void write(SimulatedHost& host, SimulatedVm& vm, std::uint64_t id);
  void release(SimulatedHost& host, SimulatedVm& vm, std::uint64_t id);
  bool attach_all(const SliceLease& lease, SimulatedSlice& slice);
  SimulatedVm* vm_of(SimulatedHost& host, const HolderId& holder);
  std::string describe_copies();
  unsigned whole_copies(SimulatedSlice& slice, std::uint64_t id, const std::string& but);

  void disturb();
  void check();
  void check_records();

  PoolShape shape_;
  Random random_;
  CoreConfig config_;
  Context context_;
  std::map<std::string, std::string> store_;
  std::unique_ptr<Core> core_;
  std::map<std::string, SimulatedServer> servers_;
  std::map<std::string, SimulatedHost> hosts_;
  std::vector<Message> messages_;
  std::vector<Reply> replies_;
  std::map<std::uint64_t, HolderId> owners_;  // of every slice ever seen
  std::uint64_t next_name_ = 1;
  std::uint64_t writes_ = 0;
  std::uint64_t loads_ = 0;
  std::uint64_t grants_ = 0;
  std::uint64_t copies_ = 0;
  bool misled_ = false;
  std::string wrong_;
};

}  // namespace tidepool::pool::controller
