#include <utility>

#include "pool/controller/api/codec.h"
#include "pool/controller/port/controller_port.h"
#include "service/http/client.h"

namespace tidepool::pool::controller {
namespace {

class HttpPort final : public ControllerPort {
 public:
  explicit HttpPort(std::unique_ptr<http::Client> client) : client_(std::move(client)) {}

  Result<Answer> call(const Request& request) override {
    const HttpForm form = http_form(request);
    auto answer = client_->request(form.method, form.target, form.body);
    if (!answer) return Failure{answer.error()};
    return answer_from(request, answer->status, answer->body);
  }
  void stop() override { client_->stop(); }

 private:
  std::unique_ptr<http::Client> client_;
};

std::errc errc_of(Refusal::Code code) {
  switch (code) {
    case Refusal::Code::kInvalid:
      return std::errc::invalid_argument;
    case Refusal::Code::kNotFound:
      return std::errc::no_such_file_or_directory;
    case Refusal::Code::kConflict:
      return std::errc::file_exists;
    case Refusal::Code::kStale:
      return std::errc::operation_not_permitted;
    case Refusal::Code::kNoCapacity:
    case Refusal::Code::kOverLimit:
      return std::errc::no_space_on_device;
    case Refusal::Code::kUnavailable:
      return std::errc::resource_unavailable_try_again;
  }
  return std::errc::protocol_error;
}

}  // namespace

Result<std::unique_ptr<ControllerPort>> make_http_port(std::vector<std::string> endpoints, http::TlsFiles tls,
                                                       std::string user_agent) {
  http::ClientOptions options;
  options.endpoints = std::move(endpoints);
  options.tls = std::move(tls);
  options.user_agent = std::move(user_agent);
  options.repeatable = true;
  auto client = http::Client::make(options);
  if (!client) return Failure{client.error()};
  return std::make_unique<HttpPort>(std::move(*client));
}

Error error_of(const Refusal& refusal) {
  std::string text = refusal.message;
  if (!refusal.arithmetic.empty()) text += " (" + refusal.arithmetic + ")";
  return failure(errc_of(refusal.code), "ask", "the pool controller",
                 text + (refusal.remedy.empty() ? "" : ": " + refusal.remedy))
      .value();
}

}  // namespace tidepool::pool::controller
