// The part of YAML that docs/openapi.yaml is written in: block mappings, block lists whose items stand on one line,
// flow mappings and lists, single-quoted and plain scalars. Whatever else there is throws, with its line.
#pragma once

#include <string_view>

namespace boost::json {
class value;
}

namespace tidepool::pool::controller::testing {

boost::json::value read_yaml(std::string_view text);

}  // namespace tidepool::pool::controller::testing
