// The kinds of values that configurations are made of.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/units.h"
#include "service/config_field.h"

namespace tidepool::config {

std::string toml_string(std::string_view text);
// A name that becomes a metric's label. At most 64 letters, digits, '-' and '_'.
bool is_word(std::string_view text);
// Starts with '/' and holds no zero byte.
bool is_absolute(const std::string& path);

template <class E>
using Names = std::span<const std::pair<E, std::string_view>>;

template <class E>
std::string_view name_of(Names<E> names, E value) {
  for (const auto& [candidate, name] : names)
    if (candidate == value) return name;
  return "?";
}

template <class E>
std::optional<E> value_of(Names<E> names, std::string_view text) {
  for (const auto& [value, name] : names)
    if (name == text) return value;
  return std::nullopt;
}

template <class E>
Kind<E> choice(Names<E> names) {
  std::string all;
  for (const auto& [value, name] : names) all += (all.empty() ? "" : " or ") + toml_string(name);
  return {all, all,
          [names](const ConfigValue& value) -> std::optional<E> {
            const auto* text = std::get_if<std::string>(&value);
            return text ? value_of(names, *text) : std::nullopt;
          },
          [names](const E& value) { return toml_string(name_of(names, value)); }};
}

template <class T, class Parse, class Write>
Kind<T> from_text(std::string type, std::string expected, Parse parse, Write write) {
  return {std::move(type), std::move(expected),
          [parse](const ConfigValue& value) -> std::optional<T> {
            const auto* text = std::get_if<std::string>(&value);
            if (!text) return std::nullopt;
            return parse(*text);
          },
          [write](const T& value) { return toml_string(write(value)); }};
}

template <class T>
Kind<T> count(std::int64_t least, std::int64_t most) {
  const std::string range = std::to_string(least) + " to " + std::to_string(most);
  return {"integer, " + range, "an integer from " + range,
          [=](const ConfigValue& value) -> std::optional<T> {
            const auto* number = std::get_if<std::int64_t>(&value);
            if (!number || *number < least || *number > most) return std::nullopt;
            return static_cast<T>(*number);
          },
          [](const T& value) { return std::to_string(value); }};
}

Kind<bool> boolean();
Kind<std::string> word();
Kind<std::string> path(bool may_be_empty);
// sun_path holds 108 bytes with the terminating zero.
Kind<std::string> socket_path(bool may_be_empty);
Kind<std::string> endpoint();
Kind<std::string> glob();
Kind<std::vector<std::string>> path_globs();
Kind<double> share();
Kind<Bytes> size();
// A rate per second: "256MiB/s". The "/s" is wanted, so that nobody reads it as an amount.
Kind<Bytes> rate();
Kind<std::chrono::milliseconds> duration();

}  // namespace tidepool::config
