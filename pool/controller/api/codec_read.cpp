// Requests and answers from JSON.
#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <optional>

#include "base/nearest.h"
#include "pool/controller/api/codec.h"
#include "pool/controller/api/forms.h"
#include "pool/controller/api/scalars.h"
#include "pool/controller/api/view_fields.h"

namespace tidepool::pool::controller {
namespace {

namespace json = boost::json;

constexpr std::size_t kLongestText = 4096;
constexpr std::size_t kDeepest = 16;

std::optional<std::uint64_t> natural(const json::value& value) {
  if (value.is_uint64()) return value.get_uint64();
  if (value.is_int64() && value.get_int64() >= 0) return static_cast<std::uint64_t>(value.get_int64());
  return std::nullopt;
}

// Each: what was expected, or empty when it is read.
std::string read(const json::value& value, std::string& into) {
  if (!value.is_string() || value.get_string().size() > kLongestText) return "text";
  into = std::string(value.get_string());
  return "";
}
std::string read(const json::value& value, bool& into) {
  if (!value.is_bool()) return "true or false";
  into = value.get_bool();
  return "";
}
std::string read(const json::value& value, double& into) {
  if (!value.is_number() || !std::isfinite(value.to_number<double>())) return "a number";
  into = value.to_number<double>();
  return "";
}
std::string read(const json::value& value, std::int64_t& into) {
  if (!value.is_int64()) return "a whole number";
  into = value.get_int64();
  return "";
}
std::string read(const json::value& value, std::uint64_t& into) {
  const auto number = natural(value);
  if (!number) return "a whole number, not below zero";
  into = *number;
  return "";
}
std::string read(const json::value& value, std::uint32_t& into) {
  const auto number = natural(value);
  if (!number || *number > std::numeric_limits<std::uint32_t>::max()) return "a whole number from 0 to 4294967295";
  into = static_cast<std::uint32_t>(*number);
  return "";
}
std::string read(const json::value& value, Bytes& into) {
  return read(value, into.value).empty() ? "" : "a whole number of bytes";
}
std::string read(const json::value& value, SliceId& into) {
  const auto slice = value.is_string() ? slice_from(std::string_view(value.get_string())) : std::nullopt;
  if (!slice) return "a slice's 16 hexadecimal digits";
  into = *slice;
  return "";
}
std::string read(const json::value& value, LeaseEpoch& into) {
  const auto number = natural(value);
  if (!number) return "a whole number, not below zero";
  into = static_cast<LeaseEpoch>(*number);
  return "";
}
template <std::size_t size>
std::string read(const json::value& value, std::array<std::uint8_t, size>& into) {
  if (value.is_string() && hex_from(std::string_view(value.get_string()), into)) return "";
  return std::to_string(2 * size) + " hexadecimal digits";
}
template <class Enum>
requires std::is_enum_v<Enum> std::string read(const json::value& value, Enum& into) {
  std::string expected;
  for (const auto& [word, each] : words_of(into)) {
    if (value.is_string() && std::string_view(value.get_string()) == word) {
      into = each;
      return "";
    }
    expected += (expected.empty() ? "'" : ", '") + std::string(word) + "'";
  }
  return "one of " + expected;
}

// What a whole reading has in common.
struct Reading {
  bool strict = true;  // fields that nobody knows are errors
  std::optional<Error> error;

  void fail(const std::string& subject, const std::string& remedy) {
    if (!error)
      error = failure(std::errc::invalid_argument, strict ? "read the request's" : "read the answer's", subject, remedy)
                  .value();
  }
};

class Reader {
 public:
  Reader(const json::object& object, std::string place, Reading& reading, const Parameters& parameters)
      : object_(object), place_(std::move(place)), reading_(reading), parameters_(parameters) {}

  void path(std::string_view name, std::string& text) {
    if (const std::string* given = parameter(name)) text = *given;
  }
  void query(std::string_view name, std::string& text) { path(name, text); }
  void query(std::string_view name, bool& flag) {
    const std::string* given = parameter(name);
    if (!given) return;
    flag = *given == "true" || given->empty();
    if (!flag && *given != "false") reading_.fail("query parameter '" + std::string(name) + "'", "true or false");
  }
  void query(std::string_view name, std::uint32_t& number) {
    const std::string* given = parameter(name);
    if (!given) return;
    const auto value = number_from(*given);
    if (!value || *value == 0 || *value > kMostPage)
      return reading_.fail("query parameter '" + std::string(name) + "'",
                           "a number from 1 to " + std::to_string(kMostPage));
    number = static_cast<std::uint32_t>(*value);
  }
  template <class T>
  void need(std::string_view name, T& field) {
    if (const json::value* value = required(name)) take(*value, place_ + std::string(name), field);
  }
  template <class T>
  void need(std::string_view name, std::vector<T>& list, std::size_t most) {
    if (const json::value* value = required(name)) take_list(*value, place_ + std::string(name), list, most);
  }
  template <class T>
  void may(std::string_view name, T& field) {
    if (const json::value* value = present(name)) take(*value, place_ + std::string(name), field);
  }
  template <class T>
  void may(std::string_view name, std::optional<T>& field) {
    if (const json::value* value = present(name)) take(*value, place_ + std::string(name), field.emplace());
  }
  template <class T>
  void may(std::string_view name, std::vector<T>& list, std::size_t most) {
    if (const json::value* value = present(name)) take_list(*value, place_ + std::string(name), list, most);
  }
  void limit(std::string_view name, Bytes& bytes) {
    const json::value* value = present(name);
    if (!value) return;
    if (value->is_null()) {
      bytes = kNoLimit;
    } else {
      take(*value, place_ + std::string(name), bytes);
    }
  }
  void limit(std::string_view name, std::optional<Bytes>& bytes) {
    if (present(name)) limit(name, bytes.emplace());
  }

  // After everything was described.
  void refuse_unknown() const {
    if (!reading_.strict) return;
    for (const auto& [name, value] : parameters_)
      if (std::ranges::find(asked_, name) == asked_.end())
        reading_.fail("query parameter '" + name.substr(0, 100) + "'", "this route does not know it");
    for (const auto& [key, value] : object_) {
      if (std::ranges::find(known_, std::string_view(key)) != known_.end()) continue;
      const std::string name(std::string_view(key).substr(0, 100));
      const std::optional<std::string> guess = nearest(name, known_);
      reading_.fail("unknown field '" + place_ + name + "'", guess ? "did you mean '" + place_ + *guess + "'?" : "");
    }
  }

 private:
  const std::string* parameter(std::string_view name) {
    asked_.emplace_back(name);
    const auto given = parameters_.find(std::string(name));
    return given == parameters_.end() ? nullptr : &given->second;
  }
  const json::value* present(std::string_view name) {
    if (std::ranges::find(known_, name) == known_.end()) known_.emplace_back(name);
    return object_.if_contains(name);
  }
  const json::value* required(std::string_view name) {
    const json::value* value = present(name);
    if (!value) reading_.fail("field '" + place_ + std::string(name) + "'", "it is missing");
    return value;
  }
  template <class T>
  void take(const json::value& value, const std::string& place, T& field) {
    if constexpr (requires { read(value, field); }) {
      const std::string expected = read(value, field);
      if (!expected.empty()) reading_.fail("field '" + place + "'", "expected " + expected);
    } else if (!value.is_object()) {
      reading_.fail("field '" + place + "'", "expected an object");
    } else {
      Reader inner(value.get_object(), place + ".", reading_, kNoParameters);
      describe(inner, field);
      inner.refuse_unknown();
    }
  }
  template <class T>
  void take_list(const json::value& value, const std::string& place, std::vector<T>& list, std::size_t most) {
    if (!value.is_array()) return reading_.fail("field '" + place + "'", "expected a list");
    const json::array& items = value.get_array();
    if (items.size() > most)
      return reading_.fail("field '" + place + "'",
                           "at most " + std::to_string(most) + " items, not " + std::to_string(items.size()));
    list.clear();
    list.reserve(items.size());
    for (std::size_t i = 0; i < items.size() && !reading_.error; ++i)
      take(items[i], place + "[" + std::to_string(i) + "]", list.emplace_back());
  }

  static inline const Parameters kNoParameters{};
  const json::object& object_;
  std::string place_;
  Reading& reading_;
  const Parameters& parameters_;
  std::vector<std::string> known_;
  std::vector<std::string> asked_;  // parameters
};

Result<json::object> parse_object(std::string_view text, const char* whose) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) return json::object{};
  boost::system::error_code error;
  json::parse_options options;
  options.max_depth = kDeepest;
  json::value document = json::parse(text, error, {}, options);
  const auto wrong = [&](const std::string& why) { return failure(std::errc::invalid_argument, whose, "body", why); };
  if (error) return wrong("it is not JSON: " + error.message());
  if (!document.is_object()) return wrong("expected a JSON object");
  return std::move(document.get_object());
}

template <class T>
Result<T> read_document(T start, const json::object& object, const Parameters& parameters, bool strict) {
  Reading reading;
  reading.strict = strict;
  Reader reader(object, "", reading, parameters);
  describe(reader, start);
  reader.refuse_unknown();
  if (reading.error) return Failure(*reading.error);
  return start;
}

Result<Answer> answer_document(const Request& request, const json::object& object) {
  return std::visit(
      [&](const auto& asked) -> Result<Answer> {
        using Given = AnswerTo<std::decay_t<decltype(asked)>>;
        Result<Given> read = read_document(Given{}, object, {}, false);
        if (!read) {
          Error error = read.error();
          error.code = std::make_error_code(std::errc::protocol_error);
          return Failure(error);
        }
        return Answer{std::move(*read)};
      },
      request);
}

std::string text_in(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  return value && value->is_string() ? std::string(value->get_string()) : "";
}

}  // namespace

Result<Request> request_from(const Request& kind, const Parameters& parameters, std::string_view body) {
  const Result<json::object> object = parse_object(body, "read the request's");
  if (!object) return Failure(object.error());
  return std::visit(
      [&](const auto& start) -> Result<Request> {
        auto read = read_document(start, *object, parameters, true);
        if (!read) return Failure(read.error());
        return Request{std::move(*read)};
      },
      kind);
}

Result<Answer> answer_from(const Request& request, unsigned status, std::string_view body) {
  const Result<json::object> object = parse_object(body, "read the answer's");
  const auto nonsense = [&](const std::string& why) {
    return failure(std::errc::protocol_error, "read the controller's answer", "status " + std::to_string(status), why);
  };
  if (!object) return nonsense(object.error().remedy);
  if (status >= 200 && status <= 299) return answer_document(request, *object);
  const json::value* found = object->if_contains("error");
  if (!found || !found->is_object()) return nonsense("it is none of the controller's");
  const json::object& error = found->get_object();
  const std::string code = text_in(error, "code");
  const std::string message = text_in(error, "message");
  const std::string remedy = text_in(error, "remedy");
  if (code == "not_leader") return failure(std::errc::operation_not_permitted, "ask the controller", message, remedy);
  if (code == "forbidden") return failure(std::errc::permission_denied, "ask the controller", message, remedy);
  if (code == "timed_out") return failure(std::errc::timed_out, "ask the controller", message, remedy);
  if (const std::optional<Refusal::Code> refused = refusal_code(code)) {
    Refusal refusal{.code = *refused, .message = message, .arithmetic = text_in(error, "arithmetic"), .remedy = remedy};
    if (const json::value* after = error.if_contains("retry_after_ms"))
      refusal.retry_after_ms = natural(*after).value_or(0);
    return Answer{std::move(refusal)};
  }
  return failure(std::errc::io_error, "ask the controller", message, remedy);
}

Result<std::string> backup_file_from(std::string_view body) {
  const Result<json::object> object = parse_object(body, "read the request's");
  if (!object) return Failure(object.error());
  const Result<BackupRequest> request = read_document(BackupRequest{}, *object, {}, true);
  if (!request) return Failure(request.error());
  if (!request->file.starts_with('/'))
    return failure(std::errc::invalid_argument, "read the request's", "field 'file'",
                   "expected a path from / on the controller's machine");
  return request->file;
}

}  // namespace tidepool::pool::controller
