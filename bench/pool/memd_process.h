// A tidepool-memd of its own, from the folder of this program.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/units.h"
#include "pool/protocol/handshake.h"

namespace tidepool::bench {

class MemdProcess {
 public:
  // `port`: over TCP on the loopback device; 0: over a unix socket. `share`: what it lends is handed over to be read.
  // Throws when it cannot be started.
  MemdProcess(int port, Bytes capacity, bool authenticate_unix, bool share = false);
  ~MemdProcess();
  MemdProcess(const MemdProcess&) = delete;
  MemdProcess& operator=(const MemdProcess&) = delete;

  const std::string& address() const { return address_; }  // as for a link
  pid_t pid() const { return pid_; }
  static protocol::ServerKey key();

 private:
  std::string folder_;
  std::string address_;
  pid_t pid_ = -1;
};

}  // namespace tidepool::bench
