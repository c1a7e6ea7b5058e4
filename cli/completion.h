// Shell completion scripts, made from the command line's own description.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tidepool::cli {

struct CompletionNode {
  std::vector<std::string> words;  // commands and options that may come next
  bool takes_vm = false;           // names of VMs, asked of the agent when it answers quickly
  bool takes_file = false;
};

// By path of commands: "" for the program itself, "vm set".
using CompletionTree = std::map<std::string, CompletionNode>;

// shell: bash, zsh or fish.
std::optional<std::string> completion_script(std::string_view shell, const CompletionTree& tree);

}  // namespace tidepool::cli
