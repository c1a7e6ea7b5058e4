#include "service/config_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <set>

#include "base/nearest.h"
#include "base/unique_fd.h"

namespace tidepool::config {
namespace {

constexpr std::size_t kLargestFile = 1 << 20;
constexpr std::size_t kMostProblems = 100;

std::string type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return "text";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a number";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date or time";
  }
}

std::optional<ConfigValue> to_value(const toml::node& node) {
  if (const auto* flag = node.as_boolean()) return ConfigValue{flag->get()};
  if (const auto* number = node.as_integer()) return ConfigValue{number->get()};
  if (const auto* number = node.as_floating_point()) return ConfigValue{number->get()};
  if (const auto* text = node.as_string()) return ConfigValue{text->get()};
  if (const auto* list = node.as_array()) {
    std::vector<std::string> items;
    for (const toml::node& item : *list) {
      const auto* text = item.as_string();
      if (!text) return std::nullopt;
      items.push_back(text->get());
    }
    return ConfigValue{std::move(items)};
  }
  return std::nullopt;
}

std::string shown(const toml::node& node) {
  if (const auto* text = node.as_string()) return "\"" + text->get() + "\"";
  if (const auto* number = node.as_integer()) return std::to_string(number->get());
  return type_name(node);
}

ConfigPlace place(toml::source_position at) {
  return {static_cast<unsigned>(at.line), static_cast<unsigned>(at.column)};
}

}  // namespace

class ConfigReader::Walk {
 public:
  Walk(ConfigReader& reader, std::span<const ConfigList> lists) : reader_(reader), lists_(lists) {}

  void root(const toml::table& root, const std::vector<BoundField>& fields) {
    table(root, "", "", fields, lists_);
    if (!root.contains("schema")) reader_.problem({}, "schema is missing: the file must begin with schema = 1");
    for (const ConfigList& list : lists_) {
      if (const toml::node* sections = root.get(list.name)) read_list(list, *sections);
    }
  }

 private:
  void read_list(const ConfigList& list, const toml::node& node) {
    const toml::array* sections = node.as_array();
    if (!sections || (!sections->empty() && !sections->is_homogeneous<toml::table>()))
      return problem(node.source().begin, list.name + " must be written as [[" + list.name + "]] sections");
    if (sections->size() > list.most)
      return problem(node.source().begin, "more than " + std::to_string(list.most) + " " + list.name + "s");
    for (std::size_t i = 0; i < sections->size(); ++i) {
      const toml::table& section = *sections->get(i)->as_table();
      const std::string name = list.name + "[" + std::to_string(i) + "]";
      reader_.places_.emplace(name, place(section.source().begin));
      table(section, "", name + ".", list.add(), {});
    }
  }

  void problem(toml::source_position at, std::string message) { reader_.problem(place(at), std::move(message)); }

  void table(const toml::table& table_node, const std::string& path, const std::string& shown_prefix,
             const std::vector<BoundField>& fields, std::span<const ConfigList> lists) {
    for (const auto& [name, node] : table_node) {
      const std::string key = path.empty() ? std::string(name.str()) : path + "." + std::string(name.str());
      const std::string full = shown_prefix + key;
      const toml::source_position at = name.source().begin;
      if (std::ranges::find(lists, key, &ConfigList::name) != lists.end()) continue;
      reader_.places_.emplace(full, place(at));
      const auto field = std::ranges::find_if(fields, [&](const auto& each) { return each.key == key; });
      if (field != fields.end()) {
        const std::optional<ConfigValue> value = to_value(node);
        const SetResult wrong = value ? field->set(*value) : SetResult{field->type};
        if (wrong) problem(node.source().begin, full + " must be " + *wrong + ", not " + shown(node));
        continue;
      }
      const bool is_section =
          std::ranges::any_of(fields, [&](const auto& each) { return each.key.starts_with(key + "."); });
      if (!is_section) {
        unknown(at, full, key, fields, lists);
      } else if (const toml::table* section = node.as_table()) {
        table(*section, key, shown_prefix, fields, lists);
      } else {
        problem(node.source().begin, full + " must be a table, not " + type_name(node));
      }
    }
  }

  void unknown(toml::source_position at, const std::string& full, const std::string& key,
               const std::vector<BoundField>& fields, std::span<const ConfigList> lists) {
    std::set<std::string> names;
    for (const auto& each : fields) {
      names.insert(each.key);
      for (std::size_t dot = each.key.find('.'); dot != std::string::npos; dot = each.key.find('.', dot + 1))
        names.insert(each.key.substr(0, dot));
    }
    for (const ConfigList& list : lists) names.insert(list.name);
    const std::vector<std::string> known(names.begin(), names.end());
    std::optional<std::string> guess = nearest(key, known);
    // The right name in the wrong section is a common mistake.
    const std::string last = key.substr(key.rfind('.') + 1);
    for (const std::string& each : known)
      if (!guess && each.substr(each.rfind('.') + 1) == last) guess = each;
    problem(at, "unknown key '" + full + "'" + (guess ? "; did you mean '" + *guess + "'?" : ""));
  }

  ConfigReader& reader_;
  std::span<const ConfigList> lists_;
};

void ConfigReader::read(std::string_view toml, const std::vector<BoundField>& fields,
                        std::span<const ConfigList> lists) {
  try {
    Walk(*this, lists).root(toml::parse(toml), fields);
  } catch (const toml::parse_error& error) {
    problem(place(error.source().begin), std::string(error.description()));
  }
}

void ConfigReader::problem(ConfigPlace at, std::string message) {
  if (problems_.size() < kMostProblems) problems_.push_back({at.line, at.column, std::move(message)});
}

void ConfigReader::contradiction(const std::string& key, std::string message) {
  problem(place_of(key), std::move(message));
}

// A key that the file leaves at its default is shown at the section, or at the file as a whole.
ConfigPlace ConfigReader::place_of(std::string key) const {
  while (true) {
    if (const auto at = places_.find(key); at != places_.end()) return at->second;
    const std::size_t dot = key.rfind('.');
    if (dot == std::string::npos) return {};
    key.resize(dot);
  }
}

std::vector<ConfigProblem> ConfigReader::take_problems() {
  std::stable_sort(problems_.begin(), problems_.end(),
                   [](const ConfigProblem& a, const ConfigProblem& b) { return a.line < b.line; });
  return std::move(problems_);
}

std::string ConfigProblem::text(std::string_view file) const {
  std::string result(file);
  if (line != 0) result += ":" + std::to_string(line) + ":" + std::to_string(column);
  return result + ": " + message;
}

Result<std::string> read_small_file(const std::filesystem::path& file) {
  // O_NONBLOCK: a FIFO given by mistake must not hang the start.
  const UniqueFd fd{::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (!fd.valid()) return errno_failure("open", file.string());
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return errno_failure("stat", file.string());
  if (!S_ISREG(info.st_mode))
    return failure(std::errc::invalid_argument, "read", file.string(), "a regular file is wanted");
  std::string text;
  std::array<char, 16384> chunk{};
  while (true) {
    const ssize_t got = ::read(fd.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_failure("read", file.string());
    if (got == 0) return text;
    text.append(chunk.data(), static_cast<std::size_t>(got));
    if (text.size() > kLargestFile) return failure(std::errc::file_too_large, "read", file.string(), "at most 1 MiB");
  }
}

}  // namespace tidepool::config
