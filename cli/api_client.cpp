#include "cli/api_client.h"

#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <cctype>

namespace tidepool::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Local = asio::local::stream_protocol;
using boost::system::error_code;

// A thousand VMs with their mappings are about 2 MiB.
constexpr std::uint64_t kLargestAnswer = 64ull << 20;

Failure broken(const error_code& error, const std::string& socket) {
  if (error == beast::error::timeout) return failure(std::errc::timed_out, "wait for the agent on", socket);
  std::string remedy;
  if (error == boost::system::errc::no_such_file_or_directory || error == boost::system::errc::connection_refused)
    remedy = "is tidepoold running? systemctl status tidepoold";
  if (error == boost::system::errc::permission_denied) remedy = "be root or a member of the group tidepool";
  // HTTP's own errors have no errno; what matters is that there is no answer.
  const bool system =
      error.category() == boost::system::system_category() || error.category() == boost::system::generic_category();
  if (system) return failure_from(error.value(), "reach the agent on", socket, remedy);
  return failure(std::errc::connection_aborted, "reach the agent on", socket, error.message());
}

}  // namespace

Result<Reply> ApiClient::request(std::string_view method, std::string_view target, std::string_view body) const {
  if (socket_.size() > 107) return failure(std::errc::filename_too_long, "reach the agent on", socket_);
  asio::io_context io{1};
  beast::basic_stream<Local> stream(io);
  http::request<http::string_body> request;
  request.method_string({method.data(), method.size()});
  request.target({target.data(), target.size()});
  request.version(11);
  request.set(http::field::host, "tidepool");
  request.set(http::field::user_agent, "tidectl");
  request.keep_alive(false);
  if (!body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = body;
  request.prepare_payload();
  beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(kLargestAnswer);
  error_code result;

  stream.expires_after(timeout_);
  stream.async_connect(Local::endpoint(socket_), [&](error_code connected) {
    if ((result = connected)) return;
    http::async_write(stream, request, [&](error_code written, std::size_t) {
      // A server that turned us away at the door has answered before it closed: read that first.
      if (written && written != asio::error::broken_pipe && written != asio::error::connection_reset) {
        result = written;
        return;
      }
      http::async_read(stream, buffer, parser, [&](error_code read, std::size_t) { result = read; });
    });
  });
  io.run();
  if (result && !parser.is_done()) return broken(result, socket_);
  return Reply{parser.get().result_int(), std::move(parser.get().body())};
}

std::string percent_encoded(std::string_view text) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || c == '-' || c == '_' || c == '.' || c == '~') {
      result += c;
    } else {
      result += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return result;
}

}  // namespace tidepool::cli
