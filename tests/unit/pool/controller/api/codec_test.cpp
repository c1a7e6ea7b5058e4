// Requests and answers there and back, and what hostile bodies come to.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <random>

#include "service/http/target.h"
#include "tests/unit/pool/controller/api/samples.h"

namespace tidepool::pool::controller::testing {
namespace {

namespace json = boost::json;

Parameters parameters_of(const RequestForm& form, const std::string& target) {
  static constexpr std::array<std::string_view, 8> kAll{"plan", "after",  "limit",  "host",
                                                        "vm",   "server", "tenant", "subject"};
  auto all = http::path_values(form.pattern, http::path_of(target));
  auto query = http::query_values(target, kAll, "");
  EXPECT_TRUE(all);
  EXPECT_TRUE(query);
  all->merge(*query);
  return *all;
}

TEST(ControllerCodec, RequestsComeBackAsTheyWere) {
  for (const RequestForm& form : request_forms()) {
    const HttpForm there = http_form(sample_of(form.kind));
    EXPECT_EQ(there.method, form.method);
    const Result<Request> back = request_from(form.kind, parameters_of(form, there.target), there.body);
    ASSERT_TRUE(back) << form.pattern << ": " << back.error().message();
    const HttpForm again = http_form(*back);
    EXPECT_EQ(again.target, there.target);
    EXPECT_EQ(again.body, there.body);
  }
}

TEST(ControllerCodec, AnswersComeBackAsTheyWere) {
  for (const RequestForm& form : request_forms()) {
    const Document there = document_of(sample_answer_to(form.kind));
    const Result<Answer> back = answer_from(form.kind, there.status, there.body);
    ASSERT_TRUE(back) << form.pattern << ": " << back.error().message();
    EXPECT_EQ(document_of(*back).body, there.body);
  }
}

TEST(ControllerCodec, RefusalsKeepTheirKindAndTheirSum) {
  for (const Refusal::Code code :
       {Refusal::Code::kInvalid, Refusal::Code::kNotFound, Refusal::Code::kConflict, Refusal::Code::kStale,
        Refusal::Code::kNoCapacity, Refusal::Code::kOverLimit, Refusal::Code::kUnavailable}) {
    const Document there = document_of(Answer{Refusal{code, "no room for vm a/b", "8 > 4", "less", 250}});
    EXPECT_GE(there.status, 400u);
    const Result<Answer> back = answer_from(GetStatus{}, there.status, there.body);
    ASSERT_TRUE(back);
    const auto& refusal = std::get<Refusal>(*back);
    EXPECT_EQ(refusal.code, code);
    EXPECT_EQ(refusal.message, "no room for vm a/b");
    EXPECT_EQ(refusal.arithmetic, "8 > 4");
    EXPECT_EQ(refusal.remedy, "less");
    EXPECT_EQ(refusal.retry_after_ms, 250u);
  }
}

TEST(ControllerCodec, NoLimitIsNull) {
  const HttpForm form = http_form(SetVm{"h", "v", {.reservation = {}, .limit = kNoLimit, .weight = {}}, false});
  EXPECT_EQ(form.body, R"({"limit_bytes":null})");
  const Result<Request> back = request_from(SetVm{}, {{"host", "h"}, {"vm", "v"}}, form.body);
  ASSERT_TRUE(back);
  EXPECT_EQ(std::get<SetVm>(*back).bounds.limit, kNoLimit);
  const Result<Request> nothing = request_from(SetVm{}, {{"host", "h"}, {"vm", "v"}}, "{}");
  ASSERT_TRUE(nothing);
  EXPECT_FALSE(std::get<SetVm>(*nothing).bounds.limit);
}

TEST(ControllerCodec, ClientsPassOverWhatANewerControllerSays) {
  const Document answer = document_of(sample_answer_to(ServerHeartbeat{}));
  json::object object = json::parse(answer.body).as_object();
  object["from_the_future"] = {1, 2};
  EXPECT_TRUE(answer_from(ServerHeartbeat{}, 200, json::serialize(object)));
  object.erase("heartbeat_ms");
  const Result<Answer> broken = answer_from(ServerHeartbeat{}, 200, json::serialize(object));
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code, std::make_error_condition(std::errc::protocol_error));
  EXPECT_FALSE(answer_from(ServerHeartbeat{}, 200, "<html>"));
  EXPECT_FALSE(answer_from(ServerHeartbeat{}, 502, "Bad Gateway"));
}

TEST(ControllerCodec, ErrorsNameThePlace) {
  const auto message = [](const Request& kind, std::string_view body) {
    const Result<Request> read = request_from(kind, {}, body);
    return read ? std::string("read") : read.error().message();
  };
  const auto expect = [&](const Request& kind, std::string_view body, std::string_view text) {
    EXPECT_NE(message(kind, body).find(text), std::string::npos) << message(kind, body);
  };
  expect(ServerHeartbeat{}, "", "'boot'");
  expect(ServerHeartbeat{}, "[]", "expected a JSON object");
  expect(ServerHeartbeat{}, "{\"boot\":", "not JSON");
  expect(ServerHeartbeat{}, R"({"boot":"0"})", "32 hexadecimal digits");
  expect(ServerHeartbeat{}, R"({"boot":"000102030405060708090a0b0c0d0e0F"})", "32 hexadecimal digits");
  constexpr std::string_view kBoot = R"("boot":"000102030405060708090a0b0c0d0e0f")";
  const auto heartbeat = [&](const std::string& rest) { return "{" + std::string(kBoot) + "," + rest + "}"; };
  expect(ServerHeartbeat{}, heartbeat(R"("free_bytes":-1)"), "'free_bytes'");
  expect(ServerHeartbeat{}, heartbeat(R"("free_bytes":1.5)"), "'free_bytes'");
  expect(ServerHeartbeat{}, heartbeat(R"("free_bytes":1e300)"), "'free_bytes'");
  expect(ServerHeartbeat{}, heartbeat(R"("free_bytes":18446744073709551616)"), "'free_bytes'");
  expect(ServerHeartbeat{}, heartbeat(R"("free_bytes":null)"), "'free_bytes'");
  expect(ServerHeartbeat{}, heartbeat(R"("free_bytes":18446744073709551615)"), "read");
  expect(ServerHeartbeat{}, heartbeat(R"("free_bytes":1,"leavin":true)"), "did you mean 'leaving'");
  expect(ServerHeartbeat{}, heartbeat(R"("free_bytes":1,"done":[{"slice":"0000000000000001","below_epoch":2},{}])"),
         "'done[1].slice'");
  expect(ServerHeartbeat{}, heartbeat(R"("free_bytes":1,"done":{})"), "expected a list");
  std::string many = R"("free_bytes":1,"done":[)";
  for (int i = 0; i < 65; ++i) many += std::string(i ? "," : "") + R"({"slice":"0000000000000001","below_epoch":2})";
  expect(ServerHeartbeat{}, heartbeat(many + "]"), "at most 64");
  expect(SetVm{}, R"({"weight":"heavy"})", "'weight'");
  const Result<Request> plan = request_from(SetVm{}, {{"host", "h"}, {"vm", "v"}, {"plan", "maybe"}}, "{}");
  ASSERT_FALSE(plan);
  EXPECT_NE(plan.error().message().find("'plan'"), std::string::npos);
  EXPECT_FALSE(request_from(GetStatus{}, {{"plan", "true"}}, "")) << "not of this route";
  for (const char* limit : {"0", "1001", "-1", "x", ""})
    EXPECT_FALSE(request_from(ListVms{}, {{"limit", limit}}, "")) << limit;
  EXPECT_FALSE(request_from(GetStatus{}, {}, std::string(5000, '[')));
  EXPECT_FALSE(backup_file_from(R"({"file":"relative"})"));
  EXPECT_EQ(backup_file_from(R"({"file":"/var/backup"})"), "/var/backup");
}

// Bytes changed, lost and added: read or refused with a reason, nothing else.
TEST(ControllerCodec, HostileBodiesAreReadOrRefused) {
  std::mt19937 random(20261127);
  std::size_t refused = 0;
  for (const RequestForm& form : request_forms()) {
    const HttpForm sample = http_form(sample_of(form.kind));
    const std::string answer = document_of(sample_answer_to(form.kind)).body;
    for (int round = 0; round < 300; ++round) {
      for (std::string body : {sample.body, answer}) {
        const std::size_t changes = 1 + random() % 4;
        for (std::size_t i = 0; i < changes && !body.empty(); ++i) {
          const std::size_t at = random() % body.size();
          switch (random() % 4) {
            case 0:
              body[at] = static_cast<char>(random());
              break;
            case 1:
              body.erase(at, 1 + random() % 20);
              break;
            case 2:
              body.insert(at, body.substr(random() % body.size(), 1 + random() % 20));
              break;
            default:
              body.insert(at, 1, "{}[]\",:0-e.\\"[random() % 12]);
          }
        }
        const Result<Request> read = request_from(form.kind, parameters_of(form, sample.target), body);
        refused += read ? 0 : 1;
        if (!read) {
          EXPECT_EQ(read.error().code, std::make_error_condition(std::errc::invalid_argument));
          EXPECT_FALSE(read.error().remedy.empty() && read.error().subject.empty());
        }
        [[maybe_unused]] const Result<Answer> answered = answer_from(form.kind, 200, body);
        [[maybe_unused]] const Result<Answer> failed = answer_from(form.kind, 409, body);
      }
    }
  }
  EXPECT_GT(refused, 1000u);
}

}  // namespace
}  // namespace tidepool::pool::controller::testing
