// A real memory server in a folder of its own, with a unix and a TCP socket.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>

#include "pool/protocol/handshake.h"
#include "tests/integration/memd/memd_client.h"
#include "tests/support/program.h"

namespace tidepool::pool::server::testing {

// Dotted keys and their values as TOML text.
using MemdSettings = std::map<std::string, std::string>;

class MemdProcess {
 public:
  explicit MemdProcess(MemdSettings settings = {});
  // Killed. Shows its log when the test failed.
  ~MemdProcess();
  MemdProcess(const MemdProcess&) = delete;
  MemdProcess& operator=(const MemdProcess&) = delete;

  // Waits until it serves.
  bool start();
  void launch();
  void signal(int number) const;
  // The exit status, as await_exit tells it.
  int await_end();
  void write_settings(const MemdSettings& settings);

  std::string unix_address() const { return "unix:" + (folder_ / "memd.sock"); }
  std::string tcp_address() const { return "tcp:127.0.0.1:" + std::to_string(port_); }
  MemdClient connect_unix() const { return MemdClient(unix_address(), key_); }
  MemdClient connect_tcp() const { return MemdClient(tcp_address(), key_); }
  const protocol::ServerKey& key() const { return key_; }
  pid_t pid() const { return pid_; }
  int metrics_port() const { return metrics_port_; }
  std::string config() const { return folder_ / "memd.toml"; }
  std::string key_file() const { return folder_ / "memd.key"; }
  std::string log() const { return tests::read_file(folder_ / "memd.log"); }
  // Of its metrics.
  double metric(const std::string& series) const;
  // Resident memory in bytes: its own, and the shared one that it donates.
  std::uint64_t own_memory() const;
  std::uint64_t donated_memory() const;

 private:
  tests::TestFolder folder_;
  protocol::ServerKey key_{};
  int port_ = 0;
  int metrics_port_ = 0;
  MemdSettings settings_;
  pid_t pid_ = 0;
};

}  // namespace tidepool::pool::server::testing
