// What the command line's own description says of itself.
#pragma once

#include <string>

#include "cli/completion.h"

namespace CLI {
class App;
}

namespace tidepool::cli {

CompletionTree completion_tree(const CLI::App& app);

// Of arguments that were refused: the deepest command that they name, and the first word after it that is none of its
// own. Empty: nothing to suggest.
std::string suggestion(const CLI::App& root, int argc, char** argv);

}  // namespace tidepool::cli
