// The repository as the structure tests see it: files that belong to it, read once, with their lines and includes.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace tidepool::structure {

struct Include {
  std::size_t line = 0;
  bool quoted = false;  // "..." rather than <...>
  std::string path;
};

struct SourceFile {
  std::string path;  // from the repository root, '/'-separated
  std::vector<std::string> lines;

  std::vector<Include> includes() const;
  // The first component of the path, "" for a file in the root.
  std::string_view folder() const;
  std::string_view extension() const;
  bool is_header() const { return extension() == ".h"; }
  bool is_cpp() const { return extension() == ".h" || extension() == ".cpp"; }
};

// Every text file of the tree, sorted by path; build output and hidden folders other than .ci are left out.
const std::vector<SourceFile>& source_tree();
std::filesystem::path source_root();

}  // namespace tidepool::structure
