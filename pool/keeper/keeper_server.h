// The inside of tidepool-keeper: holds descriptors for a process that may die, and hands them to its successor.
// Single-threaded.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "kmod-interfaces/kernel_roots.h"
#include "pool/keeper/keeper_protocol.h"

namespace tidepool::pool {

// A listening socket that only one keeper can have. The lock file beside it ("<path>.lock") stays for good: it is what
// makes replacing a stale socket safe.
class KeeperSocket {
 public:
  // Makes the folder (0700) if it is missing, refuses when another keeper has the lock or something that is no socket
  // stands in the way, and replaces a stale socket by rename, so that a client never meets a half-made one. The socket
  // is 0600.
  static Result<KeeperSocket> listen(const std::string& path);
  KeeperSocket(KeeperSocket&&) noexcept = default;
  KeeperSocket& operator=(KeeperSocket&&) noexcept = default;
  ~KeeperSocket();
  int fd() const { return socket_.get(); }

 private:
  KeeperSocket() = default;
  std::string path_;
  UniqueFd lock_;
  UniqueFd socket_;
};

class KeeperServer {
 public:
  static constexpr std::size_t kMaxClients = 64;

  // `say` gets lines for the operator. `most_held` descriptors at most.
  KeeperServer(KeeperSocket socket, std::uint64_t most_held, kernel::KernelRoots roots,
               std::function<void(const std::string&)> say);

  // Serves until told to stop: by kExit, or by SIGTERM or SIGINT, which the caller has blocked. While userfaultfds are
  // held the first such signal is refused: if the agent is dead at that moment, closing the last descriptor makes the
  // kernel hand out zeros for every far page, and a host that shuts down stops the VMs afterwards. The second signal is
  // obeyed.
  Result<> run();

  // One request, as if a client had sent it; `answer` gets a descriptor to send along, owned by the server. For run()
  // and tests.
  KeeperReply handle(const KeeperRequest& request, std::vector<UniqueFd> descriptors, int& answer);
  std::size_t held() const { return held_.size(); }

 private:
  struct Client {
    UniqueFd socket;
    std::uint64_t last_active = 0;
  };

  void accept_client();
  // False when the connection is to be closed.
  bool serve(Client& client);
  void forget(int fd);
  bool obeys_signal();
  std::size_t held_userfaultfds() const;
  KeeperReply store(const KeeperRequest& request, std::vector<UniqueFd> descriptors);
  KeeperReply reply(const KeeperRequest& request, int error, std::string text = {}) const;
  Result<> watch(int fd);

  KeeperSocket socket_;
  const std::uint64_t most_held_;
  const kernel::KernelRoots roots_;
  const std::function<void(const std::string&)> say_;
  UniqueFd epoll_;
  std::map<std::string, UniqueFd> held_;
  std::map<int, Client> clients_;
  std::uint64_t clock_ = 0;  // counts packets: orders clients by activity
  bool asked_to_stop_ = false;
  bool done_ = false;
};

}  // namespace tidepool::pool
