// docs/openapi.yaml against the server: every route in both, and every document as it is described.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "service/http/target.h"
#include "tests/unit/pool/controller/api/samples.h"
#include "tests/unit/pool/controller/api/yaml_text.h"

namespace tidepool::pool::controller::testing {
namespace {

namespace json = boost::json;

const json::object& page() {
  static const json::object read = [] {
    std::ifstream file(TIDEPOOL_SOURCE_DIR "/docs/openapi.yaml");
    std::stringstream text;
    text << file.rdbuf();
    return read_yaml(text.str()).as_object();
  }();
  return read;
}

const json::object& operation(const RequestForm& form) {
  std::string method(form.method);
  for (char& c : method) c = static_cast<char>(std::tolower(c));
  return page().at("paths").at(form.pattern).at(method).as_object();
}

const json::object& resolved(const json::value& schema) {
  const json::object& object = schema.as_object();
  const json::value* reference = object.if_contains("$ref");
  if (!reference) return object;
  static constexpr std::string_view kPrefix = "#/components/schemas/";
  const std::string_view path = reference->as_string();
  EXPECT_TRUE(path.starts_with(kPrefix)) << path;
  return page().at("components").at("schemas").at(path.substr(kPrefix.size())).as_object();
}

// What is wrong with `value`; empty: it is as described. Every property must be there: samples are complete.
std::string mismatch(const json::value& value, const json::value& described, const std::string& place) {
  const json::object& schema = resolved(described);
  if (value.is_null()) return schema.contains("nullable") ? "" : place + ": null";
  const std::string_view type = schema.at("type").as_string();
  if (type == "object") {
    if (!value.is_object()) return place + ": no object";
    const json::object& properties =
        schema.contains("properties") ? schema.at("properties").as_object() : json::object{};
    for (const auto& [name, item] : value.get_object()) {
      const json::value* property = properties.if_contains(name);
      if (!property) return place + "." + std::string(name) + ": the page does not know it";
      if (const std::string problem = mismatch(item, *property, place + "." + std::string(name)); !problem.empty())
        return problem;
    }
    for (const auto& [name, property] : properties)
      if (!value.get_object().contains(name)) return place + "." + std::string(name) + ": nobody writes it";
    if (const json::value* required = schema.if_contains("required"))
      for (const json::value& name : required->as_array())
        if (!properties.contains(name.as_string())) return place + ": requires what it does not describe";
    return "";
  }
  if (type == "array") {
    if (!value.is_array()) return place + ": no list";
    for (const json::value& item : value.get_array())
      if (const std::string problem = mismatch(item, schema.at("items"), place + "[]"); !problem.empty())
        return problem;
    return "";
  }
  if (type == "string") {
    if (!value.is_string()) return place + ": no text";
    const std::string text(value.get_string());
    if (const json::value* pattern = schema.if_contains("pattern");
        pattern && !std::regex_match(text, std::regex(std::string(pattern->as_string()))))
      return place + ": '" + text + "' does not match";
    if (const json::value* words = schema.if_contains("enum"))
      if (std::ranges::find(words->as_array(), value) == words->as_array().end()) return place + ": unknown " + text;
    return "";
  }
  if (type == "boolean") return value.is_bool() ? "" : place + ": neither true nor false";
  if (type == "integer") return value.is_int64() || value.is_uint64() ? "" : place + ": no whole number";
  if (type == "number") return value.is_number() ? "" : place + ": no number";
  return place + ": type " + std::string(type);
}

const json::value& body_schema(const json::object& operation) {
  return operation.at("requestBody").at("content").at("application/json").at("schema");
}

TEST(OpenApi, EveryRouteIsOnThePageAndInTheServer) {
  std::set<std::string> described;
  for (const auto& [path, item] : page().at("paths").as_object())
    for (const auto& [method, operation] : item.as_object()) {
      std::string line = std::string(method) + " " + std::string(path) + " " +
                         std::string(operation.as_object().at("x-role").as_string());
      described.insert(line);
    }
  static constexpr std::array<std::string_view, 5> kRoles{"none", "reader", "server", "agent", "admin"};
  std::set<std::string> served;
  for (const ApiRoute& route : api_routes()) {
    std::string method(route.method);
    for (char& c : method) c = static_cast<char>(std::tolower(c));
    served.insert(method + " " + std::string(route.pattern) + " " +
                  std::string(kRoles[static_cast<std::size_t>(route.role)]));
  }
  EXPECT_EQ(described, served);
}

TEST(OpenApi, EveryKindOfRequestHasARoute) {
  std::set<std::size_t> kinds;
  for (const RequestForm& form : request_forms()) kinds.insert(form.kind.index());
  EXPECT_EQ(kinds.size(), std::variant_size_v<Request>);
}

TEST(OpenApi, RequestsAreAsDescribed) {
  for (const RequestForm& form : request_forms()) {
    SCOPED_TRACE(form.pattern);
    const HttpForm sample = http_form(sample_of(form.kind));
    const json::object& described = operation(form);
    if (sample.body.empty()) {
      EXPECT_FALSE(described.contains("requestBody"));
    } else {
      EXPECT_EQ(mismatch(json::parse(sample.body), body_schema(described), "body"), "");
    }
    // Parameters: as many as the server reads, by name.
    std::set<std::string> read;
    const auto path = http::path_values(form.pattern, http::path_of(sample.target));
    for (const auto& [name, value] : *path) read.insert(name);
    static constexpr std::array<std::string_view, 8> kAll{"plan", "after",  "limit",  "host",
                                                          "vm",   "server", "tenant", "subject"};
    const auto query = http::query_values(sample.target, kAll, "");
    for (const auto& [name, value] : *query) read.insert(name);
    std::set<std::string> named;
    if (const json::value* parameters = described.if_contains("parameters"))
      for (const json::value& each : parameters->as_array()) named.insert(std::string(each.at("name").as_string()));
    EXPECT_EQ(named, read);
  }
}

TEST(OpenApi, AnswersAreAsDescribed) {
  for (const RequestForm& form : request_forms()) {
    const Document sample = document_of(sample_answer_to(form.kind));
    const json::value& schema =
        operation(form).at("responses").at("200").at("content").at("application/json").at("schema");
    EXPECT_EQ(mismatch(json::parse(sample.body), schema, "answer"), "") << form.pattern;
  }
  const Document backup = document_of(BackupAnswer{"/x", 1, Bytes{2}});
  EXPECT_EQ(mismatch(json::parse(backup.body), page().at("components").at("schemas").at("BackupAnswer"), "answer"), "");
  const Document refusal = document_of(Answer{Refusal{Refusal::Code::kStale, "a", "b", "c", 5}});
  EXPECT_EQ(mismatch(json::parse(refusal.body), page().at("components").at("schemas").at("Error"), "error"), "");
}

// Takes each property away in turn, at every depth: refused exactly where the page requires it, with its name.
void without_each(const RequestForm& form, json::value& whole, json::value& part, const json::value& described,
                  const Parameters& path) {
  const json::object& schema = resolved(described);
  if (part.is_array()) {
    if (!part.get_array().empty()) without_each(form, whole, part.get_array()[0], schema.at("items"), path);
    return;
  }
  if (!part.is_object()) return;
  json::object& object = part.get_object();
  const json::object complete = object;
  const json::value* required = schema.if_contains("required");
  for (const auto& [name, value] : complete) {
    object.erase(name);
    const bool needed =
        required && std::ranges::find(required->as_array(), json::value(name)) != required->as_array().end();
    const Result<Request> read = request_from(form.kind, path, json::serialize(whole));
    EXPECT_EQ(static_cast<bool>(read), !needed) << form.pattern << " " << name;
    if (!read) {
      EXPECT_NE(read.error().message().find(std::string(name)), std::string::npos) << read.error().message();
    }
    object = complete;
    without_each(form, whole, object[name], schema.at("properties").at(name), path);
  }
  object["no_such_field"] = 1;
  const Result<Request> read = request_from(form.kind, path, json::serialize(whole));
  ASSERT_FALSE(read) << form.pattern;
  EXPECT_NE(read.error().message().find("no_such_field"), std::string::npos) << read.error().message();
  object = complete;
}

TEST(OpenApi, RequiredFieldsAreRequiredAndUnknownOnesRefused) {
  for (const RequestForm& form : request_forms()) {
    const HttpForm sample = http_form(sample_of(form.kind));
    if (sample.body.empty()) continue;
    const auto path = http::path_values(form.pattern, http::path_of(sample.target));
    json::value body = json::parse(sample.body);
    without_each(form, body, body, body_schema(operation(form)), *path);
  }
}

}  // namespace
}  // namespace tidepool::pool::controller::testing
