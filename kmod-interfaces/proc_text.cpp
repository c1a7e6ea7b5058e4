#include "kmod-interfaces/proc_text.h"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <memory>

namespace tidepool::kernel {
namespace {

constexpr std::size_t kPiece = 64u << 10;

struct DirCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, DirCloser>;

ssize_t read_some(int fd, char* buffer, std::size_t length) {
  ssize_t got = 0;
  do got = ::read(fd, buffer, length);
  while (got < 0 && errno == EINTR);
  return got;
}

Result<Directory> open_directory(int dirfd, const std::string& name, const std::string& subject) {
  auto fd = open_at(dirfd, name, O_RDONLY | O_DIRECTORY, subject);
  if (!fd) return tl::unexpected(fd.error());
  Directory directory(::fdopendir(fd->get()));
  if (!directory) return errno_failure("list", subject);
  // The stream owns the descriptor from here on.
  static_cast<void>(fd->release());
  return directory;
}

std::optional<std::uint64_t> parse_base(std::string_view text, int base) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

}  // namespace

Result<UniqueFd> open_at(int dirfd, const std::string& name, int flags, const std::string& subject) {
  UniqueFd fd{::openat(dirfd, name.c_str(), flags | O_CLOEXEC | O_NOCTTY)};
  if (!fd.valid()) return errno_failure("open", subject);
  return fd;
}

Result<std::string> read_at(int dirfd, const std::string& name, const std::string& subject, std::size_t limit) {
  auto fd = open_at(dirfd, name, O_RDONLY, subject);
  if (!fd) return tl::unexpected(fd.error());
  std::string text;
  std::array<char, 8192> piece;
  for (;;) {
    const ssize_t got = read_some(fd->get(), piece.data(), piece.size());
    if (got < 0) return errno_failure("read", subject);
    if (got == 0) return text;
    if (text.size() + static_cast<std::size_t>(got) > limit) return failure(std::errc::file_too_large, "read", subject);
    text.append(piece.data(), static_cast<std::size_t>(got));
  }
}

Result<std::string> read_file(const std::string& path, std::size_t limit) {
  return read_at(AT_FDCWD, path, path, limit);
}

std::optional<std::string> read_value(const std::string& path) {
  const auto text = read_file(path);
  if (!text) return std::nullopt;
  const std::string_view whole = *text;
  return std::string(trim(whole.substr(0, whole.find('\n'))));
}

std::optional<std::uint64_t> read_number(const std::string& path) {
  const auto text = read_value(path);
  return text ? parse_decimal(*text) : std::nullopt;
}

Result<std::string> read_link_at(int dirfd, const std::string& name, const std::string& subject) {
  std::string target(PATH_MAX, '\0');
  const ssize_t length = ::readlinkat(dirfd, name.c_str(), target.data(), target.size());
  if (length < 0) return errno_failure("read link", subject);
  target.resize(static_cast<std::size_t>(length));
  return target;
}

Result<std::vector<std::string>> list_directory(const std::string& path, std::size_t limit) {
  auto directory = open_directory(AT_FDCWD, path, path);
  if (!directory) return tl::unexpected(directory.error());
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(directory->get())) {
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (names.size() == limit) return failure(std::errc::file_too_large, "list", path);
    names.emplace_back(name);
    errno = 0;
  }
  if (errno != 0) return errno_failure("list", path);
  std::ranges::sort(names);
  return names;
}

Result<std::vector<std::uint64_t>> list_numbers_at(int dirfd, const std::string& name, const std::string& subject,
                                                   std::size_t limit) {
  auto directory = open_directory(dirfd, name, subject);
  if (!directory) return tl::unexpected(directory.error());
  std::vector<std::uint64_t> numbers;
  errno = 0;
  while (const dirent* entry = ::readdir(directory->get())) {
    if (const auto number = parse_decimal(entry->d_name)) {
      if (numbers.size() == limit) return failure(std::errc::file_too_large, "list", subject);
      numbers.push_back(*number);
    }
    errno = 0;
  }
  if (errno != 0) return errno_failure("list", subject);
  std::ranges::sort(numbers);
  return numbers;
}

Result<> write_value(const std::string& path, std::string_view text) {
  const auto file = open_at(AT_FDCWD, path, O_WRONLY | O_TRUNC, path);
  if (!file) return Failure{file.error()};
  ssize_t written = 0;
  do written = ::write(file->get(), text.data(), text.size());
  while (written < 0 && errno == EINTR);
  if (written < 0) return errno_failure("write '" + std::string(text) + "' to", path);
  if (static_cast<std::size_t>(written) != text.size()) return failure_from(EIO, "write", path);
  return {};
}

bool exists(const std::string& path) {
  return ::faccessat(AT_FDCWD, path.c_str(), F_OK, AT_EACCESS) == 0;
}

Result<> for_each_line(int fd, const std::string& subject, std::size_t limit,
                       const std::function<bool(std::string_view)>& line) {
  std::string pending;  // an unfinished line, cut at kMaxLine
  std::string buffer(kPiece, '\0');
  std::size_t lines = 0;
  for (;;) {
    const ssize_t got = read_some(fd, buffer.data(), buffer.size());
    if (got < 0) return errno_failure("read", subject);
    std::string_view piece(buffer.data(), static_cast<std::size_t>(got));
    while (!piece.empty()) {
      const std::size_t end = piece.find('\n');
      pending.append(piece.substr(0, std::min(end, kMaxLine - std::min(kMaxLine, pending.size()))));
      if (end == std::string_view::npos) break;
      piece.remove_prefix(end + 1);
      if (lines++ == limit) return failure(std::errc::file_too_large, "read", subject);
      if (!line(pending)) return {};
      pending.clear();
    }
    if (got == 0) break;
  }
  if (!pending.empty()) line(pending);
  return {};
}

std::optional<std::uint64_t> parse_decimal(std::string_view text) {
  return parse_base(text, 10);
}
std::optional<std::uint64_t> parse_hex(std::string_view text) {
  return parse_base(text, 16);
}
std::optional<std::uint64_t> parse_octal(std::string_view text) {
  return parse_base(text, 8);
}

std::optional<Bytes> parse_kilobytes(std::string_view text) {
  const auto number = parse_decimal(next_word(text));
  if (!number || *number > (UINT64_MAX >> 10)) return std::nullopt;
  return Bytes{*number << 10};
}

std::vector<unsigned> parse_number_list(std::string_view text, std::size_t limit) {
  std::vector<unsigned> numbers;
  text = trim(text);
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    const std::size_t dash = item.find('-');
    const auto first = parse_decimal(item.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : parse_decimal(item.substr(dash + 1));
    if (!first || !last || *last < *first || *last > UINT_MAX) return numbers;
    for (std::uint64_t n = *first; n <= *last; ++n) {
      if (numbers.size() == limit) return numbers;
      numbers.push_back(static_cast<unsigned>(n));
    }
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
  }
  return numbers;
}

std::optional<std::string_view> parse_bracketed(std::string_view text) {
  const std::size_t open = text.find('[');
  if (open == std::string_view::npos) return std::nullopt;
  const std::size_t close = text.find(']', open);
  if (close == std::string_view::npos) return std::nullopt;
  return text.substr(open + 1, close - open - 1);
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

std::string_view next_word(std::string_view& rest) {
  while (!rest.empty() && is_blank(rest.front())) rest.remove_prefix(1);
  std::size_t length = 0;
  while (length < rest.size() && !is_blank(rest[length])) ++length;
  const std::string_view word = rest.substr(0, length);
  rest.remove_prefix(length);
  return word;
}

std::vector<std::string_view> split_lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return lines;
}

std::optional<std::string_view> value_of(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    if (line.size() > key.size() && line.starts_with(key) && line[key.size()] == ':')
      return trim(line.substr(key.size() + 1));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return std::nullopt;
}

std::string printable(std::string_view text, std::size_t limit) {
  std::string out;
  for (const char c : text) {
    if (out.size() == limit) break;
    out.push_back(c >= 0x20 && c < 0x7f ? c : '?');
  }
  return out;
}

bool matches_glob(const std::string& pattern, const std::string& text) {
  return ::fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

}  // namespace tidepool::kernel
