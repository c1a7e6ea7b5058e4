// A memory server: its memory, its sockets, its loops.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "pool/server/event_loop.h"
#include "pool/server/memd_config.h"
#include "pool/server/server_state.h"
#include "service/unix_listener.h"

namespace tidepool::pool::server {

// Plain numbers, of all loops together.
struct ServerFigures {
  SliceFigures slices;
  std::vector<std::uint64_t> requests;  // by MessageType
  std::vector<std::uint64_t> answers;   // by ErrorCode
  std::uint64_t pages_read = 0;
  std::uint64_t pages_written = 0;
  std::uint64_t pages_discarded = 0;
  std::uint64_t bytes_received = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t connections = 0;
  std::uint64_t accepted = 0;
  std::uint64_t turned_away = 0;
  std::uint64_t bad_frames = 0;
  std::uint64_t bad_tokens = 0;
  std::uint64_t cut_slow = 0;
  std::uint64_t cut_silent = 0;
  bool draining = false;
};

// Thread-safe, apart from its beginning and end.
class Server {
 public:
  // Serves when this returns.
  static Result<std::unique_ptr<Server>> start(const MemdConfig& config, const protocol::ServerKey& key,
                                               const Clock& clock);
  // Cuts all connections.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Takes over what may change while it runs.
  void apply(const MemdConfig& config, const protocol::ServerKey& key);
  // Makes no more slices, and tells every client so. What was lent stays.
  void drain();
  bool drained() const { return figures().slices.slices == 0; }

  const protocol::BootId& boot() const { return state_->boot; }
  SliceStore& slices() { return *state_->store; }

  ServerFigures figures() const;
  // A number that grows as long as every loop makes progress; see Watch.
  std::vector<std::uint64_t> beats() const;
  // Why it cannot go on; empty as long as it can.
  std::string trouble() const;
  std::string summary() const;

 private:
  Server(const MemdConfig& config, std::unique_ptr<ServerState> state);
  Result<> open_listeners(const MemdConfig& config, const Clock& clock);
  Result<> start_loops(const MemdConfig& config, const Clock& clock);
  void accept(Accepted connection);
  void scrub();

  std::unique_ptr<ServerState> state_;
  std::vector<std::unique_ptr<UnixListener>> unix_;
  std::vector<UniqueFd> tcp_;
  std::vector<Listening> listening_;
  std::atomic<std::uint32_t> most_connections_;
  std::atomic<std::uint32_t> most_pending_;
  std::size_t next_loop_ = 0;
  std::atomic<std::uint64_t> turned_away_{0};
  std::atomic<std::uint64_t> accepted_{0};
  std::thread scrubber_;
  std::atomic<bool> serving_{false};  // all loops are there
  std::vector<std::unique_ptr<EventLoop>> loops_;
  std::vector<EventLoop*> takers_;  // of connections: all of them, while it serves
};

}  // namespace tidepool::pool::server
