#include "service/config_kinds.h"

#include <algorithm>
#include <cctype>

#include "base/quantity_text.h"

namespace tidepool::config {

std::string toml_string(std::string_view text) {
  return "\"" + std::string(text) + "\"";
}

Kind<bool> boolean() {
  return {"boolean", "true or false",
          [](const ConfigValue& value) -> std::optional<bool> {
            const auto* flag = std::get_if<bool>(&value);
            return flag ? std::optional(*flag) : std::nullopt;
          },
          [](const bool& value) { return value ? "true" : "false"; }};
}

Kind<std::string> word() {
  return from_text<std::string>(
      "text", "a word of letters, digits, '-' and '_'",
      [](const std::string& text) { return is_word(text) ? std::optional(text) : std::nullopt; },
      [](const std::string& text) { return text; });
}

bool is_absolute(const std::string& path) {
  return path.starts_with('/') && path.find('\0') == std::string::npos;
}

Kind<std::string> path(bool may_be_empty) {
  return from_text<std::string>(
      may_be_empty ? "path or \"\"" : "path", may_be_empty ? "an absolute path, or \"\"" : "an absolute path",
      [may_be_empty](const std::string& text) -> std::optional<std::string> {
        if (text.empty() ? may_be_empty : is_absolute(text)) return text;
        return std::nullopt;
      },
      [](const std::string& text) { return text; });
}

Kind<std::string> socket_path(bool may_be_empty) {
  Kind<std::string> kind = path(may_be_empty);
  kind.expected += " of at most 107 bytes";
  kind.read = [inner = kind.read](const ConfigValue& value) {
    std::optional<std::string> text = inner(value);
    if (text && text->size() > 107) text.reset();
    return text;
  };
  return kind;
}

Kind<std::string> endpoint() {
  return from_text<std::string>(
      "host:port or \"\"", "\"host:port\" with a port from 1 to 65535, or \"\"",
      [](const std::string& text) -> std::optional<std::string> {
        if (text.empty()) return text;
        const std::size_t colon = text.rfind(':');
        if (colon == std::string::npos || colon == 0 || colon + 1 == text.size() || text.size() - colon > 6)
          return std::nullopt;
        unsigned port = 0;
        for (const char c : text.substr(colon + 1)) {
          if (c < '0' || c > '9') return std::nullopt;
          port = port * 10 + static_cast<unsigned>(c - '0');
        }
        if (port == 0 || port > 65535) return std::nullopt;
        return text;
      },
      [](const std::string& text) { return text; });
}

Kind<std::string> glob() {
  return from_text<std::string>(
      "pattern", "a pattern that is not empty",
      [](const std::string& text) { return text.empty() ? std::nullopt : std::optional(text); },
      [](const std::string& text) { return text; });
}

Kind<std::vector<std::string>> path_globs() {
  return {"list of path patterns", "a list of absolute path patterns",
          [](const ConfigValue& value) -> std::optional<std::vector<std::string>> {
            const auto* list = std::get_if<std::vector<std::string>>(&value);
            if (!list) return std::nullopt;
            for (const std::string& pattern : *list)
              if (!is_absolute(pattern)) return std::nullopt;
            return *list;
          },
          [](const std::vector<std::string>& list) {
            std::string text = "[";
            for (const std::string& item : list) text += (text.size() > 1 ? ", " : "") + toml_string(item);
            return text + "]";
          }};
}

Kind<double> share() {
  return from_text<double>("share", "a share such as \"25%\", at most \"100%\"", parse_share, share_text);
}

Kind<Bytes> rate() {
  return from_text<Bytes>(
      "rate", "a rate such as \"256MiB/s\", more than 0",
      [](const std::string& text) -> std::optional<Bytes> {
        if (!text.ends_with("/s")) return std::nullopt;
        const std::optional<Bytes> bytes = parse_bytes(std::string_view(text).substr(0, text.size() - 2));
        return bytes && bytes->value > 0 ? bytes : std::nullopt;
      },
      [](Bytes bytes) { return exact_text(bytes) + "/s"; });
}

Kind<Bytes> size() {
  return from_text<Bytes>(
      "size", "a size such as \"4GiB\", more than 0",
      [](const std::string& text) -> std::optional<Bytes> {
        const std::optional<Bytes> bytes = parse_bytes(text);
        return bytes && bytes->value > 0 ? bytes : std::nullopt;
      },
      [](Bytes bytes) { return exact_text(bytes); });
}

Kind<std::chrono::milliseconds> duration() {
  return from_text<std::chrono::milliseconds>("duration", "a duration such as \"500ms\", \"2s\" or \"2m\"",
                                              parse_duration,
                                              [](std::chrono::milliseconds value) { return exact_text(value); });
}

bool is_word(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::ranges::all_of(text, [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
  });
}

}  // namespace tidepool::config
