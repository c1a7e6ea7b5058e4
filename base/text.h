// Text that others chose – names of processes, paths, arguments – made fit for terminals, logs and JSON.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tidepool {

struct Character {
  std::size_t bytes = 1;
  char32_t point = 0;
  bool valid = false;  // false: a byte that is not UTF-8 here; overlong forms, surrogates and beyond U+10FFFF are not
};

// The first of `text`, which is not empty.
Character first_character(std::string_view text);

// Whether a character only shows: not one that a terminal obeys (C0, DEL, C1), that begins a line, or that turns the
// order of what follows (bidirectional controls, by which text can look like other text).
bool is_printable(char32_t point);

// Of ASCII letters.
std::string lower_case(std::string_view text);

// Every byte that is not UTF-8 becomes U+FFFD.
std::string to_valid_utf8(std::string_view text);

// One line that only shows: what is not printable, or not UTF-8, becomes '?'.
std::string printable(std::string_view text);

}  // namespace tidepool
