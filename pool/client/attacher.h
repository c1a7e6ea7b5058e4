// The ATTACHs of one session (both connections to a server, from WELCOME until one of them breaks). Used by the link's
// thread only.
//
// A connection whose frames need tags is keyed by one ATTACH; until then there is one at a time, and a refusal proves
// nothing. After that many are under way at once.
#pragma once

#include <array>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "pool/client/connection.h"
#include "pool/client/link.h"

namespace tidepool::pool {

// One lease on its way.
struct AttachJob {
  Lease lease;
  // The owner's; none: it was attached before, and is attached anew.
  std::function<void(AttachOutcome, protocol::ErrorCode)> done;
  MonoTime until;  // not answered by then: lost

  std::size_t answers = 0;  // of the connections
  bool created = false;
  UniqueFd file;  // to read the slice from, where its server gives one
  protocol::ErrorCode refusal = protocol::ErrorCode::kOk;
};

class Attacher {
 public:
  using Connections = std::array<Connection*, 2>;
  explicit Attacher(const Connections& connections) : connections_(connections) {}

  void add(std::unique_ptr<AttachJob> job);
  // Sends what may be sent, takes the answers that have come, and returns the jobs that both connections answered.
  std::vector<std::unique_ptr<AttachJob>> advance();
  bool empty() const { return jobs_.empty(); }
  // Leases that were attached before, and that the server refuses without showing who it is: the session is worth
  // nothing.
  const std::optional<std::string>& hopeless() const { return hopeless_; }
  // Takes out those whose time is over; true when the session has to end: one was sent, or was attached before.
  bool take_late(MonoTime now, std::vector<std::unique_ptr<AttachJob>>& late);
  std::vector<std::unique_ptr<AttachJob>> take_all();

 private:
  struct Side {
    std::deque<AttachJob*> waiting;
    std::unordered_map<RequestTable::Id, AttachJob*> sent;
    std::vector<AttachJob*> doubted;  // refused by somebody unknown: asked again once the connection is keyed
    protocol::ErrorCode doubt = protocol::ErrorCode::kOk;
  };

  void take_answers(std::size_t side);
  void send(std::size_t side);

  Connections connections_;
  std::array<Side, 2> sides_;
  std::vector<std::unique_ptr<AttachJob>> jobs_;
  std::optional<std::string> hopeless_;
};

}  // namespace tidepool::pool
