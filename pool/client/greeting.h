// The first words on a connection: HELLO, and WELCOME.
#pragma once

#include "base/result.h"
#include "pool/client/endpoint.h"
#include "pool/protocol/handshake.h"

namespace tidepool::pool {

struct Greeting {
  protocol::Welcome welcome;
  protocol::Random random{};  // ours
  protocol::TranscriptDigest transcript{};
  bool shares_memory() const { return (welcome.features & protocol::kFeatureSharedMemory) != 0; }
  bool authenticated() const { return (welcome.features & protocol::kFeatureAuthenticatedFrames) != 0; }
};

// Reads not one byte beyond WELCOME. `authenticate`: a server that has no tags for frames is refused. `share_memory`:
// slices may be handed over, on a unix socket.
Result<Greeting> greet(int socket, bool authenticate, bool share_memory, const Patience& patience);

}  // namespace tidepool::pool
