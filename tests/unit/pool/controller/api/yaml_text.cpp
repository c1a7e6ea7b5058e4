#include "tests/unit/pool/controller/api/yaml_text.h"

#include <boost/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace tidepool::pool::controller::testing {
namespace {

namespace json = boost::json;

struct Line {
  std::size_t number;
  std::size_t indent;
  std::string_view text;
};

[[noreturn]] void fail(const Line& line, const std::string& why) {
  throw std::runtime_error("line " + std::to_string(line.number) + ": " + why + ": " + std::string(line.text));
}

json::value plain(std::string_view text) {
  if (text == "true") return true;
  if (text == "false") return false;
  if (!text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos)
    return static_cast<std::int64_t>(std::stoll(std::string(text)));
  return json::value(text);
}

// Values that stand on one line.
class Flow {
 public:
  Flow(const Line& line, std::string_view text) : line_(line), rest_(text) {}

  json::value whole() {
    json::value value = next("");
    if (!rest_.empty()) fail(line_, "more than one value");
    return value;
  }

 private:
  void blanks() {
    while (rest_.starts_with(' ')) rest_.remove_prefix(1);
  }
  bool take(char c) {
    blanks();
    if (!rest_.starts_with(c)) return false;
    rest_.remove_prefix(1);
    return true;
  }
  std::string quoted() {
    std::string text;
    while (true) {
      const std::size_t end = rest_.find('\'');
      if (end == std::string_view::npos) fail(line_, "no closing quote");
      text += rest_.substr(0, end);
      rest_.remove_prefix(end + 1);
      if (!rest_.starts_with('\'')) return text;
      text += '\'';
      rest_.remove_prefix(1);
    }
  }
  // `ends`: what ends a plain scalar here.
  json::value next(std::string_view ends) {
    if (take('{')) return mapping();
    if (take('[')) return list();
    if (take('\'')) return json::value(quoted());
    const std::size_t end = ends.empty() ? rest_.size() : std::min(rest_.find_first_of(ends), rest_.size());
    const std::string_view text = rest_.substr(0, end);
    rest_.remove_prefix(end);
    return plain(text);
  }
  json::value mapping() {
    json::object object;
    while (!take('}')) {
      const json::value key = next(":");
      if (!take(':')) fail(line_, "a key without a value");
      blanks();
      object[key.as_string()] = next(",}");
      if (!take(',') && !rest_.starts_with('}')) fail(line_, "a mapping that does not end");
    }
    return object;
  }
  json::value list() {
    json::array items;
    while (!take(']')) {
      items.push_back(next(",]"));
      if (!take(',') && !rest_.starts_with(']')) fail(line_, "a list that does not end");
    }
    return items;
  }

  const Line& line_;
  std::string_view rest_;
};

class Block {
 public:
  explicit Block(std::vector<Line> lines) : lines_(std::move(lines)) {}

  json::value whole() {
    json::value value = at(0);
    if (next_ != lines_.size()) fail(lines_[next_], "an indent that nothing has");
    return value;
  }

 private:
  json::value at(std::size_t indent) {
    if (lines_[next_].text.starts_with("- ")) return list(indent);
    json::object object;
    while (next_ < lines_.size() && lines_[next_].indent == indent) {
      const Line& line = lines_[next_++];
      const std::size_t colon = line.text.find(line.text.ends_with(':') ? std::string_view(":") : ": ");
      if (colon == std::string_view::npos) fail(line, "neither a key nor an item");
      const std::size_t end = line.text.ends_with(':') ? line.text.size() - 1 : colon;
      std::string_view key = line.text.substr(0, end);
      if (key.starts_with('\'')) key = key.substr(1, key.size() - 2);
      if (object.contains(key)) fail(line, "a key that comes twice");
      object[key] = end + 1 == line.text.size() ? inner(line) : Flow(line, line.text.substr(colon + 2)).whole();
    }
    return object;
  }
  json::value inner(const Line& above) {
    if (next_ >= lines_.size() || lines_[next_].indent <= above.indent) fail(above, "nothing below it");
    return at(lines_[next_].indent);
  }
  json::value list(std::size_t indent) {
    json::array items;
    while (next_ < lines_.size() && lines_[next_].indent == indent && lines_[next_].text.starts_with("- ")) {
      const Line& line = lines_[next_++];
      items.push_back(Flow(line, line.text.substr(2)).whole());
    }
    return items;
  }

  std::vector<Line> lines_;
  std::size_t next_ = 0;
};

}  // namespace

json::value read_yaml(std::string_view text) {
  std::vector<Line> lines;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const std::size_t indent = std::min(line.find_first_not_of(' '), line.size());
    const std::string_view content = line.substr(indent);
    if (!content.empty() && !content.starts_with('#')) lines.push_back({number, indent, content});
  }
  return Block(std::move(lines)).whole();
}

}  // namespace tidepool::pool::controller::testing
