#include "service/http/endpoint.h"

#include <algorithm>
#include <cctype>
#include <charconv>

namespace tidepool::http {
namespace {

constexpr std::size_t kLongestHost = 253;
constexpr std::size_t kLongestSocketPath = 107;

bool fit_for_hosts(std::string_view host) {
  return !host.empty() && host.size() <= kLongestHost && std::ranges::all_of(host, [](unsigned char c) {
    return std::isalnum(c) || c == '.' || c == '-' || c == '_' || c == ':' || c == '%';
  });
}

}  // namespace

Result<std::pair<std::string, std::uint16_t>> split_host_port(std::string_view text) {
  const auto wrong = [&](std::string remedy) {
    return failure(std::errc::invalid_argument, "read address", "'" + std::string(text.substr(0, 300)) + "'",
                   std::move(remedy));
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return wrong("expected HOST:PORT");
  std::string_view host = text.substr(0, colon);
  const std::string_view port_text = text.substr(colon + 1);
  if (host.starts_with('[') && host.ends_with(']') && host.size() > 2) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return wrong("an IPv6 address stands in brackets: [ADDRESS]:PORT");
  }
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(port_text.data(), port_text.data() + port_text.size(), port);
  if (error != std::errc{} || end != port_text.data() + port_text.size() || !fit_for_hosts(host))
    return wrong("expected HOST:PORT");
  return std::pair(std::string(host), port);
}

std::string join_host_port(const std::string& host, std::uint16_t port) {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<Endpoint> Endpoint::parse(std::string_view text) {
  Endpoint endpoint;
  const auto take = [&](std::string_view prefix) {
    const bool there = text.starts_with(prefix);
    if (there) text.remove_prefix(prefix.size());
    return there;
  };
  const std::string whole(text.substr(0, 300));
  const auto wrong = [&](std::string remedy) {
    return failure(std::errc::invalid_argument, "read endpoint", "'" + whole + "'", std::move(remedy));
  };
  if (take("unix:")) {
    if (text.empty()) return wrong("expected unix:/PATH");
    if (text.size() > kLongestSocketPath)
      return failure(std::errc::filename_too_long, "read endpoint", whole, "a socket's path has at most 107 bytes");
    endpoint.path = text;
    return endpoint;
  }
  if (take("https://")) {
    endpoint.kind = Kind::kTls;
  } else if (take("http://")) {
    endpoint.kind = Kind::kTcp;
  } else {
    return wrong("expected unix:/PATH, https://HOST:PORT or http://HOST:PORT");
  }
  if (text.ends_with('/')) text.remove_suffix(1);
  Result<std::pair<std::string, std::uint16_t>> parts = split_host_port(text);
  if (!parts || parts->second == 0)
    return wrong("expected " + std::string(whole.substr(0, whole.find(':'))) + "://HOST:PORT");
  endpoint.host = std::move(parts->first);
  endpoint.port = parts->second;
  return endpoint;
}

std::string Endpoint::text() const {
  if (kind == Kind::kUnix) return "unix:" + path;
  return (kind == Kind::kTls ? "https://" : "http://") + join_host_port(host, port);
}

}  // namespace tidepool::http
