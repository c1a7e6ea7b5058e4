// A VM's heat by address and time, as the agent tells it, for terminals and as a picture.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/drawing.h"

namespace boost::json {
class value;
}

namespace tidepool::cli {

// The agent's document, on an even grid. What makes no sense in it is left out.
struct HeatGrid {
  struct Cell {
    double uses = 0;  // of a page per second
    double far = 0;   // share
  };
  struct Row {
    std::string label;  // "12.0G", or "1: 12.0G" where there are several memory objects
    std::uint64_t size = 0;
    std::vector<std::optional<Cell>> cells;
  };
  std::string vm;
  double seconds = 0;  // from the first column to now
  double column_seconds = 0;
  std::vector<Row> rows;

  bool empty() const;
  // Neighbours of one memory object joined, or columns, until there are no more than so many.
  HeatGrid at_most(std::size_t rows, std::size_t columns) const;
};

HeatGrid heat_grid(const boost::json::value& document);

// 0..1 on a logarithmic scale: once an hour or less to ten times a second or more.
double heat_level(double uses);

// At most `width` characters wide where that leaves room for a column at all. Colours are of 256; without, the denser
// the character the hotter.
std::string heatmap_text(const HeatGrid& grid, std::size_t width, bool colour);
// Heat, below it what was far; axes and scales beside.
Drawing heatmap_drawing(const HeatGrid& grid);

}  // namespace tidepool::cli
