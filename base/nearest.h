// "Did you mean": the known word nearest to one that is not known.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tidepool {

// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
std::size_t edit_distance(std::string_view a, std::string_view b);
// Absent when nothing is near enough to be worth saying (more than a third of the word differs, two edits at least
// allowed).
std::optional<std::string> nearest(std::string_view word, std::span<const std::string> known);

}  // namespace tidepool
