#include "daemon/control/api_server.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <cerrno>
#include <optional>
#include <thread>

#include "daemon/control/api_error.h"
#include "daemon/control/api_router.h"
#include "daemon/control/audit_log.h"
#include "daemon/control/worker_pool.h"
#include "service/log.h"
#include "service/unix_listener.h"

namespace tidepool::daemon {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

using Local = asio::local::stream_protocol;
using Stream = beast::basic_stream<Local>;
using Request = http::request<http::string_body>;
using Response = http::response<http::string_body>;
using boost::system::error_code;

constexpr auto kPauseWithoutDescriptors = std::chrono::milliseconds(100);

Caller caller_of(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return {~0u, ~0u, 0};
  return {peer.uid, peer.gid, peer.pid};
}

Response to_http(const ApiResponse& answer, unsigned version, bool keep_alive) {
  Response response{static_cast<http::status>(answer.status), version};
  response.set(http::field::content_type, "application/json");
  response.set(http::field::cache_control, "no-store");
  if (!answer.etag.empty()) response.set(http::field::etag, answer.etag);
  if (!answer.location.empty()) response.set(http::field::location, answer.location);
  if (!answer.allow.empty()) response.set(http::field::allow, answer.allow);
  if (answer.status == 503) response.set(http::field::retry_after, "1");
  response.keep_alive(keep_alive);
  response.body() = answer.body;
  response.prepare_payload();
  return response;
}

ApiResponse plain_error(unsigned status, std::string_view code, std::string_view message,
                        std::string_view remedy = {}) {
  return {.status = status, .body = error_body(code, message, remedy), .etag = {}, .location = {}, .allow = {}};
}

ApiResponse malformed(const error_code& error) {
  if (error == http::error::body_limit) return plain_error(413, "invalid", "the request's body is too large");
  if (error == http::error::header_limit || error == http::error::buffer_overflow)
    return plain_error(431, "invalid", "the request's header is too large");
  return plain_error(400, "invalid", "this is not an HTTP request: " + error.message());
}

// One request on its way through a worker. The connection may have given up by the time the answer is there.
struct Pending {
  explicit Pending(const asio::any_io_executor& executor) : arrived(executor) {}
  ApiRequest request;
  bool audited = false;
  asio::steady_timer arrived;  // cancelled when `response` is there
  std::optional<ApiResponse> response;
};

}  // namespace

struct ApiServer::State {
  State(ApiServerOptions given, AgentService& given_service, UnixListener given_listener, std::unique_ptr<AuditLog> log)
      : options(std::move(given)),
        service(given_service),
        listener(std::move(given_listener)),
        audit(std::move(log)),
        acceptor(io),
        workers(std::make_unique<WorkerPool>(options.workers, options.max_waiting)),
        urgent(std::make_unique<WorkerPool>(1, options.max_waiting)) {}

  ApiServerOptions options;
  AgentService& service;
  UnixListener listener;
  std::unique_ptr<AuditLog> audit;
  asio::io_context io{1};
  asio::basic_socket_acceptor<Local> acceptor;
  std::unique_ptr<WorkerPool> workers;
  std::unique_ptr<WorkerPool> urgent;
  std::size_t open_connections = 0;  // of the loop's thread alone
  std::atomic<std::uint64_t> connections{0};
  std::atomic<std::uint64_t> turned_away{0};
  std::atomic<std::uint64_t> requests{0};
  std::atomic<std::uint64_t> cut_off{0};
  std::atomic<std::uint64_t> overloaded{0};
  std::thread loop;

  asio::awaitable<void> accept_all();
  asio::awaitable<void> serve(Stream stream);
  asio::awaitable<bool> read_request(Stream& stream, beast::flat_buffer& buffer, Request& request);
  asio::awaitable<ApiResponse> answer_in_worker(ApiRequest request);
  asio::awaitable<bool> write(Stream& stream, Response response);
  asio::awaitable<void> linger(Stream& stream);
  void work(const std::shared_ptr<Pending>& pending);
  void turn_away(Local::socket socket);
};

asio::awaitable<void> ApiServer::State::accept_all() {
  while (acceptor.is_open()) {
    error_code error;
    Local::socket socket = co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, error));
    if (error == asio::error::operation_aborted) co_return;
    if (error) {
      // Without descriptors accept(2) fails at once and again: pause, so that it does not eat the core that frees them.
      spdlog::warn("event=accept_failed error={}", in_quotes(error.message()));
      asio::steady_timer pause(io, kPauseWithoutDescriptors);
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
      continue;
    }
    if (open_connections >= options.max_connections) {
      turn_away(std::move(socket));
      continue;
    }
    ++connections;
    ++open_connections;
    asio::co_spawn(io, serve(Stream(std::move(socket))), [this](const std::exception_ptr& failed) {
      --open_connections;
      if (!failed) return;
      try {
        std::rethrow_exception(failed);
      } catch (const std::exception& problem) {
        spdlog::error("event=connection_failed error={}", in_quotes(problem.what()));
      }
    });
  }
}

// Never waits: what does not fit into the socket's buffer is not worth a place.
void ApiServer::State::turn_away(Local::socket socket) {
  ++turned_away;
  static const std::string body =
      error_body("unavailable", "too many connections", "close some, or raise api.max_connections");
  static const std::string text =
      "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: "
      "close\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  [[maybe_unused]] const ssize_t sent =
      ::send(socket.native_handle(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  error_code ignored;
  socket.close(ignored);
}

asio::awaitable<void> ApiServer::State::serve(Stream stream) {
  const Caller caller = caller_of(stream.socket().native_handle());
  beast::flat_buffer buffer(options.max_header + options.max_body + 4096);
  while (true) {
    Request request;
    if (!co_await read_request(stream, buffer, request)) co_return;
    ++requests;
    ApiRequest api{.method = std::string(request.method_string()),
                   .target = std::string(request.target()),
                   .body = std::move(request.body()),
                   .if_match = std::string(request[http::field::if_match]),
                   .caller = caller};
    const bool keep_alive = request.keep_alive();
    const ApiResponse response = co_await answer_in_worker(std::move(api));
    if (!co_await write(stream, to_http(response, request.version(), keep_alive))) co_return;
    if (!keep_alive) co_return co_await linger(stream);
  }
}

// False: the connection is over. One deadline for the whole request, so a byte now and then gains nothing.
asio::awaitable<bool> ApiServer::State::read_request(Stream& stream, beast::flat_buffer& buffer, Request& request) {
  http::request_parser<http::string_body> parser;
  parser.header_limit(static_cast<std::uint32_t>(options.max_header));
  parser.body_limit(options.max_body);
  stream.expires_after(options.request_timeout);
  error_code error;
  co_await http::async_read(stream, buffer, parser, asio::redirect_error(asio::use_awaitable, error));
  if (!error) {
    request = parser.release();
    co_return true;
  }
  const bool closed = error == http::error::end_of_stream || error == asio::error::operation_aborted ||
                      error == asio::error::connection_reset || error == asio::error::broken_pipe;
  if (closed) co_return false;
  ++cut_off;
  if (error == beast::error::timeout || error == http::error::partial_message) co_return false;
  if (co_await write(stream, to_http(malformed(error), 11, false))) co_await linger(stream);
  co_return false;
}

asio::awaitable<bool> ApiServer::State::write(Stream& stream, Response response) {
  stream.expires_after(options.request_timeout);
  error_code error;
  co_await http::async_write(stream, response, asio::redirect_error(asio::use_awaitable, error));
  if (error == beast::error::timeout) ++cut_off;
  co_return !error;
}

// Closing with unread input resets the connection and may destroy the answer on its way: say that this was all and read
// what is left, for a while.
asio::awaitable<void> ApiServer::State::linger(Stream& stream) {
  error_code error;
  stream.socket().shutdown(Local::socket::shutdown_send, error);
  stream.expires_after(std::min(options.request_timeout, std::chrono::milliseconds(1000)));
  std::array<char, 4096> rest{};
  for (std::size_t total = 0; !error && total < 4 * options.max_body;)
    total += co_await stream.async_read_some(asio::buffer(rest), asio::redirect_error(asio::use_awaitable, error));
}

asio::awaitable<ApiResponse> ApiServer::State::answer_in_worker(ApiRequest request) {
  const ApiRoute* route = find_route(request.method, request.target);
  // NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): an awaitable that runs has a thread
  auto pending = std::make_shared<Pending>(co_await asio::this_coro::executor);
  pending->request = std::move(request);
  pending->audited = route && route->changes;
  pending->arrived.expires_after(options.request_timeout);
  WorkerPool& pool = route && route->urgent ? *urgent : *workers;
  if (!pool.submit([this, pending] { work(pending); })) {
    ++overloaded;
    co_return plain_error(503, "unavailable", "too many requests are waiting", "try again in a moment");
  }
  error_code ignored;
  co_await pending->arrived.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  if (pending->response) co_return std::move(*pending->response);
  co_return plain_error(503, "timed_out", "the agent did not answer in time; the request may still be carried out",
                        "look at its effect before you repeat it");
}

// On a worker's thread.
void ApiServer::State::work(const std::shared_ptr<Pending>& pending) {
  const ApiRequest& request = pending->request;
  std::uint64_t record = 0;
  if (pending->audited) record = audit->begin(request.caller, request.method, request.target, request.body);
  ApiResponse response = answer(request, service);
  if (pending->audited) audit->end(record, response.status, response.body);
  asio::post(io, [pending, response = std::move(response)]() mutable {
    pending->response = std::move(response);
    pending->arrived.cancel();
  });
}

ApiServerOptions ApiServerOptions::from(const Config& config) {
  ApiServerOptions options;
  options.socket = config.api.socket;
  options.group = config.api.group;
  options.audit_log = config.api.audit_log;
  options.workers = config.api.workers;
  options.max_connections = config.api.max_connections;
  options.request_timeout = config.api.request_timeout;
  return options;
}

ApiServer::ApiServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<ApiServer>> ApiServer::start(const ApiServerOptions& options, AgentService& service) {
  Result<UnixListener> listener = UnixListener::bind(options.socket, options.group);
  if (!listener) return Failure(listener.error());
  return start(options, std::move(*listener), service);
}

Result<std::unique_ptr<ApiServer>> ApiServer::start(const ApiServerOptions& options, UnixListener listener,
                                                    AgentService& service) {
  Result<std::unique_ptr<AuditLog>> audit =
      AuditLog::open(options.audit_log, [&service](std::string_view problem) { service.audit_trouble(problem); });
  if (!audit) return Failure(audit.error());
  auto state = std::make_unique<State>(options, service, std::move(listener), std::move(*audit));
  const int fd = ::fcntl(state->listener.fd(), F_DUPFD_CLOEXEC, 3);  // the acceptor closes what it is given
  if (fd < 0) return errno_failure("duplicate", "the listening socket");
  state->acceptor.assign(Local(), fd);
  asio::co_spawn(state->io, state->accept_all(), asio::detached);
  state->loop = std::thread([raw = state.get()] { raw->io.run(); });
  spdlog::info("event=api_listening socket={}", options.socket);
  return std::unique_ptr<ApiServer>(new ApiServer(std::move(state)));
}

ApiServer::~ApiServer() {
  // The loop first, so that nobody new comes; then the workers, whose last answers are posted to a loop that no longer
  // runs.
  state_->io.stop();
  state_->loop.join();
  state_->workers.reset();
  state_->urgent.reset();
}

ApiServerCounters ApiServer::counters() const {
  return {state_->connections, state_->turned_away, state_->requests, state_->cut_off, state_->overloaded};
}

Result<> ApiServer::reopen_audit_log() {
  return state_->audit->reopen();
}

}  // namespace tidepool::daemon
