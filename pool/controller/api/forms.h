// Which route stands for which request, which answer belongs to it, and how a refusal looks in HTTP: for codec and
// routes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "pool/controller/api/codec.h"
#include "pool/controller/api/routes.h"

namespace tidepool::pool::controller {

struct RequestForm {
  std::string_view method;
  std::string_view pattern;
  Request kind;  // as request_from() wants it
  Role role = Role::kAdmin;
  http::Handler::Route route;
};
std::span<const RequestForm> request_forms();
const RequestForm& form_of(const Request& request);
// "/v1/vms/{host}/{vm}" with values, percent-encoded.
std::string filled(std::string_view pattern, const Parameters& values);

struct RefusalForm {
  Refusal::Code kind;
  unsigned status;
  std::string_view code;
};
const RefusalForm& form_of(Refusal::Code code);
std::optional<Refusal::Code> refusal_code(std::string_view code);

// What is asked for with POST /v1/backup.
struct BackupRequest {
  std::string file;
};
template <class Io>
void describe(Io& io, BackupRequest& x) {
  io.need("file", x.file);
}

namespace detail {

template <class Asked>
struct AnswerOf {
  using type = PlanAnswer;  // of everything that administers
};
template <>
struct AnswerOf<RegisterServer> {
  using type = ServerAnswer;
};
template <>
struct AnswerOf<ServerHeartbeat> {
  using type = ServerAnswer;
};
template <>
struct AnswerOf<SyncHost> {
  using type = SyncAnswer;
};
template <>
struct AnswerOf<GrantSlices> {
  using type = GrantAnswer;
};
template <>
struct AnswerOf<ConfirmSlices> {
  using type = ConfirmAnswer;
};
template <>
struct AnswerOf<RenewLeases> {
  using type = RenewAnswer;
};
template <>
struct AnswerOf<ReleaseSlices> {
  using type = ReleaseAnswer;
};
template <>
struct AnswerOf<GetStatus> {
  using type = StatusAnswer;
};
template <>
struct AnswerOf<ListServers> {
  using type = ServersAnswer;
};
template <>
struct AnswerOf<ListHosts> {
  using type = HostsAnswer;
};
template <>
struct AnswerOf<ListVms> {
  using type = VmsAnswer;
};
template <>
struct AnswerOf<ListLeases> {
  using type = LeasesAnswer;
};
template <>
struct AnswerOf<ListHistory> {
  using type = HistoryAnswer;
};

}  // namespace detail

template <class Asked>
using AnswerTo = typename detail::AnswerOf<Asked>::type;

}  // namespace tidepool::pool::controller
