#include "cli/completion.h"

namespace tidepool::cli {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

constexpr std::string_view kBashHead =
    R"sh(# tidectl completion for bash: source it, or put it into /etc/bash_completion.d/tidectl
_tidectl() {
  local cur=${COMP_WORDS[COMP_CWORD]} path="" word i
  local -A words vms files
)sh";

// The path is what was typed without options, as far as it names commands.
constexpr std::string_view kBashTail = R"sh(  for ((i = 1; i < COMP_CWORD; ++i)); do
    word=${COMP_WORDS[i]}
    case $word in -*) continue ;; esac
    if [[ -n ${words["/${path:+$path }$word"]+known} ]]; then path="${path:+$path }$word"; fi
  done
  COMPREPLY=($(compgen -W "${words["/$path"]}" -- "$cur"))
  if [[ $cur != -* && -n ${vms["/$path"]-} ]]; then
    COMPREPLY+=($(compgen -W "$(tidectl vm list -q --timeout 1s 2>/dev/null)" -- "$cur"))
  fi
  if [[ $cur != -* && -n ${files["/$path"]-} ]]; then COMPREPLY+=($(compgen -f -- "$cur")); fi
}
complete -F _tidectl tidectl
)sh";

constexpr std::string_view kFishHead =
    R"sh(# tidectl completion for fish: put it into ~/.config/fish/completions/tidectl.fish
function __tidectl_at
  set -l path
  for word in (commandline -opc)[2..-1]
    string match -q -- '-*' $word; or set -a path $word
  end
  test "$path" = "$argv"
end
complete -c tidectl -f
)sh";

std::string bash(const CompletionTree& tree) {
  std::string text(kBashHead);
  for (const auto& [path, node] : tree) {
    text += "  words[\"/" + path + "\"]=\"" + joined(node.words) + "\"\n";
    if (node.takes_vm) text += "  vms[\"/" + path + "\"]=1\n";
    if (node.takes_file) text += "  files[\"/" + path + "\"]=1\n";
  }
  return text + std::string(kBashTail);
}

std::string fish(const CompletionTree& tree) {
  std::string text(kFishHead);
  for (const auto& [path, node] : tree) {
    const std::string here = "complete -c tidectl -n \"__tidectl_at " + path + "\"";
    std::vector<std::string> commands;
    for (const std::string& word : node.words) {
      if (word.starts_with("--")) text += here + " -l " + word.substr(2) + "\n";
      if (!word.starts_with("-")) commands.push_back(word);
    }
    if (!commands.empty()) text += here + " -a \"" + joined(commands) + "\"\n";
    if (node.takes_vm) text += here + " -a \"(tidectl vm list -q --timeout 1s 2>/dev/null)\"\n";
    if (node.takes_file) text += here + " -F\n";
  }
  return text;
}

}  // namespace

std::optional<std::string> completion_script(std::string_view shell, const CompletionTree& tree) {
  if (shell == "bash") return bash(tree);
  // zsh understands bash's completion functions after this.
  if (shell == "zsh") return "#compdef tidectl\nautoload -U +X bashcompinit && bashcompinit\n" + bash(tree);
  if (shell == "fish") return fish(tree);
  return std::nullopt;
}

}  // namespace tidepool::cli
