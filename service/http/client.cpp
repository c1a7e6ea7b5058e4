#include "service/http/client.h"

#include <openssl/ssl.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <deque>
#include <utility>

namespace tidepool::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace bhttp = beast::http;

using Local = asio::local::stream_protocol;
using Tcp = asio::ip::tcp;
using LocalStream = beast::basic_stream<Local>;
using TcpStream = beast::basic_stream<Tcp>;
using TlsStream = beast::ssl_stream<TcpStream>;
using HttpRequest = bhttp::request<bhttp::string_body>;
using Parser = bhttp::response_parser<bhttp::string_body>;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Piece = std::function<bool(std::string_view)>;

constexpr std::size_t kReadAhead = 64 << 10;
constexpr std::uint32_t kMostHeader = 16 << 10;
constexpr std::size_t kLongestExcerpt = 300;
constexpr unsigned kMostTriesEach = 2;

auto into(error_code& error) {
  return asio::redirect_error(asio::use_awaitable, error);
}

// Looks a name up, for no longer than until `deadline`: the system's resolver cannot be interrupted, but left behind.
asio::awaitable<std::vector<Tcp::endpoint>> resolve(asio::io_context& io, const Endpoint& to,
                                                    Clock::time_point deadline, error_code& error) {
  if (const asio::ip::address numeric = asio::ip::make_address(to.host, error); !error)
    co_return std::vector{Tcp::endpoint(numeric, to.port)};
  struct Lookup {
    explicit Lookup(asio::io_context& context) : resolver(context), arrived(context) {}
    Tcp::resolver resolver;
    asio::steady_timer arrived;
    error_code error = beast::error::timeout;
    std::vector<Tcp::endpoint> found;
  };
  auto lookup = std::make_shared<Lookup>(io);
  lookup->arrived.expires_at(deadline);
  lookup->resolver.async_resolve(to.host, std::to_string(to.port),
                                 [lookup](const error_code& result, const Tcp::resolver::results_type& entries) {
                                   lookup->error = result;
                                   for (const auto& each : entries) lookup->found.push_back(each.endpoint());
                                   lookup->arrived.cancel();
                                 });
  error_code ignored;
  co_await lookup->arrived.async_wait(into(ignored));
  error = lookup->error;
  co_return lookup->found;
}

// A connection of one of the three kinds.
class Connection {
 public:
  virtual ~Connection() = default;
  virtual asio::awaitable<error_code> open(asio::io_context& io, const Endpoint& to, Clock::time_point deadline) = 0;
  virtual asio::awaitable<error_code> write(const HttpRequest& request, Clock::time_point deadline) = 0;
  virtual asio::awaitable<error_code> read_header(Parser& parser, Clock::time_point deadline) = 0;
  virtual asio::awaitable<error_code> read_some(Parser& parser, Clock::time_point deadline) = 0;
  virtual asio::awaitable<error_code> read(Parser& parser, Clock::time_point deadline) = 0;
  // Nothing has come, not even its end, since the last answer.
  virtual bool idle() = 0;
  // Why the server or our certificate is refused; empty: it is not that.
  virtual std::string tls_problem() { return ""; }
};

asio::awaitable<error_code> open_stream(asio::io_context&, LocalStream& stream, const Endpoint& to,
                                        Clock::time_point deadline) {
  stream.expires_at(deadline);
  error_code error;
  co_await stream.async_connect(Local::endpoint(to.path), into(error));
  co_return error;
}

asio::awaitable<error_code> open_stream(asio::io_context& io, TcpStream& stream, const Endpoint& to,
                                        Clock::time_point deadline) {
  error_code error;
  const std::vector<Tcp::endpoint> found = co_await resolve(io, to, deadline, error);
  if (error) co_return error;
  stream.expires_at(deadline);
  co_await stream.async_connect(found, into(error));
  if (error) co_return error;
  error_code ignored;
  stream.socket().set_option(Tcp::no_delay(true), ignored);
  co_return error;
}

asio::awaitable<error_code> open_stream(asio::io_context& io, TlsStream& stream, const Endpoint& to,
                                        Clock::time_point deadline) {
  TcpStream& lowest = beast::get_lowest_layer(stream);
  error_code error = co_await open_stream(io, lowest, to, deadline);
  if (error) co_return error;
  if (!expect_name(stream.native_handle(), to.host)) co_return asio::error::invalid_argument;
  lowest.expires_at(deadline);
  co_await stream.async_handshake(asio::ssl::stream_base::client, into(error));
  co_return error;
}

template <class Stream>
class ConnectionOver : public Connection {
 public:
  template <class... Arguments>
  explicit ConnectionOver(Arguments&&... arguments) : stream_(std::forward<Arguments>(arguments)...) {}

  asio::awaitable<error_code> open(asio::io_context& io, const Endpoint& to, Clock::time_point deadline) override {
    return open_stream(io, stream_, to, deadline);
  }
  asio::awaitable<error_code> write(const HttpRequest& request, Clock::time_point deadline) override {
    beast::get_lowest_layer(stream_).expires_at(deadline);
    error_code error;
    co_await bhttp::async_write(stream_, request, into(error));
    co_return error;
  }
  asio::awaitable<error_code> read_header(Parser& parser, Clock::time_point deadline) override {
    beast::get_lowest_layer(stream_).expires_at(deadline);
    error_code error;
    co_await bhttp::async_read_header(stream_, buffer_, parser, into(error));
    co_return error;
  }
  asio::awaitable<error_code> read_some(Parser& parser, Clock::time_point deadline) override {
    beast::get_lowest_layer(stream_).expires_at(deadline);
    error_code error;
    co_await bhttp::async_read_some(stream_, buffer_, parser, into(error));
    co_return error;
  }
  asio::awaitable<error_code> read(Parser& parser, Clock::time_point deadline) override {
    beast::get_lowest_layer(stream_).expires_at(deadline);
    error_code error;
    co_await bhttp::async_read(stream_, buffer_, parser, into(error));
    beast::get_lowest_layer(stream_).expires_never();
    co_return error;
  }
  bool idle() override {
    char byte = 0;
    const int fd = beast::get_lowest_layer(stream_).socket().native_handle();
    return buffer_.size() == 0 && ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
           (errno == EAGAIN || errno == EWOULDBLOCK);
  }

 protected:
  Stream stream_;
  beast::flat_buffer buffer_{kMostHeader + kReadAhead};
};

class TlsConnection final : public ConnectionOver<TlsStream> {
 public:
  using ConnectionOver<TlsStream>::ConnectionOver;
  std::string tls_problem() override { return verification_problem(stream_.native_handle()); }
};

Failure broken(const error_code& error, Connection& connection, const Endpoint& endpoint) {
  const std::string where = endpoint.text();
  if (error == beast::error::timeout) return failure(std::errc::timed_out, "wait for", where);
  if (error == bhttp::error::body_limit)
    return failure(std::errc::message_size, "read the answer of", where, "it is larger than expected");
  if (const std::string problem = connection.tls_problem(); !problem.empty())
    return failure(std::errc::permission_denied, "trust", where, problem);
  if (error.category() == asio::error::get_ssl_category())
    return failure(std::errc::permission_denied, "agree on TLS with", where, error.message());
  const bool system =
      error.category() == boost::system::system_category() || error.category() == boost::system::generic_category();
  if (system) return failure_from(error.value(), "reach", where);
  // Beast's and the resolver's errors have no errno; what matters is that there is no answer.
  return failure(std::errc::connection_aborted, "reach", where, error.message());
}

}  // namespace

struct Client::State {
  ClientOptions options;
  std::vector<Endpoint> endpoints;
  std::size_t preferred = 0;  // of `endpoints`
  std::atomic<bool> stopped{false};
  asio::io_context io{1};  // after stop() it never runs again: what it holds may refer to a call that is over
  std::unique_ptr<Connection> connection;
  std::size_t connected_to = 0;
  std::unique_ptr<Connection> followed;

  // What a call did at one endpoint.
  struct Attempt {
    std::optional<Answer> answer;
    std::optional<Error> error;
    bool sent = false;  // the server may have acted
    bool kept = false;  // on a connection that was there before
  };

  Failure cancelled() const { return failure(std::errc::operation_canceled, "ask", endpoints[preferred].text()); }
  HttpRequest make_request(std::string_view method, std::string_view target, std::string_view body,
                           const Endpoint& to) const;
  Result<std::unique_ptr<Connection>> make_connection(const Endpoint& to);
  // Runs it on this thread. False: stop() was called.
  template <class Work>
  bool run(Work work);
  Attempt attempt(std::size_t at, std::string_view method, std::string_view target, std::string_view body,
                  Clock::time_point deadline);
  Result<Answer> ask(std::string_view method, std::string_view target, std::string_view body,
                     Clock::time_point deadline);
};

HttpRequest Client::State::make_request(std::string_view method, std::string_view target, std::string_view body,
                                        const Endpoint& to) const {
  HttpRequest request;
  request.method_string({method.data(), method.size()});
  request.target({target.data(), target.size()});
  request.version(11);
  request.set(bhttp::field::host, to.kind == Endpoint::Kind::kUnix ? "tidepool" : join_host_port(to.host, to.port));
  request.set(bhttp::field::user_agent, options.user_agent);
  request.keep_alive(true);
  if (!body.empty()) request.set(bhttp::field::content_type, "application/json");
  request.body() = body;
  request.prepare_payload();
  return request;
}

Result<std::unique_ptr<Connection>> Client::State::make_connection(const Endpoint& to) {
  if (to.kind == Endpoint::Kind::kUnix) return std::make_unique<ConnectionOver<LocalStream>>(io);
  if (to.kind == Endpoint::Kind::kTcp) return std::make_unique<ConnectionOver<TcpStream>>(io);
  // Read anew every time: certificates are replaced while programs run.
  Result<TlsContext> context = client_context(options.tls);
  if (!context) return Failure(context.error());
  asio::ssl::context shared(context->release());  // OpenSSL counts who uses it
  return std::make_unique<TlsConnection>(io, shared);
}

template <class Work>
bool Client::State::run(Work work) {
  bool done = false;
  io.restart();
  if (stopped) return false;
  asio::co_spawn(io, std::move(work), [this, &done](const std::exception_ptr& failed) {
    done = true;
    io.stop();  // a lookup that was given up is not waited for
    if (failed) std::rethrow_exception(failed);
  });
  io.run();
  return done;
}

Client::State::Attempt Client::State::attempt(std::size_t at, std::string_view method, std::string_view target,
                                              std::string_view body, Clock::time_point deadline) {
  Attempt result;
  const Endpoint& to = endpoints[at];
  result.kept = connection && connected_to == at && connection->idle();
  if (!result.kept) {
    connection.reset();
    Result<std::unique_ptr<Connection>> made = make_connection(to);
    if (!made) {
      result.error = made.error();
      return result;
    }
    connection = std::move(*made);
    connected_to = at;
  }
  // Not on the stack: after stop(), the loop still refers to them.
  auto request = std::make_shared<const HttpRequest>(make_request(method, target, body, to));
  auto parser = std::make_shared<Parser>();
  parser->header_limit(kMostHeader);
  parser->body_limit(options.max_answer);
  if (method == "HEAD") parser->skip(true);
  error_code error;
  const bool ran = run([&, request, parser]() -> asio::awaitable<void> {
    if (!result.kept)
      error = co_await connection->open(io, to, std::min(deadline, Clock::now() + options.connect_timeout));
    if (error) co_return;
    result.sent = true;
    error = co_await connection->write(*request, deadline);
    // A server that turned us away at the door has answered before it closed: read that first.
    if (error && error != asio::error::broken_pipe && error != asio::error::connection_reset) co_return;
    error = co_await connection->read(*parser, deadline);
  });
  if (!ran) {
    result.error = cancelled().value();
    return result;
  }
  if (error && !parser->is_done()) {
    result.error = broken(error, *connection, to).value();
    connection.reset();
    return result;
  }
  auto& response = parser->get();
  if (!response.keep_alive()) connection.reset();
  Answer answer{
      .status = response.result_int(), .body = std::move(response.body()), .etag = {}, .location = {}, .leader = {}};
  answer.etag = std::string(response[bhttp::field::etag]);
  answer.location = std::string(response[bhttp::field::location]);
  if (const auto leader = response.find("Tidepool-Leader"); leader != response.end())
    answer.leader = std::string(leader->value());
  result.answer = std::move(answer);
  return result;
}

Result<Answer> Client::State::ask(std::string_view method, std::string_view target, std::string_view body,
                                  Clock::time_point deadline) {
  std::deque<std::size_t> next;
  for (std::size_t i = 0; i < endpoints.size(); ++i) next.push_back((preferred + i) % endpoints.size());
  std::vector<unsigned> tries(endpoints.size());
  const bool repeatable = options.repeatable || method == "GET";
  std::optional<Answer> last_answer;
  std::optional<Error> last_error;
  while (!next.empty()) {
    const std::size_t at = next.front();
    next.pop_front();
    if (tries[at]++ >= kMostTriesEach) continue;
    const Clock::time_point now = Clock::now();
    if (now >= deadline) break;
    // One that accepts and never answers must not use up the time of those behind it.
    const auto left = static_cast<Clock::rep>(next.size() + 1);
    Attempt done = attempt(at, method, target, body, repeatable ? now + (deadline - now) / left : deadline);
    if (stopped) return cancelled();
    if (done.answer && (done.answer->status != 503 || !done.answer->leader)) {
      preferred = at;
      return std::move(*done.answer);
    }
    if (done.answer) {
      for (std::size_t i = 0; i < endpoints.size(); ++i)
        if (i != at && endpoints[i].text() == *done.answer->leader) next.push_front(i);
      last_answer = std::move(done.answer);
      continue;
    }
    last_error = std::move(done.error);
    const bool too_large = last_error->code == std::make_error_condition(std::errc::message_size);
    if (too_large || (done.sent && !repeatable)) return Failure(*last_error);
    if (done.kept && done.sent) next.push_front(at);  // it may have ended between two requests
  }
  if (last_answer) return std::move(*last_answer);
  if (last_error) return Failure(*last_error);
  return failure(std::errc::timed_out, "wait for", endpoints[preferred].text());
}

Client::Client(std::unique_ptr<State> state) : state_(std::move(state)) {}
Client::~Client() = default;

Result<std::unique_ptr<Client>> Client::make(const ClientOptions& options) {
  auto state = std::make_unique<State>();
  state->options = options;
  for (const std::string& text : options.endpoints) {
    Result<Endpoint> endpoint = Endpoint::parse(text);
    if (!endpoint) return Failure(endpoint.error());
    if (endpoint->kind == Endpoint::Kind::kTls && options.tls.empty())
      return failure(std::errc::invalid_argument, "use endpoint", text,
                     "https needs a certificate, its key and the authority's certificate");
    state->endpoints.push_back(std::move(*endpoint));
  }
  if (state->endpoints.empty())
    return failure(std::errc::invalid_argument, "connect", "nowhere", "no endpoint is given");
  return std::unique_ptr<Client>(new Client(std::move(state)));
}

Result<Answer> Client::request(std::string_view method, std::string_view target, std::string_view body) {
  return request(method, target, body, state_->options.timeout);
}

Result<Answer> Client::request(std::string_view method, std::string_view target, std::string_view body,
                               std::chrono::milliseconds timeout) {
  if (state_->stopped) return state_->cancelled();
  return state_->ask(method, target, body, Clock::now() + timeout);
}

Result<> Client::follow(std::string_view method, std::string_view target, std::string_view body,
                        std::chrono::milliseconds silence, const Piece& piece) {
  State& state = *state_;
  if (state.stopped) return state.cancelled();
  std::optional<Error> last;
  for (std::size_t i = 0; i < state.endpoints.size(); ++i) {
    const std::size_t at = (state.preferred + i) % state.endpoints.size();
    const Endpoint& to = state.endpoints[at];
    Result<std::unique_ptr<Connection>> made = state.make_connection(to);
    if (!made) return Failure(made.error());
    state.followed = std::move(*made);
    auto request = std::make_shared<const HttpRequest>(state.make_request(method, target, body, to));
    auto parser = std::make_shared<Parser>();
    parser->header_limit(kMostHeader);
    parser->body_limit(boost::none);
    bool opened = false;
    bool enough = false;
    error_code error;
    const bool ran = state.run([&, request, parser]() -> asio::awaitable<void> {
      Connection& connection = *state.followed;
      error = co_await connection.open(state.io, to, Clock::now() + state.options.connect_timeout);
      if (error) co_return;
      opened = true;
      error = co_await connection.write(*request, Clock::now() + silence);
      if (!error) error = co_await connection.read_header(*parser, Clock::now() + silence);
      while (!error) {
        std::string& part = parser->get().body();
        const bool good = parser->get().result_int() == 200;
        if (!part.empty() && good) {
          enough = !piece(part);
          part.clear();
        }
        if (enough || parser->is_done() || (!good && part.size() >= kLongestExcerpt)) co_return;
        error = co_await connection.read_some(*parser, Clock::now() + silence);
      }
    });
    if (!ran) return state.cancelled();
    std::optional<Error> problem;
    if (error) problem = broken(error, *state.followed, to).value();
    state.followed.reset();
    if (!opened) {
      last = std::move(problem);
      continue;
    }
    if (parser->is_header_done() && parser->get().result_int() != 200)
      return failure(std::errc::protocol_error, "follow " + std::string(target), to.text(),
                     "status " + std::to_string(parser->get().result_int()) + ": " +
                         parser->get().body().substr(0, kLongestExcerpt));
    if (problem) return Failure(*problem);
    return {};
  }
  return Failure(*last);
}

void Client::stop() {
  state_->stopped = true;
  state_->io.stop();
}

std::string Client::endpoint() const {
  return state_->endpoints[state_->preferred].text();
}

}  // namespace tidepool::http
