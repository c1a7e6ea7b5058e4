#include "service/http/target.h"

#include <algorithm>
#include <cctype>
#include <vector>

namespace tidepool::http {
namespace {

constexpr std::size_t kLongestExcerpt = 200;

std::optional<int> hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

std::vector<std::string_view> segments(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    if (path.front() == '/') path.remove_prefix(1);
    const std::size_t slash = std::min(path.find('/'), path.size());
    parts.push_back(path.substr(0, slash));
    path.remove_prefix(slash);
  }
  return parts;
}

}  // namespace

std::string percent_encoded(std::string_view text) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || c == '-' || c == '_' || c == '.' || c == '~') {
      result += c;
    } else {
      result += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return result;
}

std::optional<std::string> percent_decoded(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      if (i + 2 >= text.size()) return std::nullopt;
      const auto high = hex_digit(text[i + 1]);
      const auto low = hex_digit(text[i + 2]);
      if (!high || !low) return std::nullopt;
      c = static_cast<char>(*high * 16 + *low);
      i += 2;
    }
    if (c == '\0') return std::nullopt;
    result += c;
  }
  return result;
}

std::string_view path_of(std::string_view target) {
  return target.substr(0, target.find('?'));
}

bool matches(std::string_view pattern, std::string_view path) {
  return std::ranges::equal(segments(pattern), segments(path), [](std::string_view want, std::string_view have) {
    return want.starts_with('{') ? !have.empty() : want == have;
  });
}

Result<std::map<std::string, std::string>> path_values(std::string_view pattern, std::string_view path) {
  std::map<std::string, std::string> values;
  const auto wanted = segments(pattern);
  const auto given = segments(path);
  for (std::size_t i = 0; i < wanted.size() && i < given.size(); ++i) {
    if (!wanted[i].starts_with('{')) continue;
    const std::optional<std::string> value = percent_decoded(given[i]);
    if (!value)
      return failure(std::errc::invalid_argument, "decode path segment",
                     std::string(given[i].substr(0, kLongestExcerpt)));
    values[std::string(wanted[i].substr(1, wanted[i].size() - 2))] = *value;
  }
  return values;
}

Result<std::map<std::string, std::string>> query_values(std::string_view target,
                                                        std::span<const std::string_view> known,
                                                        std::string_view remedy) {
  std::map<std::string, std::string> values;
  const std::size_t mark = target.find('?');
  std::string_view rest = mark == std::string_view::npos ? "" : target.substr(mark + 1);
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(pair.size() + 1, rest.size()));
    const std::string_view name = pair.substr(0, pair.find('='));
    const std::string_view raw = name.size() < pair.size() ? pair.substr(name.size() + 1) : std::string_view{};
    const std::optional<std::string> value = percent_decoded(raw);
    if (!value || std::ranges::find(known, name) == known.end() || !values.emplace(std::string(name), *value).second)
      return failure(std::errc::invalid_argument, "read query parameter",
                     "'" + std::string(name.substr(0, kLongestExcerpt)) + "'", std::string(remedy));
  }
  return values;
}

}  // namespace tidepool::http
