#include "cli/command_tree.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "base/nearest.h"

namespace tidepool::cli {
namespace {

// Words that complete each path of commands.
void describe(const CLI::App& app, const std::string& path, const std::vector<std::string>& globals,
              CompletionTree& tree) {
  CompletionNode node;
  node.words = globals;
  const auto add_options = [&](const CLI::App& of) {
    for (const CLI::Option* option : of.get_options()) {
      for (const std::string& name : option->get_lnames()) node.words.push_back("--" + name);
      for (const std::string& name : option->get_snames()) node.words.push_back("-" + name);
      if (option->get_name() == "VM") node.takes_vm = true;
      if (option->get_name() == "FILE") node.takes_file = true;
      if (option->get_name() == "SHELL")
        for (const char* shell : {"bash", "zsh", "fish"}) node.words.emplace_back(shell);
    }
  };
  if (app.get_parent()) add_options(app);
  for (const CLI::App* child : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (child->get_name().empty()) {  // a group of options, not a command
      add_options(*child);
      continue;
    }
    node.words.push_back(child->get_name());
    describe(*child, path.empty() ? child->get_name() : path + " " + child->get_name(), globals, tree);
  }
  tree[path] = std::move(node);
}

// Whether the word is an option whose value is the next word.
bool takes_next_word(const CLI::App* at, const std::string& word) {
  for (; at; at = at->get_parent()) {
    std::vector<const CLI::Option*> options = at->get_options();
    for (const CLI::App* group : at->get_subcommands([](const CLI::App* each) { return each->get_name().empty(); }))
      for (const CLI::Option* option : group->get_options()) options.push_back(option);
    for (const CLI::Option* option : options)
      if (option->check_name(word)) return option->get_type_size() > 0 && option->get_items_expected_max() > 0;
  }
  return false;
}

}  // namespace

CompletionTree completion_tree(const CLI::App& app) {
  std::vector<std::string> globals;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) globals.push_back("--" + name);
    for (const std::string& name : option->get_snames()) globals.push_back("-" + name);
  }
  CompletionTree tree;
  describe(app, "", globals, tree);
  return tree;
}

std::string suggestion(const CLI::App& root, int argc, char** argv) {
  const CLI::App* at = &root;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    std::vector<std::string> known;
    if (word.starts_with("-")) {
      if (takes_next_word(at, word)) {
        ++i;
        continue;
      }
      for (const CLI::App* level = at; level; level = level->get_parent())
        for (const CLI::Option* option : level->get_options())
          for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
      for (const CLI::App* child : at->get_subcommands([](const CLI::App* each) { return each->get_name().empty(); }))
        for (const CLI::Option* option : child->get_options())
          for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
      const std::string name = word.substr(0, word.find('='));
      if (!name.starts_with("--") || std::ranges::find(known, name) != known.end()) continue;
      const auto guess = nearest(name, known);
      return guess ? "did you mean '" + *guess + "'?" : "";
    }
    const CLI::App* next = nullptr;
    for (const CLI::App* child : at->get_subcommands([](const CLI::App* each) { return !each->get_name().empty(); })) {
      known.push_back(child->get_name());
      if (child->get_name() == word) next = child;
    }
    if (next) {
      at = next;
      continue;
    }
    if (known.empty()) return "";  // an argument of a command
    const auto guess = nearest(word, known);
    return "'" + word + "' is not a command" + (guess ? "; did you mean '" + *guess + "'?" : "");
  }
  return "";
}

}  // namespace tidepool::cli
