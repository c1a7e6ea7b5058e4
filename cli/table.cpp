#include "cli/table.h"

#include <algorithm>

#include "base/text.h"

namespace tidepool::cli {
namespace {

const char* code_of(Paint paint) {
  switch (paint) {
    case Paint::kGood:
      return "\x1b[32m";
    case Paint::kWarn:
      return "\x1b[33m";
    case Paint::kBad:
      return "\x1b[31m";
    case Paint::kFaint:
      return "\x1b[2m";
    case Paint::kNone:
      break;
  }
  return "";
}

void put(std::string& line, const Cell& cell, std::size_t width, bool colour) {
  const std::string shown = printable(cell.text);
  const bool painted = colour && cell.paint != Paint::kNone && !shown.empty();
  if (painted) line += code_of(cell.paint);
  line += shown;
  if (painted) line += "\x1b[0m";
  line.append(width - std::min(width, columns_of(shown)) + 2, ' ');
}

}  // namespace

std::size_t columns_of(const std::string& text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string Table::text(bool colour) const {
  std::vector<std::size_t> widths;
  const auto widen = [&](std::size_t column, const std::string& cell) {
    if (column >= widths.size()) widths.resize(column + 1);
    widths[column] = std::max(widths[column], columns_of(cell));
  };
  for (std::size_t i = 0; i < header_.size(); ++i) widen(i, header_[i]);
  for (const auto& row : rows_)
    for (std::size_t i = 0; i < row.size(); ++i) widen(i, printable(row[i].text));

  std::string text;
  const auto finish = [&](std::string& line) {
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  if (!header_.empty()) {
    std::string line;
    for (std::size_t i = 0; i < header_.size(); ++i) put(line, Cell(header_[i]), widths[i], false);
    finish(line);
  }
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) put(line, row[i], widths[i], colour);
    finish(line);
  }
  return text;
}

}  // namespace tidepool::cli
