// A link to a memory server over TCP or a unix socket.
//
// One thread per link, and two connections, which come and go together: one for demand, one for the rest. What submit()
// can send it sends itself; answers on the demand connection are taken by whoever calls take_answers(), and by the
// link's thread when nobody did for a while; all else is the thread's.
//
// LinkEvents come from the link's thread. The first `up` says same_boot: nothing was known before that could be gone;
// what a server really has, ATTACH tells (kAttached or kCreated). A server that has another boot id or another name
// than before is told as not the same, and every lease is forgotten; where frames are authenticated only after it has
// proved that it is the one that gave the leases. While a link is not up, its requests end as kLost, and attach()
// waits.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "base/result.h"
#include "pool/client/link.h"

namespace tidepool::pool {

struct ServerLinkOptions {
  std::string name;     // for people
  std::string address;  // "unix:/path", "tcp:host:port"
  // Frames on unix sockets have tags as well; on TCP they always have.
  bool authenticate_unix = false;

  Nanoseconds connect_patience = std::chrono::seconds(2);  // for both connections until WELCOME
  Nanoseconds attach_patience = std::chrono::seconds(5);
  Nanoseconds demand_patience = std::chrono::seconds(1);
  Nanoseconds bulk_patience = std::chrono::seconds(5);
  Nanoseconds silence = std::chrono::seconds(2);          // not a byte while answers are due: the connections are cut
  Nanoseconds ping_after = std::chrono::seconds(1);       // not a byte while none are
  Nanoseconds take_after = std::chrono::milliseconds(1);  // until the link's thread looks for answers to demand reads
  Nanoseconds shortest_retry = std::chrono::milliseconds(50);
  Nanoseconds longest_retry = std::chrono::seconds(2);
};

// Begins to connect when listen() is called. To be destroyed when no other thread is in it; whatever is under way then
// ends as kLost.
Result<std::unique_ptr<Link>> make_server_link(ServerLinkOptions options);

}  // namespace tidepool::pool
