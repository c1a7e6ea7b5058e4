// Who may include whom: docs/adr/0002-folders-and-include-rules.md, here as data.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "tests/structure/source_tree.h"

namespace tidepool::structure {
namespace {

struct FolderRule {
  std::string_view folder;
  std::vector<std::string_view> may_include;  // path prefixes, besides its own folder
};

// The most specific folder wins: a rule for "daemon/pager/" would replace that of "daemon/".
const std::vector<FolderRule>& folder_rules() {
  static const std::vector<FolderRule> rules{
      {"base/", {}},
      {"policy/", {"base/"}},
      {"kmod-interfaces/", {"base/"}},
      {"service/", {"base/", "kmod-interfaces/"}},
      {"pool/", {"base/", "kmod-interfaces/", "service/"}},
      {"telemetry/", {"base/", "policy/", "kmod-interfaces/", "service/"}},
      {"daemon/", {"base/", "policy/", "kmod-interfaces/", "service/", "pool/", "telemetry/"}},
      // The program that people hold must not pull the agent in: it knows the APIs as documented, and nothing behind
      // them.
      {"cli/", {"base/", "service/http/"}},
      {"tests/", {""}},
      {"bench/", {""}},
  };
  return rules;
}

const FolderRule* rule_of(std::string_view path) {
  const FolderRule* best = nullptr;
  for (const FolderRule& rule : folder_rules()) {
    if (path.starts_with(rule.folder) && (!best || rule.folder.size() > best->folder.size())) best = &rule;
  }
  return best;
}

std::string at(const SourceFile& file, const Include& include) {
  return file.path + ":" + std::to_string(include.line) + " includes " + include.path;
}

TEST(IncludeRules, FoldersIncludeOnlyWhatStandsBelowThem) {
  std::size_t seen = 0;
  for (const SourceFile& file : source_tree()) {
    if (!file.is_cpp()) continue;
    const FolderRule* rule = rule_of(file.path);
    ASSERT_NE(rule, nullptr) << file.path << " lies in a folder that has no rule";
    for (const Include& include : file.includes()) {
      if (!include.quoted) continue;
      ++seen;
      const bool allowed = include.path.starts_with(rule->folder) ||
                           std::ranges::any_of(rule->may_include, [&](std::string_view prefix) {
                             return include.path.starts_with(prefix);
                           });
      EXPECT_TRUE(allowed) << at(file, include) << ", which " << rule->folder << " must not";
    }
  }
  EXPECT_GT(seen, 10u) << "no includes were found: the reader of this test is broken";
}

TEST(IncludeRules, ProjectHeadersAreNamedFromTheRepositoryRoot) {
  for (const SourceFile& file : source_tree()) {
    if (!file.is_cpp()) continue;
    for (const Include& include : file.includes()) {
      if (include.quoted) {
        EXPECT_TRUE(std::filesystem::exists(source_root() / include.path)) << at(file, include);
      } else {
        const std::string_view path = include.path;
        const std::string top{path.substr(0, path.find('/') + 1)};
        EXPECT_TRUE(top.empty() ||
                    !std::ranges::any_of(folder_rules(), [&](const FolderRule& rule) { return rule.folder == top; }))
            << at(file, include) << " with angle brackets";
      }
    }
  }
}

// Seconds of compile time per including file, each; a header would hand them to all of its users.
TEST(IncludeRules, HeadersStayFreeOfHeavyLibraries) {
  static constexpr std::array<std::string_view, 8> kHeavy{"boost/asio",  "boost/beast", "boost/json", "spdlog/",
                                                          "prometheus/", "toml++/",     "CLI/",       "iostream"};
  for (const SourceFile& file : source_tree()) {
    if (!file.is_header() || file.path.ends_with("pch.h")) continue;
    for (const Include& include : file.includes()) {
      EXPECT_FALSE(std::ranges::any_of(kHeavy, [&](std::string_view heavy) { return include.path.starts_with(heavy); }))
          << at(file, include);
    }
  }
}

// A decision that reads a clock or a file cannot be replayed from a trace.
TEST(IncludeRules, PolicyIncludesNothingThatReadsTheWorld) {
  // base/clock.h is welcome for its vocabulary (MonoTime) and cstdio for snprintf; that nobody reads a clock or writes
  // a file with them is what the next test checks.
  static const std::set<std::string> kWorld{"fstream",  "iostream", "filesystem", "thread", "mutex",     "future",
                                            "unistd.h", "fcntl.h",  "time.h",     "ctime",  "sys/mman.h"};
  for (const SourceFile& file : source_tree()) {
    if (file.folder() != "policy" || !file.is_cpp()) continue;
    for (const Include& include : file.includes()) {
      EXPECT_FALSE(kWorld.contains(include.path)) << at(file, include);
      EXPECT_FALSE(include.path.starts_with("spdlog/")) << at(file, include);
    }
  }
}

std::string undefined_symbols_of(const std::string& library) {
  const std::string command = std::string(TIDEPOOL_NM) + " -uC '" + library + "' 2>/dev/null";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe{::popen(command.c_str(), "r"), ::pclose};
  std::string symbols;
  std::array<char, 4096> chunk{};
  while (pipe && std::fgets(chunk.data(), chunk.size(), pipe.get())) symbols += chunk.data();
  return symbols;
}

TEST(IncludeRules, PolicyLinksAgainstNoClockNoFileAndNoLog) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers add symbols of their own; the release build checks this";
#endif
  static constexpr std::array<std::string_view, 20> kForbidden{" clock_gettime",
                                                               " gettimeofday",
                                                               " time\n",
                                                               "_V2::steady_clock::now",
                                                               "_V2::system_clock::now",
                                                               "SystemClock",
                                                               " open\n",
                                                               " fopen",
                                                               " read\n",
                                                               " write\n",
                                                               " printf",
                                                               " puts\n",
                                                               " fputs",
                                                               " fwrite",
                                                               "__printf_chk",
                                                               "__fprintf_chk",
                                                               "basic_ofstream",
                                                               "basic_ifstream",
                                                               "spdlog::",
                                                               " syscall\n"};
  const std::string symbols = undefined_symbols_of(TIDEPOOL_POLICY_LIBRARY);
  ASSERT_FALSE(symbols.empty()) << TIDEPOOL_NM << " said nothing about " << TIDEPOOL_POLICY_LIBRARY;
  for (const std::string_view symbol : kForbidden) {
    EXPECT_EQ(symbols.find(symbol), std::string::npos) << "policy/ reaches for" << symbol;
  }
}

}  // namespace
}  // namespace tidepool::structure
