#include "cli/heatmap.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <ctime>

#include "base/quantity_text.h"
#include "base/text.h"
#include "cli/document.h"

namespace tidepool::cli {
namespace {

namespace json = boost::json;

constexpr double kCold = 1.0 / 3600;
constexpr double kHot = 10;
constexpr std::size_t kMostRows = 256;
constexpr std::size_t kMostColumns = 1024;
constexpr std::string_view kRamp = ".:-=+*#%@";  // no memory there: a space

// Of "2026-01-31T12:00:05.250Z", in seconds.
std::optional<double> seconds_of(const std::string& text) {
  std::tm parts{};
  const char* end = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &parts);
  if (end == nullptr) return std::nullopt;
  return static_cast<double>(::timegm(&parts));
}

std::optional<double> number_of(const json::value& value) {
  if (value.is_double()) return value.get_double();
  if (value.is_int64()) return static_cast<double>(value.get_int64());
  if (value.is_uint64()) return static_cast<double>(value.get_uint64());
  return std::nullopt;
}

const json::array* array_at(const json::value& document, std::string_view path) {
  const json::value* at = find(document, path);
  return at && at->is_array() ? &at->get_array() : nullptr;
}

// "90s", "12m", "3h", "2d": how long ago.
std::string ago(double seconds) {
  std::array<char, 32> text{};
  const double s = std::clamp(seconds, 0.0, 1e9);
  if (s < 120) {
    std::snprintf(text.data(), text.size(), "%.0fs", s);
  } else if (s < 7200) {
    std::snprintf(text.data(), text.size(), "%.0fm", s / 60);
  } else if (s < 48 * 3600) {
    std::snprintf(text.data(), text.size(), "%.0fh", s / 3600);
  } else {
    std::snprintf(text.data(), text.size(), "%.0fd", s / 86400);
  }
  return text.data();
}

using Cells = std::vector<std::optional<HeatGrid::Cell>>;

// The mean of those that are there.
std::optional<HeatGrid::Cell> mean_of(const std::vector<const std::optional<HeatGrid::Cell>*>& cells) {
  HeatGrid::Cell sum;
  double count = 0;
  for (const auto* cell : cells) {
    if (!*cell) continue;
    sum.uses += (*cell)->uses;
    sum.far += (*cell)->far;
    ++count;
  }
  if (count == 0) return std::nullopt;
  return HeatGrid::Cell{sum.uses / count, sum.far / count};
}

std::string object_of(const HeatGrid::Row& row) {
  const std::size_t colon = row.label.find(':');
  return colon == std::string::npos ? "" : row.label.substr(0, colon);
}

// The 6 x 6 x 6 cube of 256-colour terminals is too coarse at the dark end: the nearest of cube and greys.
int terminal_colour(Colour c) {
  constexpr std::array<int, 6> kLevels{0, 95, 135, 175, 215, 255};
  const auto nearest = [&](int value) {
    int best = 0;
    for (int i = 1; i < 6; ++i) {
      if (std::abs(kLevels[static_cast<std::size_t>(i)] - value) <
          std::abs(kLevels[static_cast<std::size_t>(best)] - value))
        best = i;
    }
    return best;
  };
  return 16 + 36 * nearest(c.red) + 6 * nearest(c.green) + nearest(c.blue);
}

std::string painted(double level, bool far) {
  const Colour colour = heat_colour(level);
  const char* ink = level > 0.6 ? "\x1b[30;48;5;" : "\x1b[97;48;5;";
  return ink + std::to_string(terminal_colour(colour)) + "m" + (far ? "~" : " ");
}

char shade(double level) {
  return kRamp[std::min(static_cast<std::size_t>(level * static_cast<double>(kRamp.size())), kRamp.size() - 1)];
}

std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.insert(0, width - text.size(), ' ');
  return text;
}

}  // namespace

bool HeatGrid::empty() const {
  for (const Row& row : rows) {
    for (const auto& cell : row.cells) {
      if (cell) return false;
    }
  }
  return true;
}

double heat_level(double uses) {
  if (!(uses > kCold)) return 0;
  return std::clamp(std::log(uses / kCold) / std::log(kHot / kCold), 0.0, 1.0);
}

HeatGrid heat_grid(const json::value& document) {
  HeatGrid grid;
  grid.vm = text_at(document, "vm");
  const auto from = seconds_of(text_at(document, "from"));
  const auto until = seconds_of(text_at(document, "until"));
  grid.column_seconds = static_cast<double>(number_at(document, "period_ms")) / 1000;
  const json::array* stretches = array_at(document, "stretches");
  const json::array* columns = array_at(document, "columns");
  if (!from || !until || *until <= *from || grid.column_seconds <= 0 || stretches == nullptr || columns == nullptr)
    return grid;
  grid.seconds = *until - *from;
  if (grid.seconds / grid.column_seconds > kMostColumns) return grid;
  const auto slots = static_cast<std::size_t>(std::ceil(grid.seconds / grid.column_seconds));
  bool several = false;
  for (const json::value& each : *stretches) several = several || number_at(each, "object") != 0;
  for (const json::value& each : *stretches) {
    if (grid.rows.size() == kMostRows) break;
    HeatGrid::Row row;
    row.label = short_text(Bytes{number_at(each, "offset_bytes")});
    const std::uint64_t object = number_at(each, "object");
    const std::uint64_t together = number_at(each, "objects");
    if (several) row.label = std::to_string(object) + ": " + row.label;
    if (together > 1) row.label = std::to_string(object) + "-" + std::to_string(object + together - 1);
    row.size = number_at(each, "size_bytes");
    row.cells.resize(slots);
    grid.rows.push_back(std::move(row));
  }
  for (const json::value& column : *columns) {
    const auto at = seconds_of(text_at(column, "at"));
    const json::array* uses = array_at(column, "uses");
    const json::array* far = array_at(column, "far");
    if (!at || uses == nullptr || far == nullptr) continue;
    const double slot = std::floor((*at - *from) / grid.column_seconds);
    // A column that began before the first is the first one's.
    if (slot < -1 || slot >= static_cast<double>(slots)) continue;
    const auto index = static_cast<std::size_t>(std::max(slot, 0.0));
    for (std::size_t r = 0; r < grid.rows.size() && r < uses->size() && r < far->size(); ++r) {
      const auto rate = number_of((*uses)[r]);
      const auto share = number_of((*far)[r]);
      if (rate && share) grid.rows[r].cells[index] = HeatGrid::Cell{std::max(0.0, *rate), std::clamp(*share, 0.0, 1.0)};
    }
  }
  return grid;
}

HeatGrid HeatGrid::at_most(std::size_t most_rows, std::size_t most_columns) const {
  HeatGrid small = *this;
  const std::size_t columns = rows.empty() ? 0 : rows[0].cells.size();
  const std::size_t wide =
      (columns + std::max<std::size_t>(most_columns, 1) - 1) / std::max<std::size_t>(most_columns, 1);
  if (wide > 1) {
    small.column_seconds = column_seconds * static_cast<double>(wide);
    for (Row& row : small.rows) {
      Cells joined;
      // From the end: now is where it was.
      for (std::size_t end = row.cells.size(); end > 0; end -= std::min(end, wide)) {
        std::vector<const std::optional<Cell>*> part;
        for (std::size_t i = end - std::min(end, wide); i < end; ++i) part.push_back(&row.cells[i]);
        joined.insert(joined.begin(), mean_of(part));
      }
      row.cells = std::move(joined);
    }
  }
  const std::size_t high =
      (rows.size() + std::max<std::size_t>(most_rows, 1) - 1) / std::max<std::size_t>(most_rows, 1);
  if (high <= 1) return small;
  std::vector<Row> joined;
  for (std::size_t first = 0; first < small.rows.size();) {
    std::size_t end = first + 1;
    while (end < small.rows.size() && end - first < high && object_of(small.rows[end]) == object_of(small.rows[first]))
      ++end;
    Row row = small.rows[first];
    for (std::size_t c = 0; c < row.cells.size(); ++c) {
      std::vector<const std::optional<Cell>*> part;
      for (std::size_t r = first; r < end; ++r) part.push_back(&small.rows[r].cells[c]);
      row.cells[c] = mean_of(part);
    }
    for (std::size_t r = first + 1; r < end; ++r) row.size += small.rows[r].size;
    joined.push_back(std::move(row));
    first = end;
  }
  small.rows = std::move(joined);
  return small;
}

std::string heatmap_text(const HeatGrid& whole, std::size_t width, bool colour) {
  constexpr std::size_t kRows = 32;
  constexpr std::size_t kShareWidth = 6;  // " 100%"
  if (whole.empty()) return "nothing is known of its memory yet: ask again in half a minute\n";
  std::size_t label = 6;
  for (const HeatGrid::Row& row : whole.rows) label = std::max(label, row.label.size());
  const std::size_t beside = label + 2 + kShareWidth;
  const HeatGrid grid = whole.at_most(kRows, width > beside + 8 ? width - beside : 8);
  const std::size_t columns = grid.rows[0].cells.size();
  std::string out = padded("offset", label) + "  " + "uses of a page per second" + "\n";
  for (const HeatGrid::Row& row : grid.rows) {
    std::string line = padded(printable(row.label), label) + " |";
    for (const auto& cell : row.cells) {
      if (!cell) {
        line += colour ? "\x1b[0m " : " ";
      } else if (colour) {
        line += painted(heat_level(cell->uses), cell->far > 0.5);
      } else {
        line += shade(heat_level(cell->uses));
      }
    }
    if (colour) line += "\x1b[0m";
    // What is far now.
    const auto last =
        std::find_if(row.cells.rbegin(), row.cells.rend(), [](const auto& cell) { return cell.has_value(); });
    std::array<char, 16> share{};
    if (last != row.cells.rend()) std::snprintf(share.data(), share.size(), "%4.0f%%", (*last)->far * 100);
    out += line + "|" + share.data() + "\n";
  }
  const std::string start = "-" + ago(grid.column_seconds * static_cast<double>(columns));
  std::string axis(label + 2, ' ');
  axis += start;
  const std::size_t now_at = label + 2 + columns;
  if (axis.size() + 4 < now_at) axis.append(now_at - 3 - axis.size(), ' ');
  axis += (axis.size() + 3 <= now_at ? "now" : "");
  if (axis.size() <= now_at) axis.append(now_at + 1 - axis.size(), ' ');
  out += axis + "  far\n";
  std::string legend = "1/h ";
  for (int step = 0; step < 9; ++step) {
    const double level = (step + 0.5) / 9;
    legend += colour ? painted(level, false) : std::string(1, shade(level));
  }
  legend += std::string(colour ? "\x1b[0m" : "") + " 10/s";
  if (colour) legend += "   ~ more than half is far";
  return out + legend + "; a column is " + ago(grid.column_seconds) + "\n";
}

Drawing heatmap_drawing(const HeatGrid& whole) {
  constexpr int kLeft = 110;
  constexpr int kTop = 40;
  constexpr int kPlotWidth = 720;
  constexpr int kPlotHeight = 384;
  constexpr int kGap = 50;
  constexpr int kBelow = 90;
  constexpr Colour kNothing{0xdd, 0xe4, 0xee};
  const HeatGrid grid = whole.at_most(128, kPlotWidth);
  Drawing drawing(kLeft + kPlotWidth + 30, kTop + 2 * kPlotHeight + kGap + kBelow);
  const std::size_t columns = grid.rows.empty() ? 0 : grid.rows[0].cells.size();
  drawing.text(kLeft, 16, "tidepool: memory of " + printable(grid.vm) + " by address and time");
  std::uint64_t size = 0;
  for (const HeatGrid::Row& row : grid.rows) size += row.size;
  const auto panel = [&](int top, const std::string& title, const auto& colour_of) {
    drawing.text(kLeft, top - 10, title);
    drawing.text(kLeft - 8, top - 10, "offset (bytes)", Anchor::kEnd);
    drawing.rectangle(kLeft, top, kPlotWidth, kPlotHeight, kNothing);
    std::uint64_t below = 0;
    int labelled = top - 100;
    for (const HeatGrid::Row& row : grid.rows) {
      const auto y_of = [&](std::uint64_t bytes) {
        return top + static_cast<int>(static_cast<double>(bytes) /
                                      static_cast<double>(std::max<std::uint64_t>(size, 1)) * kPlotHeight);
      };
      const int y = y_of(below);
      const int height = y_of(below + row.size) - y;
      below += row.size;
      for (std::size_t c = 0; c < columns; ++c) {
        if (!row.cells[c]) continue;
        const auto x_of = [&](std::size_t column) {
          return kLeft + static_cast<int>(column * static_cast<std::size_t>(kPlotWidth) / columns);
        };
        drawing.rectangle(x_of(c), y, x_of(c + 1) - x_of(c), height, colour_of(*row.cells[c]));
      }
      if (y - labelled >= 24) {
        labelled = y;
        drawing.text(kLeft - 8, y + 4, printable(row.label), Anchor::kEnd);
        drawing.rectangle(kLeft - 5, y, 5, 1, {});
      }
    }
    const int axis = top + kPlotHeight;
    for (int tick = 0; tick <= 4; ++tick) {
      const int x = kLeft + kPlotWidth * tick / 4;
      const double before = grid.column_seconds * static_cast<double>(columns) * (4 - tick) / 4;
      drawing.rectangle(x, axis, 1, 5, {});
      drawing.text(x, axis + 14, tick == 4 ? "now" : "-" + ago(before), tick == 4 ? Anchor::kEnd : Anchor::kMiddle);
    }
  };
  panel(kTop, "how often one of its pages is used",
        [](const HeatGrid::Cell& cell) { return heat_colour(heat_level(cell.uses)); });
  panel(kTop + kPlotHeight + kGap, "share that is far", [](const HeatGrid::Cell& cell) { return grey(cell.far); });
  const int legend = kTop + 2 * kPlotHeight + kGap + 40;
  constexpr int kSteps = 64;
  constexpr int kStep = 3;
  const auto scale = [&](int x, const auto& colour_of, const char* low, const char* high) {
    drawing.text(x - 6, legend + 7, low, Anchor::kEnd);
    for (int i = 0; i < kSteps; ++i) drawing.rectangle(x + i * kStep, legend, kStep, 14, colour_of((i + 0.5) / kSteps));
    drawing.text(x + kSteps * kStep + 6, legend + 7, high);
  };
  scale(kLeft + 60, heat_colour, "once an hour", "10 per second");
  scale(kLeft + 450, grey, "0% far", "100% far");
  drawing.rectangle(kLeft + 60, legend + 22, 14, 14, kNothing);
  drawing.text(kLeft + 80, legend + 29, "no memory there, or nobody watched");
  return drawing;
}

}  // namespace tidepool::cli
