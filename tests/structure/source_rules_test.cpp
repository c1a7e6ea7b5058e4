// House rules that a compiler does not check.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <iostream>
#include <map>
#include <string>
#include <string_view>

#include "tests/structure/source_tree.h"

namespace tidepool::structure {
namespace {

constexpr std::size_t kLinesWanted = 500;
constexpr std::size_t kLinesAtMost = 800;

TEST(SourceRules, HeadersAreIncludedOnce) {
  for (const SourceFile& file : source_tree()) {
    if (!file.is_header()) continue;
    EXPECT_NE(std::ranges::find(file.lines, "#pragma once"), file.lines.end()) << file.path << " lacks #pragma once";
  }
}

TEST(SourceRules, FileNamesAreSnakeCase) {
  for (const SourceFile& file : source_tree()) {
    if (!file.is_cpp()) continue;
    const std::string name = std::filesystem::path(file.path).stem().string();
    const bool fits = std::ranges::all_of(name, [](char c) {
      return c == '_' || std::islower(static_cast<unsigned char>(c)) || std::isdigit(static_cast<unsigned char>(c));
    });
    EXPECT_TRUE(fits) << file.path;
  }
}

TEST(SourceRules, FilesFitAHead) {
  for (const SourceFile& file : source_tree()) {
    if (!file.is_cpp()) continue;
    EXPECT_LE(file.lines.size(), kLinesAtMost) << file.path << ": two rooms with a door between them read better";
    if (file.lines.size() > kLinesWanted)
      std::cout << "note: " << file.path << " has " << file.lines.size() << " lines (wanted: " << kLinesWanted << ")\n";
  }
}

TEST(SourceRules, NothingIsLeftForLater) {
  // Written in halves, so that this file does not find itself.
  static const std::array<std::string, 4> kMarks{std::string("TO") + "DO", std::string("FIX") + "ME",
                                                 std::string("XX") + "X", std::string("HA") + "CK"};
  for (const SourceFile& file : source_tree()) {
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      for (const std::string& mark : kMarks) {
        const std::string& line = file.lines[i];
        const std::size_t at = line.find(mark);
        if (at == std::string::npos) continue;
        const auto is_word = [&](std::size_t p) {
          return p < line.size() && (std::isalnum(static_cast<unsigned char>(line[p])) || line[p] == '_');
        };
        const bool whole_word =
            !(at > 0 && is_word(at - 1)) && !is_word(at + mark.size()) && !(at > 0 && line[at - 1] == '.');
        EXPECT_FALSE(whole_word) << file.path << ":" << i + 1 << " " << mark;
      }
    }
  }
}

TEST(SourceRules, ArchitectureDecisionsAreNumberedOnce) {
  std::map<std::string, std::string> by_number;
  for (const SourceFile& file : source_tree()) {
    if (!file.path.starts_with("docs/adr/")) continue;
    const std::string name = std::filesystem::path(file.path).filename().string();
    ASSERT_GT(name.size(), 5u) << file.path;
    const std::string number = name.substr(0, 4);
    EXPECT_TRUE(std::ranges::all_of(number, [](char c) { return std::isdigit(static_cast<unsigned char>(c)); }) &&
                name[4] == '-')
        << file.path << ": expected NNNN-title.md";
    const auto [other, is_new] = by_number.emplace(number, file.path);
    EXPECT_TRUE(is_new) << file.path << " and " << other->second << " share a number";
    ASSERT_FALSE(file.lines.empty()) << file.path;
    EXPECT_TRUE(file.lines.front().starts_with("# ")) << file.path << " lacks a title";
  }
}

// A relative link that leads nowhere sends a reader away.
TEST(SourceRules, DocumentsLinkToFilesThatExist) {
  for (const SourceFile& file : source_tree()) {
    if (file.extension() != ".md") continue;
    const std::filesystem::path folder = (source_root() / file.path).parent_path();
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      const std::string& line = file.lines[i];
      for (std::size_t at = line.find("]("); at != std::string::npos; at = line.find("](", at + 2)) {
        std::string target = line.substr(at + 2, line.find(')', at) - at - 2);
        target = target.substr(0, target.find('#'));
        if (target.empty() || target.find("://") != std::string::npos) continue;
        EXPECT_TRUE(std::filesystem::exists(folder / target)) << file.path << ":" << i + 1 << " links to " << target;
      }
    }
  }
}

}  // namespace
}  // namespace tidepool::structure
