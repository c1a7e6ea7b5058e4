// The agent's JSON documents: reading fields without fuss, and writing documents as JSON and YAML.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace boost::json {
class value;
}

namespace tidepool::cli {

std::optional<boost::json::value> parse_document(std::string_view text);

// Indented, with a line feed at the end.
std::string to_pretty_json(const boost::json::value& value);
// One line, with a line feed.
std::string to_json_line(const boost::json::value& value);
std::string to_yaml(const boost::json::value& value);

// By path: "memory.far_bytes". What is absent or of another type reads as nothing, so that an agent of a neighbouring
// version can be shown.
const boost::json::value* find(const boost::json::value& document, std::string_view path);
std::string text_at(const boost::json::value& document, std::string_view path);
std::uint64_t number_at(const boost::json::value& document, std::string_view path);
double ratio_at(const boost::json::value& document, std::string_view path);
bool flag_at(const boost::json::value& document, std::string_view path);
// "8.0G"
std::string size_at(const boost::json::value& document, std::string_view path);

}  // namespace tidepool::cli
