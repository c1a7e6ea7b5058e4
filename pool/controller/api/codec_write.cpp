// Requests and answers as JSON.
#include <boost/json.hpp>

#include "pool/controller/api/codec.h"
#include "pool/controller/api/forms.h"
#include "pool/controller/api/scalars.h"
#include "pool/controller/api/view_fields.h"
#include "service/http/error_body.h"
#include "service/http/target.h"

namespace tidepool::pool::controller {
namespace {

namespace json = boost::json;

json::value json_of(const std::string& text) {
  return json::value(text);
}
json::value json_of(bool flag) {
  return flag;
}
json::value json_of(double number) {
  return number;
}
json::value json_of(std::int64_t number) {
  return number;
}
json::value json_of(std::uint64_t number) {
  return number;
}
json::value json_of(std::uint32_t number) {
  return number;
}
json::value json_of(Bytes bytes) {
  return bytes.value;
}
json::value json_of(SliceId slice) {
  return json::value(slice_text(slice));
}
json::value json_of(LeaseEpoch epoch) {
  return static_cast<std::uint64_t>(epoch);
}
template <std::size_t size>
json::value json_of(const std::array<std::uint8_t, size>& bytes) {
  return json::value(hex_text(bytes));
}
template <class Enum>
requires std::is_enum_v<Enum> json::value json_of(Enum value) {
  for (const auto& [word, each] : words_of(value))
    if (each == value) return json::value(word);
  return nullptr;
}

// Makes a document, and a target, of what is described.
class Writer {
 public:
  json::object body;
  Parameters path_values;
  std::string query_text;  // "?plan=true"

  void path(std::string_view name, const std::string& text) { path_values[std::string(name)] = text; }
  void query(std::string_view name, const std::string& text) {
    if (text.empty()) return;
    query_text += (query_text.empty() ? "?" : "&") + std::string(name) + "=" + http::percent_encoded(text);
  }
  void query(std::string_view name, bool flag) { query(name, std::string(flag ? "true" : "")); }
  void query(std::string_view name, std::uint32_t number) {
    query(name, number == 0 ? std::string() : std::to_string(number));
  }
  template <class T>
  void need(std::string_view name, const T& field) {
    body[name] = value_of(field);
  }
  template <class T>
  void need(std::string_view name, const std::vector<T>& list, std::size_t) {
    json::array items;
    items.reserve(list.size());
    for (const T& each : list) items.push_back(value_of(each));
    body[name] = std::move(items);
  }
  template <class T>
  void may(std::string_view name, const T& field) {
    need(name, field);
  }
  template <class T>
  void may(std::string_view name, const std::optional<T>& field) {
    if (field) need(name, *field);
  }
  template <class T>
  void may(std::string_view name, const std::vector<T>& list, std::size_t most) {
    need(name, list, most);
  }
  void limit(std::string_view name, Bytes bytes) {
    body[name] = bytes == kNoLimit ? json::value(nullptr) : json_of(bytes);
  }
  void limit(std::string_view name, const std::optional<Bytes>& bytes) {
    if (bytes) limit(name, *bytes);
  }

 private:
  template <class T>
  static json::value value_of(const T& field) {
    if constexpr (requires { json_of(field); }) {
      return json_of(field);
    } else {
      return object_of(field);
    }
  }

 public:
  template <class T>
  static json::object object_of(const T& value) {
    Writer writer;
    describe(writer, const_cast<T&>(value));  // NOLINT(cppcoreguidelines-pro-type-const-cast): a writer only reads
    return std::move(writer.body);
  }
};

Document document_of_refusal(const Refusal& refusal) {
  const RefusalForm& form = form_of(refusal.code);
  json::object error = http::error_object(form.code, refusal.message, refusal.remedy);
  error["arithmetic"] = refusal.arithmetic;
  error["retry_after_ms"] = refusal.retry_after_ms;
  return {form.status, json::serialize(json::object{{"error", std::move(error)}}) + "\n"};
}

}  // namespace

HttpForm http_form(const Request& request) {
  return std::visit(
      [&](const auto& asked) {
        Writer writer;
        auto copy = asked;
        describe(writer, copy);
        const RequestForm& form = form_of(request);
        HttpForm result{std::string(form.method), filled(form.pattern, writer.path_values) + writer.query_text, ""};
        const bool may_be_without = form.method == "GET" || form.method == "POST";
        if (!may_be_without || !writer.body.empty()) result.body = json::serialize(writer.body);
        return result;
      },
      request);
}

Document document_of(const Answer& answer) {
  return std::visit(
      [](const auto& given) -> Document {
        if constexpr (std::is_same_v<std::decay_t<decltype(given)>, Refusal>) {
          return document_of_refusal(given);
        } else {
          return {200, json::serialize(Writer::object_of(given)) + "\n"};
        }
      },
      answer);
}

Document document_of(const BackupAnswer& answer) {
  return {200, json::serialize(Writer::object_of(answer)) + "\n"};
}

}  // namespace tidepool::pool::controller
