// A configuration as a list of its keys: what the reader of files, a program's own view of its configuration, and the
// tests of the documents all go by.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace tidepool::config {

// A value as TOML has it, without the TOML library.
using ConfigValue = std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>>;

// Absent: stored. Otherwise what was expected: "a size such as \"4GiB\"".
using SetResult = std::optional<std::string>;

template <class Target>
struct ConfigFieldOf {
  std::string key;   // "safety.host_reserve"; of a rule: "match.domain"
  std::string type;  // as documented: "size or share"
  bool restart;      // a changed value takes effect only after a restart
  std::function<SetResult(const ConfigValue&, Target&)> set;
  std::function<std::string(const Target&)> text;  // "5%"; "" for an optional value that is absent
  std::function<void(const Target& from, Target& to)> copy;
};

// A kind of value: its documented name, how it is read (absent: not of this kind) and written.
template <class T>
struct Kind {
  std::string type;
  std::string expected;
  std::function<std::optional<T>(const ConfigValue&)> read;
  std::function<std::string(const T&)> write;
};

// `get` returns a reference to the member, of a const and of a mutable target.
template <class Target, class T, class Get>
ConfigFieldOf<Target> field(std::string key, bool restart, Kind<T> kind, Get get) {
  return {std::move(key),
          kind.type,
          restart,
          [kind, get](const ConfigValue& value, Target& target) -> SetResult {
            std::optional<T> parsed = kind.read(value);
            if (!parsed) return kind.expected;
            get(target) = std::move(*parsed);
            return std::nullopt;
          },
          [kind, get](const Target& target) -> std::string {
            const auto& member = get(target);
            if constexpr (requires { member.has_value(); }) {
              return member ? kind.write(*member) : std::string{};
            } else {
              return kind.write(member);
            }
          },
          [get](const Target& from, Target& to) { get(to) = get(from); }};
}

}  // namespace tidepool::config
