#include "cli/document.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cctype>
#include <charconv>
#include <cstdio>

#include "base/quantity_text.h"
#include "base/text.h"

namespace tidepool::cli {
namespace {

namespace json = boost::json;

// A number with a point stays one, in a form that YAML 1.1 and people read as well: 0.01, not 1E-2.
std::string number_text(double value) {
  std::array<char, 400> text{};  // the longest double in fixed notation has 309 digits before the point
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  std::string result = error == std::errc{} ? std::string(text.data(), end) : "0";
  if (result.find('.') == std::string::npos) result += ".0";
  return result;
}

// JSON whose characters only show: the document may be read on a terminal. What JSON itself does not escape – DEL, C1,
// bidirectional controls – can only stand inside strings.
std::string serialized(const json::value& value) {
  const std::string plain = json::serialize(value);
  std::string out;
  for (std::string_view rest = plain; !rest.empty();) {
    const Character next = first_character(rest);
    if (is_printable(next.point)) {
      out += rest.substr(0, next.bytes);
    } else {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\u%04x", static_cast<unsigned>(next.point));
      out += escape.data();
    }
    rest.remove_prefix(next.bytes);
  }
  return out;
}

std::string scalar_text(const json::value& value) {
  return value.is_double() ? number_text(value.get_double()) : serialized(value);
}

void pretty(std::string& out, const json::value& value, std::size_t depth) {
  const std::string inner((depth + 1) * 2, ' ');
  const std::string outer(depth * 2, ' ');
  if (value.is_object() && !value.get_object().empty()) {
    out += "{\n";
    bool first = true;
    for (const auto& [key, item] : value.get_object()) {
      if (!first) out += ",\n";
      first = false;
      out += inner + serialized(json::string(key)) + ": ";
      pretty(out, item, depth + 1);
    }
    out += "\n" + outer + "}";
  } else if (value.is_array() && !value.get_array().empty()) {
    out += "[\n";
    bool first = true;
    for (const json::value& item : value.get_array()) {
      if (!first) out += ",\n";
      first = false;
      out += inner;
      pretty(out, item, depth + 1);
    }
    out += "\n" + outer + "]";
  } else {
    out += scalar_text(value);
  }
}

// Text that YAML reads as text without quotes. Anything that could be a number, a boolean or null is quoted; a
// double-quoted YAML string is a JSON string.
bool plain_in_yaml(std::string_view text) {
  if (text.empty() || !std::isalpha(static_cast<unsigned char>(text.front()))) return false;
  for (const char c : text)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.' && c != '/') return false;
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const char* word : {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"})
    if (lower == word) return false;
  return true;
}

std::string yaml_scalar(const json::value& value) {
  if (value.is_string() && plain_in_yaml(value.get_string())) return std::string(value.get_string());
  return scalar_text(value);  // also {} and []
}

bool nested(const json::value& value) {
  return (value.is_object() && !value.get_object().empty()) || (value.is_array() && !value.get_array().empty());
}

void yaml(std::string& out, const json::value& value, std::size_t depth, bool in_list) {
  bool first = true;
  const auto indent = [&] {
    if (!(first && in_list)) out.append(depth * 2, ' ');
    first = false;
  };
  if (value.is_object()) {
    for (const auto& [key, item] : value.get_object()) {
      indent();
      out += yaml_scalar(json::value(key)) + ":";
      if (nested(item)) {
        out += "\n";
        yaml(out, item, depth + 1, false);
      } else {
        out += " " + yaml_scalar(item) + "\n";
      }
    }
  } else if (value.is_array()) {
    for (const json::value& item : value.get_array()) {
      indent();
      out += "- ";
      if (nested(item)) {
        yaml(out, item, depth + 1, true);
      } else {
        out += yaml_scalar(item) + "\n";
      }
    }
  }
}

}  // namespace

std::optional<json::value> parse_document(std::string_view text) {
  boost::system::error_code error;
  json::value value = json::parse(text, error);
  if (error) return std::nullopt;
  return value;
}

std::string to_pretty_json(const json::value& value) {
  std::string out;
  pretty(out, value, 0);
  return out + "\n";
}

std::string to_json_line(const json::value& value) {
  return serialized(value) + "\n";
}

std::string to_yaml(const json::value& value) {
  if (!nested(value)) return yaml_scalar(value) + "\n";
  std::string out;
  yaml(out, value, 0, false);
  return out;
}

const json::value* find(const json::value& document, std::string_view path) {
  const json::value* at = &document;
  while (at && !path.empty()) {
    const std::string_view step = path.substr(0, path.find('.'));
    path.remove_prefix(std::min(path.size(), step.size() + 1));
    at = at->is_object() ? at->get_object().if_contains(step) : nullptr;
  }
  return at;
}

std::string text_at(const json::value& document, std::string_view path) {
  const json::value* at = find(document, path);
  if (!at || at->is_null()) return "";
  return at->is_string() ? std::string(at->get_string()) : json::serialize(*at);
}

std::uint64_t number_at(const json::value& document, std::string_view path) {
  const json::value* at = find(document, path);
  if (!at) return 0;
  if (at->is_uint64()) return at->get_uint64();
  return at->is_int64() && at->get_int64() > 0 ? static_cast<std::uint64_t>(at->get_int64()) : 0;
}

double ratio_at(const json::value& document, std::string_view path) {
  const json::value* at = find(document, path);
  return at && at->is_number() ? at->to_number<double>() : 0;
}

bool flag_at(const json::value& document, std::string_view path) {
  const json::value* at = find(document, path);
  return at && at->is_bool() && at->get_bool();
}

std::string size_at(const json::value& document, std::string_view path) {
  const json::value* at = find(document, path);
  if (!at || at->is_null()) return "-";
  if (at->is_int64() && at->get_int64() < 0)
    return "-" + short_text(Bytes{std::uint64_t{0} - static_cast<std::uint64_t>(at->get_int64())});
  return short_text(Bytes{number_at(document, path)});
}

}  // namespace tidepool::cli
