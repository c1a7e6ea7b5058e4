#include "tests/structure/source_tree.h"

#include <algorithm>
#include <array>
#include <fstream>

namespace tidepool::structure {
namespace {

namespace fs = std::filesystem;

bool is_text(const fs::path& path) {
  static constexpr std::array kExtensions{".h",     ".cpp",  ".c",    ".md",      ".txt",
                                          ".cmake", ".json", ".toml", ".service", ".yml"};
  const std::string extension = path.extension().string();
  const std::string parent = path.parent_path().filename().string();
  return std::ranges::find(kExtensions, extension) != kExtensions.end() ||
         (extension.empty() && (parent == "scripts" || parent == ".ci")) || extension == ".sh";
}

bool is_foreign_folder(const fs::path& path) {
  const std::string name = path.filename().string();
  return name == "build" || (name.starts_with('.') && name != ".ci");
}

SourceFile read(const fs::path& path, const fs::path& root) {
  SourceFile file{.path = fs::relative(path, root).generic_string(), .lines = {}};
  std::ifstream stream(path);
  for (std::string line; std::getline(stream, line);) file.lines.push_back(line);
  return file;
}

std::vector<SourceFile> read_tree(const fs::path& root) {
  std::vector<SourceFile> files;
  for (auto entry = fs::recursive_directory_iterator(root); entry != fs::recursive_directory_iterator(); ++entry) {
    if (entry->is_directory() && is_foreign_folder(entry->path())) {
      entry.disable_recursion_pending();
    } else if (entry->is_regular_file() && is_text(entry->path())) {
      files.push_back(read(entry->path(), root));
    }
  }
  std::ranges::sort(files, {}, &SourceFile::path);
  return files;
}

}  // namespace

std::vector<Include> SourceFile::includes() const {
  std::vector<Include> found;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    std::string_view line = lines[i];
    const auto skip = [&line](std::string_view expected) {
      line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
      if (!line.starts_with(expected)) return false;
      line.remove_prefix(expected.size());
      return true;
    };
    if (!skip("#") || !skip("include") || !(skip("\"") || skip("<"))) continue;
    const std::size_t end = line.find_first_of("\">");
    if (end == std::string_view::npos) continue;
    found.push_back({.line = i + 1, .quoted = line[end] == '"', .path = std::string(line.substr(0, end))});
  }
  return found;
}

std::string_view SourceFile::folder() const {
  const std::size_t slash = path.find('/');
  return slash == std::string::npos ? std::string_view{} : std::string_view(path).substr(0, slash);
}

std::string_view SourceFile::extension() const {
  const std::size_t dot = path.rfind('.');
  return dot == std::string::npos ? std::string_view{} : std::string_view(path).substr(dot);
}

fs::path source_root() {
  return TIDEPOOL_SOURCE_DIR;
}

const std::vector<SourceFile>& source_tree() {
  static const std::vector<SourceFile> tree = read_tree(source_root());
  return tree;
}

}  // namespace tidepool::structure
