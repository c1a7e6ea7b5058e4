// What goes through an HTTP server of ours, without sockets: who asks, the request, the answer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace tidepool::http {

// Who asks, as the kernel or a certificate says, never as the request says. Made by the server; a default one is
// nobody.
struct Caller {
  // Over a unix socket: SO_PEERCRED of the connection.
  std::uint32_t uid = ~0u;
  std::uint32_t gid = ~0u;
  std::int32_t pid = 0;
  // Over mutual TLS: from the client's certificate, which was verified.
  bool tls = false;
  std::string name;     // CN; printable ASCII
  std::string role;     // X of the only SAN URI "tidepool:role:X"; empty: it has none, or several
  std::string address;  // "192.0.2.7:41232"
};

struct Request {
  std::string method;
  std::string target;  // path and query as they came
  std::string body;
  std::string if_match;  // header; empty when absent
  Caller caller;
};

struct Response {
  unsigned status = 200;
  std::string body;  // JSON, with a line feed
  std::string etag;
  std::string location;
  std::string allow;  // of a 405
  // Of a 503 of one that does not lead: who does ("https://host:port"), empty when nobody is known to. Header
  // Tidepool-Leader.
  std::optional<std::string> leader = std::nullopt;
};

}  // namespace tidepool::http
