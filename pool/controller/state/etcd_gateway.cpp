#include "pool/controller/state/etcd_gateway.h"

#include <boost/json.hpp>
#include <charconv>
#include <utility>

#include "base/text.h"
#include "pool/controller/state/base64.h"
#include "service/http/client.h"

namespace tidepool::pool::controller {
namespace {

namespace json = boost::json;

constexpr unsigned kTriesEach = 2;
// A page of records: see EtcdStore.
constexpr std::size_t kMostAnswer = 192 << 20;
constexpr std::size_t kLongestExcerpt = 300;

// Protobuf's JSON has 64-bit numbers as text.
std::int64_t number_in(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  if (!value) return 0;
  if (value->is_int64()) return value->get_int64();
  if (!value->is_string()) return 0;
  const json::string& text = value->get_string();
  std::int64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

const json::object* object_in(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  return value ? value->if_object() : nullptr;
}

std::string_view text_in(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  const json::string* text = value ? value->if_string() : nullptr;
  return text ? std::string_view(*text) : std::string_view();
}

bool truth_in(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  return value && value->is_bool() && value->get_bool();
}

std::int64_t revision_of(const json::object& answer) {
  const json::object* header = object_in(answer, "header");
  return header ? number_in(*header, "revision") : 0;
}

Failure nonsense(const std::string& url, const std::string& what) {
  return failure(std::errc::protocol_error, "ask etcd at", url, what);
}

// False: not what etcd says.
bool take_values(const json::object& range, std::vector<EtcdValue>& values) {
  const json::value* list = range.if_contains("kvs");
  if (!list) return true;
  if (!list->is_array()) return false;
  for (const json::value& each : list->get_array()) {
    const json::object* entry = each.if_object();
    if (!entry) return false;
    std::optional<std::string> key = from_base64(text_in(*entry, "key"));
    std::optional<std::string> value = from_base64(text_in(*entry, "value"));
    if (!key || !value) return false;
    values.push_back({std::move(*key), std::move(*value), number_in(*entry, "create_revision")});
  }
  return true;
}

json::object condition_json(const EtcdCondition& condition) {
  json::object object{{"key", base64_of(condition.key)}, {"result", "EQUAL"}};
  if (condition.value) {
    object["target"] = "VALUE";
    object["value"] = base64_of(*condition.value);
  } else {
    object["target"] = "CREATE";
    object["create_revision"] = std::to_string(condition.created.value_or(0));
  }
  return object;
}

json::object change_json(const EtcdChange& change) {
  json::object object{{"key", base64_of(change.key)}};
  if (!change.value) {
    if (!change.end.empty()) object["range_end"] = base64_of(change.end);
    return {{"request_delete_range", std::move(object)}};
  }
  object["value"] = base64_of(*change.value);
  if (change.lease != 0) object["lease"] = std::to_string(change.lease);
  return {{"request_put", std::move(object)}};
}

// Of a body that tells an error: {"error": "...", "code": 14}.
std::string complaint_of(std::string_view body) {
  boost::system::error_code bad;
  const json::value parsed = json::parse(body, bad);
  const json::object* object = bad ? nullptr : parsed.if_object();
  const std::string_view text = object ? text_in(*object, "error") : body;
  return printable(text.substr(0, kLongestExcerpt));
}

}  // namespace

struct EtcdGateway::State {
  struct Member {
    std::string url;
    std::unique_ptr<http::Client> client;
  };

  // 2xx, parsed. Members are asked in turn, beginning with the one that answered last.
  Result<json::object> ask(const std::string& path, const json::object& question) {
    const std::string body = json::serialize(question);
    Error last;
    for (std::size_t attempt = 0; attempt < kTriesEach * members.size(); ++attempt) {
      Member& member = members[current];
      const Result<http::Answer> answer = member.client->request("POST", path, body, patience);
      if (answer && answer->status == 200) return parse(member.url, answer->body);
      if (answer && answer->status < 500)
        return failure(std::errc::invalid_argument, "ask etcd at", member.url,
                       complaint_of(answer->body) + " (status " + std::to_string(answer->status) + ")");
      if (!answer && answer.error().code == std::errc::operation_canceled) return Failure(answer.error());
      last = answer ? nonsense(member.url, complaint_of(answer->body)).value() : answer.error();
      current = (current + 1) % members.size();
    }
    return failure(
        std::errc::host_unreachable, "ask etcd", "",
        "none of its " + std::to_string(members.size()) + " members answers; the last one: " + last.message());
  }

  static Result<json::object> parse(const std::string& url, std::string_view body) {
    boost::system::error_code bad;
    json::value parsed = json::parse(body, bad);
    if (bad || !parsed.is_object()) return nonsense(url, "its answer is no JSON object");
    return std::move(parsed.get_object());
  }

  std::vector<Member> members;
  std::size_t current = 0;
  std::chrono::milliseconds patience{};
};

EtcdGateway::EtcdGateway(std::unique_ptr<State> state) : state_(std::move(state)) {}
EtcdGateway::~EtcdGateway() = default;

Result<std::unique_ptr<EtcdGateway>> EtcdGateway::make(const EtcdEndpoints& endpoints,
                                                       std::chrono::milliseconds patience) {
  auto state = std::make_unique<State>();
  state->patience = patience;
  if (endpoints.urls.empty()) return failure(std::errc::invalid_argument, "ask etcd", "", "no endpoint is configured");
  for (const std::string& url : endpoints.urls) {
    http::ClientOptions options;
    options.endpoints = {url};
    options.tls = endpoints.tls;
    options.user_agent = "tidepool-controller";
    options.connect_timeout = patience;
    options.timeout = patience;
    options.max_answer = kMostAnswer;
    options.repeatable = true;
    auto client = http::Client::make(options);
    if (!client) return Failure(client.error());
    state->members.push_back({url, std::move(*client)});
  }
  return std::unique_ptr<EtcdGateway>(new EtcdGateway(std::move(state)));
}

Result<EtcdOutcome> EtcdGateway::run(const EtcdTransaction& transaction) {
  json::array compare, success, otherwise;
  for (const EtcdCondition& each : transaction.conditions) compare.push_back(condition_json(each));
  for (const EtcdChange& each : transaction.changes) success.push_back(change_json(each));
  for (const std::string& key : transaction.otherwise_read)
    otherwise.push_back(json::object{{"request_range", json::object{{"key", base64_of(key)}}}});
  const Result<json::object> answer = state_->ask(
      "/v3/kv/txn",
      {{"compare", std::move(compare)}, {"success", std::move(success)}, {"failure", std::move(otherwise)}});
  if (!answer) return Failure(answer.error());
  EtcdOutcome outcome{truth_in(*answer, "succeeded"), revision_of(*answer), {}};
  if (outcome.done) return outcome;
  const json::value* responses = answer->if_contains("responses");
  if (!responses) return outcome;
  if (!responses->is_array()) return nonsense("", "it has no list of responses");
  for (const json::value& each : responses->get_array()) {
    const json::object* response = each.if_object();
    const json::object* range = response ? object_in(*response, "response_range") : nullptr;
    if (!range || !take_values(*range, outcome.read)) return nonsense("", "a response makes no sense");
  }
  return outcome;
}

Result<EtcdRange> EtcdGateway::read(const std::string& begin, const std::string& end, std::size_t limit,
                                    std::int64_t revision) {
  const Result<json::object> answer = state_->ask("/v3/kv/range", {{"key", base64_of(begin)},
                                                                   {"range_end", base64_of(end)},
                                                                   {"limit", std::to_string(limit)},
                                                                   {"revision", std::to_string(revision)}});
  if (!answer) return Failure(answer.error());
  EtcdRange range{{}, truth_in(*answer, "more"), revision_of(*answer)};
  if (!take_values(*answer, range.values)) return nonsense("", "its values make no sense");
  return range;
}

Result<std::optional<EtcdValue>> EtcdGateway::read(const std::string& key) {
  const Result<json::object> answer = state_->ask("/v3/kv/range", {{"key", base64_of(key)}});
  if (!answer) return Failure(answer.error());
  std::vector<EtcdValue> values;
  if (!take_values(*answer, values) || values.size() > 1) return nonsense("", "its value makes no sense");
  return values.empty() ? std::nullopt : std::optional(std::move(values.front()));
}

Result<EtcdGateway::Lease> EtcdGateway::grant_lease(std::chrono::seconds time) {
  const Result<json::object> answer = state_->ask("/v3/lease/grant", {{"TTL", std::to_string(time.count())}});
  if (!answer) return Failure(answer.error());
  const Lease lease{number_in(*answer, "ID"), std::chrono::seconds(number_in(*answer, "TTL"))};
  if (lease.id == 0 || lease.time.count() <= 0) return nonsense("", "it granted no lease");
  return lease;
}

Result<std::chrono::seconds> EtcdGateway::keep_alive(std::int64_t lease) {
  const Result<json::object> answer = state_->ask("/v3/lease/keepalive", {{"ID", std::to_string(lease)}});
  if (!answer) return Failure(answer.error());
  // Of a stream, as which the gateway serves it.
  const json::object* result = object_in(*answer, "result");
  if (!result)
    return failure(std::errc::host_unreachable, "keep the lease at", "etcd", complaint_of(json::serialize(*answer)));
  return std::chrono::seconds(number_in(*result, "TTL"));
}

Result<> EtcdGateway::revoke(std::int64_t lease) {
  const Result<json::object> answer = state_->ask("/v3/lease/revoke", {{"ID", std::to_string(lease)}});
  if (!answer) return Failure(answer.error());
  return {};
}

Result<> EtcdGateway::await_change(const std::string& key, std::int64_t revision, std::chrono::milliseconds silence) {
  const json::object watch{
      {"create_request", json::object{{"key", base64_of(key)}, {"start_revision", std::to_string(revision + 1)}}}};
  std::string line;
  State::Member& member = state_->members[state_->current];
  Result<> followed =
      member.client->follow("POST", "/v3/watch", json::serialize(watch), silence, [&](std::string_view piece) {
        // The first message says that the watch is there; whatever comes behind it is a change, or an end.
        line += piece;
        const std::size_t end = line.find('\n');
        return end == std::string::npos ||
               (end + 1 == line.size() && line.find("\"created\":true") != std::string::npos &&
                line.find("\"canceled\":true") == std::string::npos);
      });
  if (followed) return {};
  if (followed.error().code == std::errc::operation_canceled) return followed;
  if (followed.error().code == std::errc::timed_out) return {};
  state_->current = (state_->current + 1) % state_->members.size();
  return {};
}

void EtcdGateway::stop() {
  for (const State::Member& each : state_->members) each.client->stop();
}

}  // namespace tidepool::pool::controller
