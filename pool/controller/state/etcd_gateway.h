// etcd v3 through its JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/): what the state store needs
// of it, as plain calls. Keys and values are any bytes.
//
// Blocking, one call at a time, except stop(). A member that does not answer, or that says that it cannot (a minority
// has no leader), is passed over for the next one. So a call may be carried out twice, and late: its user must make
// that harmless.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "service/http/tls.h"

namespace tidepool::pool::controller {

struct EtcdEndpoints {
  std::vector<std::string> urls;  // "http://127.0.0.1:2379"; members of one cluster
  http::TlsFiles tls;             // for https
};

struct EtcdValue {
  std::string key;
  std::string value;
  std::int64_t created = 0;  // the revision in which the key appeared
};

// One of the two.
struct EtcdCondition {
  std::string key;
  std::optional<std::int64_t> created;  // 0: the key is not there
  std::optional<std::string> value;
};

struct EtcdChange {
  std::string key;
  std::optional<std::string> value;  // none: the key goes
  std::int64_t lease = 0;            // 0: none
  std::string end;                   // of a deletion: all keys from `key` to before this one; empty: only `key`
};

struct EtcdTransaction {
  std::vector<EtcdCondition> conditions;
  std::vector<EtcdChange> changes;
  std::vector<std::string> otherwise_read;  // keys, when a condition does not hold
};

struct EtcdOutcome {
  bool done = false;
  std::int64_t revision = 0;
  std::vector<EtcdValue> read;  // those of otherwise_read that are there
};

struct EtcdRange {
  std::vector<EtcdValue> values;
  bool more = false;
  std::int64_t revision = 0;
};

class EtcdGateway {
 public:
  // `patience`: for one member to answer. Each is asked at most twice.
  static Result<std::unique_ptr<EtcdGateway>> make(const EtcdEndpoints& endpoints, std::chrono::milliseconds patience);
  ~EtcdGateway();

  // Errors of all: host_unreachable (no member answers, with what the last one said), operation_canceled, and
  // invalid_argument: what etcd said to a request that it does not take.
  Result<EtcdOutcome> run(const EtcdTransaction& transaction);
  // Keys from `begin` to before `end` in their order, at most `limit`; as of `revision`, or of now (0).
  Result<EtcdRange> read(const std::string& begin, const std::string& end, std::size_t limit, std::int64_t revision);
  Result<std::optional<EtcdValue>> read(const std::string& key);

  struct Lease {
    std::int64_t id = 0;
    std::chrono::seconds time{0};  // that it lives, from when etcd had the request
  };
  Result<Lease> grant_lease(std::chrono::seconds time);
  Result<std::chrono::seconds> keep_alive(std::int64_t lease);  // 0s: there is no such lease any more
  Result<> revoke(std::int64_t lease);

  // Returns when the key was changed after `revision`, when `silence` has passed, or when the member cannot say any
  // more: look anew.
  Result<> await_change(const std::string& key, std::int64_t revision, std::chrono::milliseconds silence);

  void stop();  // any thread; for good

 private:
  struct State;
  explicit EtcdGateway(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace tidepool::pool::controller
