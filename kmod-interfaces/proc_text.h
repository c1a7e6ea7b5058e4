// Reading (and setting) the kernel's text files: bounded in size, total over hostile text. A name that a process chose
// (comm, path, argument) may hold any byte that is not NUL, and a file that changes while it is read may end anywhere;
// nothing here fails on either.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace tidepool::kernel {

// Files of one value or one table: status, stat, meminfo, sysfs attributes.
inline constexpr std::size_t kMaxSmallFile = 256u << 10;
// A line that is longer is cut; the kernel's longest (a mapping with a path of 4 KiB, each byte escaped to four) fits.
inline constexpr std::size_t kMaxLine = 20u << 10;

// Relative to `dirfd` (AT_FDCWD: absolute or relative to the working directory). `subject` names the file in errors.
Result<UniqueFd> open_at(int dirfd, const std::string& name, int flags, const std::string& subject);
// The whole file; EFBIG when it is longer than `limit`.
Result<std::string> read_at(int dirfd, const std::string& name, const std::string& subject,
                            std::size_t limit = kMaxSmallFile);
Result<std::string> read_file(const std::string& path, std::size_t limit = kMaxSmallFile);
// The first line without surrounding blanks; nullopt when the file cannot be read: for attributes that may be absent.
std::optional<std::string> read_value(const std::string& path);
std::optional<std::uint64_t> read_number(const std::string& path);
// Target of a symbolic link of /proc, whole or an error.
Result<std::string> read_link_at(int dirfd, const std::string& name, const std::string& subject);
// Names in a directory without "." and "..", sorted; at most `limit` (EFBIG beyond).
Result<std::vector<std::string>> list_directory(const std::string& path, std::size_t limit);
// The numeric names in the directory `name` below `dirfd`, ascending; at most `limit` (EFBIG beyond).
Result<std::vector<std::uint64_t>> list_numbers_at(int dirfd, const std::string& name, const std::string& subject,
                                                   std::size_t limit);
bool exists(const std::string& path);
// Writes an attribute of sysfs: one write, which the kernel takes whole or refuses. The file must be there.
Result<> write_value(const std::string& path, std::string_view text);

// Calls `line` for every line (without its newline) of an open file until it returns false; at most `limit` lines
// (EFBIG beyond). Reads in pieces, so the memory needed does not grow with the file.
Result<> for_each_line(int fd, const std::string& subject, std::size_t limit,
                       const std::function<bool(std::string_view)>& line);

// All of these answer nullopt for anything but a number that fits, alone in its text.
std::optional<std::uint64_t> parse_decimal(std::string_view text);
std::optional<std::uint64_t> parse_hex(std::string_view text);
std::optional<std::uint64_t> parse_octal(std::string_view text);
// "  123 kB" or "123".
std::optional<Bytes> parse_kilobytes(std::string_view text);
// "0-3,8" of cpu and node lists; ranges that are reversed or beyond `limit` entries end the list.
std::vector<unsigned> parse_number_list(std::string_view text, std::size_t limit = 4096);
// "always [madvise] never" -> "madvise".
std::optional<std::string_view> parse_bracketed(std::string_view text);

std::string_view trim(std::string_view text);
// Cuts the first word off `rest`; words are separated by blanks and tabs.
std::string_view next_word(std::string_view& rest);
// Lines without their newlines; a last line without one counts.
std::vector<std::string_view> split_lines(std::string_view text);
// "Key:  value" -> value (trimmed), of the first line with that key.
std::optional<std::string_view> value_of(std::string_view text, std::string_view key);
// One printable line, at most `limit` bytes: what a log or a finding may show of a name that a process chose.
std::string printable(std::string_view text, std::size_t limit = 128);
// Shell pattern with * ? and [] over a whole path; '*' also matches '/'.
bool matches_glob(const std::string& pattern, const std::string& text);

}  // namespace tidepool::kernel
