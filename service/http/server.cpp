#include "service/http/server.h"

#include <fcntl.h>
#include <openssl/ssl.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <mutex>
#include <optional>
#include <thread>

#include "service/http/dispatcher.h"
#include "service/http/endpoint.h"
#include "service/http/error_body.h"
#include "service/log.h"

namespace tidepool::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace bhttp = beast::http;

using Local = asio::local::stream_protocol;
using Tcp = asio::ip::tcp;
using LocalStream = beast::basic_stream<Local>;
using TlsStream = beast::ssl_stream<beast::basic_stream<Tcp>>;
using HttpRequest = bhttp::request<bhttp::string_body>;
using HttpResponse = bhttp::response<bhttp::string_body>;
using boost::system::error_code;
using WallTime = std::chrono::system_clock::time_point;

constexpr auto kPauseWithoutDescriptors = std::chrono::milliseconds(100);
constexpr std::chrono::milliseconds kLongestFarewell{1000};
constexpr std::size_t kReadAhead = 64 << 10;  // of a connection's buffer: a body goes elsewhere as it comes

Caller caller_of(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  Caller caller;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return caller;
  caller.uid = peer.uid;
  caller.gid = peer.gid;
  caller.pid = peer.pid;
  return caller;
}

HttpResponse to_http(const Response& answer, unsigned version, bool keep_alive) {
  HttpResponse response{static_cast<bhttp::status>(answer.status), version};
  response.set(bhttp::field::content_type, "application/json");
  response.set(bhttp::field::cache_control, "no-store");
  if (!answer.etag.empty()) response.set(bhttp::field::etag, answer.etag);
  if (!answer.location.empty()) response.set(bhttp::field::location, answer.location);
  if (!answer.allow.empty()) response.set(bhttp::field::allow, answer.allow);
  if (answer.leader) response.set("Tidepool-Leader", *answer.leader);
  if (answer.status == 503) response.set(bhttp::field::retry_after, "1");
  response.keep_alive(keep_alive);
  response.body() = answer.body;
  response.prepare_payload();
  return response;
}

Response malformed(const error_code& error) {
  if (error == bhttp::error::body_limit) return error_response(413, "invalid", "the request's body is too large");
  if (error == bhttp::error::header_limit || error == bhttp::error::buffer_overflow)
    return error_response(431, "invalid", "the request's header is too large");
  return error_response(400, "invalid", "this is not an HTTP request: " + error.message());
}

// The answer to a request, when a worker has it. The connection may have given up by then.
struct Pending {
  explicit Pending(const asio::any_io_executor& executor) : arrived(executor) {}
  asio::steady_timer arrived;  // cancelled when `response` is there
  std::optional<Response> response;
};

// A duplicate: an acceptor closes what it is given.
Result<int> duplicate(int fd) {
  const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return errno_failure("duplicate", "the listening socket");
  return copy;
}

}  // namespace

struct Server::State {
  State(ServerOptions given, Handler& given_handler, std::unique_ptr<AuditLog> log)
      : options(std::move(given)),
        handler(given_handler),
        local(io),
        tcp(io),
        dispatcher(options, handler, std::move(log)) {}

  ServerOptions options;
  Handler& handler;
  std::optional<UnixListener> listener;
  std::string address;
  std::mutex tls_mutex;
  std::shared_ptr<asio::ssl::context> tls;
  asio::io_context io{1};
  asio::basic_socket_acceptor<Local> local;
  asio::basic_socket_acceptor<Tcp> tcp;
  Dispatcher dispatcher;
  std::size_t open_connections = 0;  // of the loop's thread alone, as the next one
  std::size_t unproven = 0;
  std::atomic<std::uint64_t> connections{0};
  std::atomic<std::uint64_t> turned_away{0};
  std::atomic<std::uint64_t> unproven_ever{0};
  std::atomic<std::uint64_t> requests{0};
  std::atomic<std::uint64_t> cut_off{0};
  std::atomic<std::uint64_t> overloaded{0};
  std::thread loop;

  Result<> listen_locally(UnixListener given);
  Result<> listen_on_tcp();
  Result<> load_tls();
  void run();

  template <class Protocol>
  asio::awaitable<void> accept_all(asio::basic_socket_acceptor<Protocol>& acceptor);
  asio::awaitable<void> welcome(Local::socket socket);
  asio::awaitable<void> welcome(Tcp::socket socket);
  asio::awaitable<std::optional<TlsPeer>> prove(TlsStream& stream, const std::string& address);
  void turn_away(Local::socket socket);
  void turn_away(Tcp::socket socket);

  template <class Stream>
  asio::awaitable<void> serve(Stream& stream, const Caller& caller, std::optional<WallTime> until);
  template <class Stream>
  asio::awaitable<bool> read_request(Stream& stream, beast::flat_buffer& buffer, HttpRequest& request,
                                     Handler::Route& route);
  template <class Stream>
  asio::awaitable<bool> write(Stream& stream, HttpResponse response);
  template <class Stream>
  asio::awaitable<void> drain(Stream& stream);
  asio::awaitable<void> linger(LocalStream& stream);
  asio::awaitable<void> linger(TlsStream& stream);
  asio::awaitable<Response> answer_in_worker(Request request, Handler::Route route);
};

template <class Protocol>
asio::awaitable<void> Server::State::accept_all(asio::basic_socket_acceptor<Protocol>& acceptor) {
  while (acceptor.is_open()) {
    error_code error;
    typename Protocol::socket socket = co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, error));
    if (error == asio::error::operation_aborted) co_return;
    if (error) {
      // Without descriptors accept(2) fails at once and again: pause, so that it does not eat the core that frees them.
      spdlog::warn("event=accept_failed error={}", in_quotes(error.message()));
      asio::steady_timer pause(io, kPauseWithoutDescriptors);
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
      continue;
    }
    if (open_connections >= options.max_connections) {
      ++turned_away;
      turn_away(std::move(socket));
      continue;
    }
    ++connections;
    ++open_connections;
    asio::co_spawn(io, welcome(std::move(socket)), [this](const std::exception_ptr& failed) {
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
void Server::State::turn_away(Local::socket socket) {
  static const std::string body =
      error_body("unavailable", "too many connections", "close some, or raise api.max_connections");
  static const std::string text =
      "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: "
      "close\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  [[maybe_unused]] const ssize_t sent =
      ::send(socket.native_handle(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

// Nothing can be said without a handshake, which is what there is no room for.
void Server::State::turn_away(Tcp::socket socket) {
  error_code ignored;
  socket.close(ignored);
}

asio::awaitable<void> Server::State::welcome(Local::socket socket) {
  const Caller caller = caller_of(socket.native_handle());
  LocalStream stream(std::move(socket));
  co_await serve(stream, caller, std::nullopt);
}

asio::awaitable<void> Server::State::welcome(Tcp::socket socket) {
  // Strangers cannot take the places of those who showed a certificate.
  if (unproven >= options.max_unproven) {
    ++turned_away;
    co_return turn_away(std::move(socket));
  }
  error_code error;
  const Tcp::endpoint peer = socket.remote_endpoint(error);
  Caller caller;
  caller.tls = true;
  if (!error) caller.address = join_host_port(peer.address().to_string(), peer.port());
  socket.set_option(Tcp::no_delay(true), error);
  std::shared_ptr<asio::ssl::context> context;
  {
    const std::lock_guard lock(tls_mutex);
    context = tls;
  }
  TlsStream stream(std::move(socket), *context);
  const std::optional<TlsPeer> proven = co_await prove(stream, caller.address);
  if (!proven) co_return;
  caller.name = proven->name;
  caller.role = proven->role;
  co_await serve(stream, caller, proven->valid_until);
}

asio::awaitable<std::optional<TlsPeer>> Server::State::prove(TlsStream& stream, const std::string& from) {
  ++unproven;
  beast::get_lowest_layer(stream).expires_after(options.request_timeout);
  error_code error;
  co_await stream.async_handshake(asio::ssl::stream_base::server, asio::redirect_error(asio::use_awaitable, error));
  std::string problem;
  if (error) {
    problem = verification_problem(stream.native_handle());
    if (problem.empty()) problem = error == beast::error::timeout ? "it did not end in time" : error.message();
    // The alert that says why must reach the client.
    if (error != beast::error::timeout) co_await drain(beast::get_lowest_layer(stream));
  } else if (Result<TlsPeer> peer = peer_of(stream.native_handle()); peer) {
    --unproven;
    co_return std::move(*peer);
  } else {
    problem = peer.error().message();
  }
  --unproven;
  ++unproven_ever;
  spdlog::debug("event=tls_refused address={} error={}", in_quotes(from), in_quotes(problem));
  co_return std::nullopt;
}

template <class Stream>
asio::awaitable<void> Server::State::serve(Stream& stream, const Caller& caller, std::optional<WallTime> until) {
  beast::flat_buffer buffer(options.max_header + kReadAhead);
  while (true) {
    HttpRequest request;
    Handler::Route route;
    if (!co_await read_request(stream, buffer, request, route)) co_return;
    // A connection does not outlive the certificate that it came with.
    if (until && std::chrono::system_clock::now() > *until) co_return;
    ++requests;
    Request api{.method = std::string(request.method_string()),
                .target = std::string(request.target()),
                .body = std::move(request.body()),
                .if_match = std::string(request[bhttp::field::if_match]),
                .caller = caller};
    const bool keep_alive = request.keep_alive();
    const Response response = co_await answer_in_worker(std::move(api), route);
    if (!co_await write(stream, to_http(response, request.version(), keep_alive))) co_return;
    if (!keep_alive) co_return co_await linger(stream);
  }
}

// False: the connection is over. One deadline for the whole request, so a byte now and then gains nothing.
template <class Stream>
asio::awaitable<bool> Server::State::read_request(Stream& stream, beast::flat_buffer& buffer, HttpRequest& request,
                                                  Handler::Route& route) {
  bhttp::request_parser<bhttp::string_body> parser;
  parser.header_limit(static_cast<std::uint32_t>(options.max_header));
  parser.body_limit(boost::none);
  beast::get_lowest_layer(stream).expires_after(options.request_timeout);
  error_code error;
  co_await bhttp::async_read_header(stream, buffer, parser, asio::redirect_error(asio::use_awaitable, error));
  if (!error) {
    // Which route it is decides how large it may be.
    const auto method = parser.get().method_string();
    const auto target = parser.get().target();
    route = handler.route({method.data(), method.size()}, {target.data(), target.size()});
    const std::size_t most = route.max_body != 0 ? route.max_body : options.max_body;
    parser.body_limit(most);
    if (parser.content_length().value_or(0) > most) error = bhttp::error::body_limit;
  }
  if (!error) co_await bhttp::async_read(stream, buffer, parser, asio::redirect_error(asio::use_awaitable, error));
  if (!error) {
    request = parser.release();
    co_return true;
  }
  const bool closed = error == bhttp::error::end_of_stream || error == asio::error::operation_aborted ||
                      error == asio::error::connection_reset || error == asio::error::broken_pipe ||
                      error == asio::ssl::error::stream_truncated;
  if (closed) co_return false;
  ++cut_off;
  if (error == beast::error::timeout || error == bhttp::error::partial_message) co_return false;
  if (co_await write(stream, to_http(malformed(error), 11, false))) co_await linger(stream);
  co_return false;
}

template <class Stream>
asio::awaitable<bool> Server::State::write(Stream& stream, HttpResponse response) {
  beast::get_lowest_layer(stream).expires_after(options.request_timeout);
  error_code error;
  co_await bhttp::async_write(stream, response, asio::redirect_error(asio::use_awaitable, error));
  if (error == beast::error::timeout) ++cut_off;
  co_return !error;
}

// Closing with unread input resets the connection and may destroy the answer on its way: say that this was all and read
// what is left, for a while.
template <class Stream>
asio::awaitable<void> Server::State::drain(Stream& stream) {
  error_code error;
  stream.socket().shutdown(asio::socket_base::shutdown_send, error);
  stream.expires_after(std::min(options.request_timeout, kLongestFarewell));
  std::array<char, 4096> rest{};
  for (std::size_t total = 0; !error && total < 4 * options.max_body;)
    total += co_await stream.async_read_some(asio::buffer(rest), asio::redirect_error(asio::use_awaitable, error));
}

asio::awaitable<void> Server::State::linger(LocalStream& stream) {
  co_await drain(stream);
}

// The same below TLS, after its own word for it: what the client still sends need not be understood.
asio::awaitable<void> Server::State::linger(TlsStream& stream) {
  beast::get_lowest_layer(stream).expires_after(std::min(options.request_timeout, kLongestFarewell));
  error_code ignored;
  co_await stream.async_shutdown(asio::redirect_error(asio::use_awaitable, ignored));
  co_await drain(beast::get_lowest_layer(stream));
}

asio::awaitable<Response> Server::State::answer_in_worker(Request request, Handler::Route route) {
  // NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): an awaitable that runs has a thread
  auto pending = std::make_shared<Pending>(co_await asio::this_coro::executor);
  pending->arrived.expires_after(options.request_timeout);
  const bool taken = dispatcher.submit(std::move(request), route, [this, pending](Response response) {
    asio::post(io, [pending, response = std::move(response)]() mutable {
      pending->response = std::move(response);
      pending->arrived.cancel();
    });
  });
  if (!taken) {
    ++overloaded;
    co_return error_response(503, "unavailable", "too many requests are waiting", "try again in a moment");
  }
  error_code ignored;
  co_await pending->arrived.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  if (pending->response) co_return std::move(*pending->response);
  co_return error_response(503, "timed_out",
                           "the " + options.who + " did not answer in time; the request may still be carried out",
                           "look at its effect before you repeat it");
}

Result<> Server::State::listen_locally(UnixListener given) {
  listener.emplace(std::move(given));
  const Result<int> fd = duplicate(listener->fd());
  if (!fd) return Failure(fd.error());
  local.assign(Local(), *fd);
  asio::co_spawn(io, accept_all(local), asio::detached);
  spdlog::info("event=api_listening socket={}", options.socket);
  return {};
}

Result<> Server::State::load_tls() {
  Result<TlsContext> context = server_context(options.tls);
  if (!context) return Failure(context.error());
  auto owned = std::make_shared<asio::ssl::context>(context->release());
  const std::lock_guard lock(tls_mutex);
  tls = std::move(owned);
  return {};
}

Result<> Server::State::listen_on_tcp() {
  const Result<std::pair<std::string, std::uint16_t>> parts = split_host_port(options.address);
  if (!parts) return Failure(parts.error());
  if (Result<> loaded = load_tls(); !loaded) return loaded;
  error_code error;
  Tcp::resolver resolver(io);
  const auto found = resolver.resolve(parts->first, std::to_string(parts->second), Tcp::resolver::passive, error);
  if (error || found.empty()) return failure(std::errc::invalid_argument, "resolve", options.address, error.message());
  const Tcp::endpoint endpoint = found.begin()->endpoint();
  tcp.open(endpoint.protocol(), error);
  if (!error) tcp.set_option(Tcp::acceptor::reuse_address(true), error);
  if (!error) tcp.bind(endpoint, error);
  if (!error) tcp.listen(asio::socket_base::max_listen_connections, error);
  if (error) return failure_from(error.value(), "listen on", options.address);
  const Tcp::endpoint bound = tcp.local_endpoint(error);
  address = join_host_port(bound.address().to_string(), bound.port());
  asio::co_spawn(io, accept_all(tcp), asio::detached);
  spdlog::info("event=api_listening address={} tls=mutual", address);
  return {};
}

void Server::State::run() {
  loop = std::thread([this] { io.run(); });
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<Server>> Server::start(const ServerOptions& options, Handler& handler,
                                              std::optional<UnixListener> listener) {
  if (options.socket.empty() && options.address.empty())
    return failure(std::errc::invalid_argument, "serve", options.who, "neither a socket nor an address is given");
  if (!options.socket.empty() && !listener) {
    Result<UnixListener> bound = UnixListener::bind(options.socket, options.group, options.who);
    if (!bound) return Failure(bound.error());
    listener.emplace(std::move(*bound));
  }
  Result<std::unique_ptr<AuditLog>> audit = AuditLog::open(
      options.audit_log, options.who, [&handler](std::string_view problem) { handler.audit_trouble(problem); });
  if (!audit) return Failure(audit.error());
  auto state = std::make_unique<State>(options, handler, std::move(*audit));
  if (listener) {
    if (Result<> listens = state->listen_locally(std::move(*listener)); !listens) return Failure(listens.error());
  }
  if (!options.address.empty()) {
    if (Result<> listens = state->listen_on_tcp(); !listens) return Failure(listens.error());
  }
  state->run();
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

Server::~Server() {
  // The loop first, so that nobody new comes; then the workers, whose last answers are posted to a loop that no longer
  // runs.
  state_->io.stop();
  state_->loop.join();
  state_->dispatcher.end();
}

const std::string& Server::address() const {
  return state_->address;
}

ServerCounters Server::counters() const {
  return {state_->connections, state_->turned_away, state_->unproven_ever,
          state_->requests,    state_->cut_off,     state_->overloaded};
}

Result<> Server::reopen_audit_log() {
  return state_->dispatcher.audit().reopen();
}

Result<> Server::reload_tls() {
  if (state_->options.address.empty()) return {};
  return state_->load_tls();
}

}  // namespace tidepool::http
