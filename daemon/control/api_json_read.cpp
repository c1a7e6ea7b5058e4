#include <boost/json.hpp>
#include <functional>
#include <limits>
#include <map>

#include "base/nearest.h"
#include "base/quantity_text.h"
#include "daemon/control/api_json.h"
#include "daemon/control/config_schema.h"

namespace tidepool::daemon {
namespace {

namespace json = boost::json;

constexpr std::size_t kLongestText = 4096;

Failure invalid(std::string subject, std::string remedy) {
  return failure(std::errc::invalid_argument, "read the request's", std::move(subject), std::move(remedy));
}

// False: the value is not what the field wants.
using Reader = std::function<bool(const json::value&)>;
struct Field {
  Reader read;
  std::string expected;
};
using Fields = std::map<std::string, Field>;

Result<> read_object(const json::object& object, const Fields& fields, const std::string& prefix) {
  for (const auto& [key, value] : object) {
    const std::string name = prefix + std::string(key);
    const auto field = fields.find(std::string(key));
    if (field == fields.end()) {
      std::vector<std::string> known;
      for (const auto& each : fields) known.push_back(each.first);
      const std::optional<std::string> guess = nearest(std::string(key), known);
      return invalid("unknown field '" + name + "'", guess ? "did you mean '" + prefix + *guess + "'?" : "");
    }
    if (!field->second.read(value)) return invalid("field '" + name + "'", "expected " + field->second.expected);
  }
  return {};
}

Result<json::object> parse_object(std::string_view body) {
  boost::system::error_code error;
  json::parse_options options;
  options.max_depth = 8;
  json::value document = json::parse(body, error, {}, options);
  if (error) return invalid("body", "it is not JSON: " + error.message());
  if (!document.is_object()) return invalid("body", "expected a JSON object");
  return std::move(document.get_object());
}

Field text(std::string& into) {
  return {[&into](const json::value& value) {
            if (!value.is_string() || value.get_string().size() > kLongestText) return false;
            into = std::string(value.get_string());
            return true;
          },
          "text"};
}

Field flag(bool& into) {
  return {[&into](const json::value& value) {
            if (value.is_bool()) into = value.get_bool();
            return value.is_bool();
          },
          "true or false"};
}

std::optional<std::uint64_t> natural(const json::value& value) {
  if (value.is_uint64()) return value.get_uint64();
  if (value.is_int64() && value.get_int64() >= 0) return static_cast<std::uint64_t>(value.get_int64());
  return std::nullopt;
}

std::optional<Bytes> bytes_from(const json::value& value) {
  if (const auto number = natural(value)) return Bytes{*number};
  return value.is_string() ? parse_bytes(std::string_view(value.get_string())) : std::nullopt;
}

std::optional<Amount> amount_from(const json::value& value) {
  if (const auto number = natural(value)) return Amount::of(Bytes{*number});
  return value.is_string() ? parse_amount(std::string_view(value.get_string())) : std::nullopt;
}

Field amount(std::optional<Amount>& into) {
  return {[&into](const json::value& value) { return (into = amount_from(value)).has_value(); },
          "bytes, a size such as \"4GiB\" or a share such as \"25%\""};
}

// null takes the limit away.
Field limit(VmSettings& into) {
  return {[&into](const json::value& value) {
            into.no_limit = value.is_null();
            return into.no_limit || (into.limit = amount_from(value)).has_value();
          },
          "bytes, a size such as \"4GiB\", a share such as \"25%\", or null for none"};
}

Fields settings_fields(VmSettings& into) {
  return {
      {"mode",
       {[&into](const json::value& value) {
          into.mode = value.is_string() ? parse_mode(std::string_view(value.get_string())) : std::nullopt;
          return into.mode.has_value();
        },
        "\"observe\", \"dry-run\" or \"active\""}},
      {"class",
       {[&into](const json::value& value) {
          if (!value.is_string() || !is_word(std::string_view(value.get_string()))) return false;
          into.service_class = std::string(value.get_string());
          return true;
        },
        "a word of at most 64 letters, digits, '-' and '_'"}},
      {"guarantee", amount(into.guarantee)},
      {"limit", limit(into)},
      {"stall_budget",
       {[&into](const json::value& value) {
          if (value.is_string()) into.stall_budget = parse_share(std::string_view(value.get_string()));
          if (value.is_number()) into.stall_budget = value.to_number<double>();
          return into.stall_budget && *into.stall_budget >= 0 && *into.stall_budget <= 1;
        },
        "a share such as \"1%\" or 0.01"}},
      {"min_cold_age",
       {[&into](const json::value& value) {
          if (value.is_string()) into.min_cold_age = parse_duration(std::string_view(value.get_string()));
          return into.min_cold_age.has_value();
        },
        "a duration such as \"2m\""}},
  };
}

Fields mapping_fields(MappingSelector& into) {
  return {
      {"name", text(into.name)},
      {"at_least",
       {[&into](const json::value& value) { return (into.at_least = bytes_from(value)).has_value(); },
        "bytes or a size such as \"64MiB\""}},
      {"range",
       {[&into](const json::value& value) {
          if (!value.is_object() || value.get_object().size() != 2) return false;
          const json::value* start = value.get_object().if_contains("start");
          const json::value* end = value.get_object().if_contains("end");
          const auto first = start ? natural(*start) : std::nullopt;
          const auto last = end ? natural(*end) : std::nullopt;
          if (!first || !last || *first >= *last || (*first | *last) % kPageSize != 0) return false;
          into.range = AddressRange{*first, *last};
          return true;
        },
        "{\"start\", \"end\"}, page aligned, start below end"}},
  };
}

}  // namespace

Result<AdoptRequest> adopt_request_from(std::string_view body) {
  Result<json::object> document = parse_object(body);
  if (!document) return Failure(document.error());
  AdoptRequest request;
  Fields fields = settings_fields(request.settings);
  Result<> nested;
  fields["domain"] = text(request.domain);
  fields["cgroup"] = text(request.cgroup);
  fields["name"] = text(request.name);
  fields["mechanism"] = {[&](const json::value& value) {
                           if (value == "kernel") request.mechanism = Mechanism::kKernel;
                           return value == "kernel" || value == "pager";
                         },
                         "\"pager\" or \"kernel\""};
  fields["pid"] = {[&](const json::value& value) {
                     const auto pid = natural(value);
                     if (!pid || *pid == 0 || *pid > std::uint64_t{std::numeric_limits<std::int32_t>::max()})
                       return false;
                     request.pid = static_cast<std::int32_t>(*pid);
                     return true;
                   },
                   "a process id"};
  fields["force"] = {[&](const json::value& value) {
                       if (!value.is_array() || value.get_array().size() > 32) return false;
                       for (const json::value& code : value.get_array()) {
                         if (!code.is_string()) return false;
                         request.force.emplace_back(code.get_string());
                       }
                       return true;
                     },
                     "a list of findings' codes"};
  fields["mapping"] = {[&](const json::value& value) {
                         if (!value.is_object()) return false;
                         nested = read_object(value.get_object(), mapping_fields(request.mapping), "mapping.");
                         return true;
                       },
                       "an object"};
  if (Result<> read = read_object(*document, fields, ""); !read) return Failure(read.error());
  if (!nested) return Failure(nested.error());
  const int targets = (request.pid != 0) + !request.domain.empty() + !request.cgroup.empty();
  if (targets != 1) return invalid("target", "give exactly one of pid, domain and cgroup");
  if (request.mechanism == Mechanism::kKernel) {
    if (!request.domain.empty()) return invalid("field 'domain'", "the kernel's tier is for a pid or a cgroup");
    if (document->contains("mapping"))
      return invalid("field 'mapping'", "the kernel's tier is for all private memory of a process");
    if (!request.force.empty()) return invalid("field 'force'", "nothing that speaks against it can be forced");
  }
  if (request.name.find('/') != std::string::npos || request.name.size() > 128)
    return invalid("field 'name'", "at most 128 bytes and no '/'");
  return request;
}

Result<VmSettings> vm_settings_from(std::string_view body) {
  Result<json::object> document = parse_object(body);
  if (!document) return Failure(document.error());
  VmSettings settings;
  if (Result<> read = read_object(*document, settings_fields(settings), ""); !read) return Failure(read.error());
  if (settings.empty()) return invalid("body", "name at least one setting");
  return settings;
}

Result<HoldRequest> hold_request_from(std::string_view body) {
  Result<json::object> document = parse_object(body);
  if (!document) return Failure(document.error());
  HoldRequest request;
  if (Result<> read = read_object(*document, {{"held", flag(request.held)}, {"reason", text(request.reason)}}, "");
      !read)
    return Failure(read.error());
  if (!document->contains("held")) return invalid("field 'held'", "it is missing");
  return request;
}

Result<RecordRequest> record_request_from(std::string_view body) {
  Result<json::object> document = parse_object(body);
  if (!document) return Failure(document.error());
  RecordRequest request;
  const Fields fields{
      {"file",
       {[&](const json::value& value) {
          if (!value.is_string()) return false;
          request.file = std::string(value.get_string());
          return request.file.starts_with('/') && request.file.size() < kLongestText &&
                 request.file.find('\0') == std::string::npos;
        },
        "an absolute path"}},
      {"duration",
       {[&](const json::value& value) {
          const auto given = value.is_string() ? parse_duration(std::string_view(value.get_string())) : std::nullopt;
          request.duration = given.value_or(request.duration);
          return given && *given >= kShortestRecording && *given <= kLongestRecording;
        },
        "a duration from \"" + exact_text(kShortestRecording) + "\" to \"" + exact_text(kLongestRecording) + "\""}},
      {"max_size",
       {[&](const json::value& value) {
          const auto given = bytes_from(value);
          request.max_size = given.value_or(request.max_size);
          return given && *given >= kSmallestRecording && *given <= kLargestRecording;
        },
        "bytes or a size from \"" + exact_text(kSmallestRecording) + "\" to \"" + exact_text(kLargestRecording) +
            "\""}},
  };
  if (Result<> read = read_object(*document, fields, ""); !read) return Failure(read.error());
  if (request.file.empty()) return invalid("field 'file'", "it is missing");
  return request;
}

Result<bool> frozen_from(std::string_view body) {
  Result<json::object> document = parse_object(body);
  if (!document) return Failure(document.error());
  bool frozen = false;
  if (Result<> read = read_object(*document, {{"frozen", flag(frozen)}}, ""); !read) return Failure(read.error());
  if (document->empty()) return invalid("field 'frozen'", "it is missing");
  return frozen;
}

Result<Amount> capacity_from(std::string_view body) {
  Result<json::object> document = parse_object(body);
  if (!document) return Failure(document.error());
  std::optional<Amount> capacity;
  if (Result<> read = read_object(*document, {{"capacity", amount(capacity)}}, ""); !read) return Failure(read.error());
  if (!capacity) return invalid("field 'capacity'", "it is missing");
  return *capacity;
}

}  // namespace tidepool::daemon
