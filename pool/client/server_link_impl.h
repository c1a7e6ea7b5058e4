// Of server_link.h: its state. Private to server_link*.cpp.
#pragma once

#include <atomic>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.h"
#include "pool/client/attacher.h"
#include "pool/client/connection.h"
#include "pool/client/endpoint.h"
#include "pool/client/server_link.h"
#include "pool/client/slice_files.h"

namespace tidepool::pool {

class ServerLink final : public Link {
 public:
  ServerLink(ServerLinkOptions options, Endpoint endpoint, UniqueFd wake, UniqueFd stop, UniqueFd epoll,
             UniqueFd answers);
  ~ServerLink() override;

  const std::string& server() const override { return options_.name; }
  void listen(LinkEvents events) override;
  void attach(const Lease& lease, std::function<void(AttachOutcome, protocol::ErrorCode)> done) override;
  void release(protocol::SliceId slice) override;
  void expect_boot(const protocol::BootId& boot) override;
  Result<> move_to(const std::string& address) override;
  void submit(LinkRequest& request) override;
  bool cancel(LinkRequest& request) override;
  int answers_descriptor() const override { return answers_.get(); }
  void take_answers() override;
  LinkFigures figures() const override;

 private:
  // What others ask the link's thread for, in order.
  struct Command {
    std::unique_ptr<AttachJob> attach;
    protocol::SliceId release{};  // if there is no job
  };
  struct Known {
    protocol::BootId boot{};
    std::string name;
    bool operator==(const Known&) const = default;
  };

  bool authenticates() const { return !endpoint_.is_unix || options_.authenticate_unix; }
  Connection& connection_for(const LinkRequest& request) {
    return request.priority == Priority::kDemand ? demand_ : bulk_;
  }
  void wake();
  bool read_at_once(LinkRequest& request);

  // The link's thread.
  void run();
  bool moves() const;
  void take_new_address();
  Result<> begin_session();
  Result<Known> greet_on(Connection& connection, std::uint32_t events, const Patience& patience);
  std::string run_session();  // why it ended
  void end_session(const std::string& why, bool quietly);
  void wait_for_retry();
  void take_commands();
  void tend_attaches();
  void settle(AttachJob& job);
  void settle_anew(AttachJob& job);
  void give_up_late_attaches();
  void come_up();
  void wait_and_serve();
  void receive_on(Connection& connection);
  Nanoseconds check_every() const;
  void drain_wake();

  const ServerLinkOptions options_;
  const UniqueFd wake_;
  const UniqueFd stop_;
  const UniqueFd epoll_;
  const UniqueFd answers_;
  LinkCounters counters_;
  Connection demand_;
  Connection bulk_;
  SliceFiles files_;
  LinkEvents link_events_;

  std::atomic<Nanoseconds::rep> last_taken_{0};
  std::atomic<bool> asleep_{false};  // the thread waits for long: whoever sends wakes it
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  LinkState state_ = LinkState::kConnecting;
  std::string why_;
  std::deque<Command> commands_;
  std::optional<protocol::BootId> expected_boot_;
  std::string address_;           // the newest
  std::optional<Endpoint> next_;  // parsed from it, and not taken yet

  // The link's thread only.
  Endpoint endpoint_;
  Attacher attacher_;
  std::unordered_map<protocol::SliceId, Lease> leases_;  // attached once, and not given back
  std::optional<Known> known_;
  Known met_;             // in this session
  bool strange_ = false;  // what was met is not what was known
  std::size_t anew_ = 0;  // attaches that are under way before the link can be up
  std::optional<protocol::SliceId> created_while_asking_;
  bool up_ = false;
  bool told_draining_ = false;
  MonoTime up_since_{};
  MonoTime next_check_{};
  MonoTime busy_until_{};  // demand was seen before: the thread looks again soon
  Nanoseconds retry_;
  std::minstd_rand random_{std::random_device{}()};

  std::thread thread_;
};

}  // namespace tidepool::pool
