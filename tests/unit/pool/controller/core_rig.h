// A core with a few servers and one host, asked in plain words.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "pool/controller/core/core.h"

namespace tidepool::pool::controller {

class CoreRig {
 public:
  static constexpr std::uint64_t kSlice = std::uint64_t{2} << 20;

  explicit CoreRig(CoreConfig config = small());
  static CoreConfig small();

  template <class Wanted>
  Wanted ask(const Request& request) {
    Answer answer = apply(request);
    if (const auto* refusal = std::get_if<Refusal>(&answer)) {
      ADD_FAILURE() << refusal->message << " (" << refusal->arithmetic << ")";
      return {};
    }
    return std::get<Wanted>(std::move(answer));
  }
  Refusal refused(const Request& request);
  Answer apply(const Request& request);

  void add_server(const std::string& name, const std::string& domain, std::uint64_t slices, std::uint8_t boot = 1);
  RegisterServer registration(const std::string& name, const std::string& domain, std::uint64_t slices,
                              std::uint8_t boot = 1) const;
  ServerAnswer heartbeat(const std::string& name, std::vector<FreeCommand> done = {}, std::uint8_t boot = 1);
  // Every server is heard, frees what it is told to, and says so.
  void heartbeats();

  SyncHost sync_request(const std::string& host = "host") const;
  SyncAnswer sync(const std::string& host = "host");
  void add_vm(std::uint8_t holder, const std::string& name, std::uint64_t wanted, const std::string& host = "host",
              unsigned replicas = 2);
  std::vector<SyncHost>& reports() { return hosts_; }
  SyncHost& report(const std::string& host = "host");

  GrantSlices grant(std::uint8_t holder, std::uint32_t slices, const std::string& id, const std::string& host = "host",
                    unsigned replicas = 2) const;
  // Granted and confirmed.
  std::vector<SliceId> lease(std::uint8_t holder, std::uint32_t slices, const std::string& host = "host");
  ReleaseSlices release(std::uint8_t holder, std::vector<SliceId> slices, const std::string& host = "host") const;

  void pass(std::chrono::milliseconds time);  // in steps, with ticks; nobody is heard
  // The same, and servers and hosts are heard.
  void live(std::chrono::milliseconds time);
  StatusAnswer status() { return ask<StatusAnswer>(GetStatus{}); }
  VmView vm(const std::string& name);
  void reload();

  std::map<std::string, std::string> store;
  std::set<std::string> ending;  // servers that say that they want to end
  static HolderId holder_id(std::uint8_t number) { return {number}; }

 private:
  void commit(const std::vector<StateChange>& changes);
  void tick();

  CoreConfig config_;
  Context context_;
  Core core_;
  std::map<std::string, std::uint8_t> boots_;
  std::vector<SyncHost> hosts_;
  int requests_ = 0;
};

}  // namespace tidepool::pool::controller
