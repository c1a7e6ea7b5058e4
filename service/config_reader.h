// Reads a configuration file by the list of its keys. Nothing is guessed: an unknown key or a wrong type is a problem,
// named with its place, and a file with a problem is not to be used at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "service/config_field.h"

namespace tidepool::config {

struct ConfigPlace {
  unsigned line = 0;  // from 1; 0: the file as a whole
  unsigned column = 0;
};

struct ConfigProblem {
  unsigned line = 0;  // from 1; 0: of the file as a whole
  unsigned column = 0;
  std::string message;

  // "tidepool.toml:3:5: unknown key 'api.sokcet'; did you mean 'api.socket'?"
  std::string text(std::string_view file) const;
};

// A key, and where its value goes.
struct BoundField {
  std::string key;
  std::string type;
  std::function<SetResult(const ConfigValue&)> set;
};

// `target` must stay where it is until the file is read.
template <class Target>
std::vector<BoundField> bind(const std::vector<ConfigFieldOf<Target>>& fields, Target& target) {
  std::vector<BoundField> bound;
  for (const ConfigFieldOf<Target>& each : fields)
    bound.push_back(
        {each.key, each.type, [&each, &target](const ConfigValue& value) { return each.set(value, target); }});
  return bound;
}

// Sections that may occur any number of times: [[rule]].
struct ConfigList {
  std::string name;
  std::size_t most = 0;
  std::function<std::vector<BoundField>()> add;  // one more
};

class ConfigReader {
 public:
  // Afterwards problems() tells what was wrong, in the order of lines. A schema key is wanted: schema = 1.
  void read(std::string_view toml, const std::vector<BoundField>& fields, std::span<const ConfigList> lists = {});
  // What the values together must not say; points at `key`, or at its section where the file does not have it.
  void contradiction(const std::string& key, std::string message);
  void problem(ConfigPlace at, std::string message);

  bool ok() const { return problems_.empty(); }
  std::vector<ConfigProblem> take_problems();

 private:
  class Walk;
  ConfigPlace place_of(std::string key) const;

  std::vector<ConfigProblem> problems_;
  std::map<std::string, ConfigPlace> places_;
};

// A regular file of at most 1 MiB.
Result<std::string> read_small_file(const std::filesystem::path& file);

}  // namespace tidepool::config
