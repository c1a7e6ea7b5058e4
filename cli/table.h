// Columns that line up.
#pragma once

#include <string>
#include <vector>

namespace tidepool::cli {

enum class Paint { kNone, kGood, kWarn, kBad, kFaint };

struct Cell {
  std::string text;
  Paint paint = Paint::kNone;

  Cell(std::string value, Paint colour = Paint::kNone)
      : text(std::move(value)), paint(colour) {}  // NOLINT: rows are lists of text
  Cell(const char* value) : text(value) {}        // NOLINT
};

class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  void add(std::vector<Cell> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.empty(); }
  // With an empty header: rows only. Columns of figures keep their left edge, as in virsh and ceph.
  std::string text(bool colour) const;

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<Cell>> rows_;
};

// Columns that `text` takes on a terminal: UTF-8 continuation bytes take none.
std::size_t columns_of(const std::string& text);

}  // namespace tidepool::cli
