// Goal: whatever an agent answers, tidectl draws it or says that there is nothing to draw.
#include "cli/heatmap.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace tidepool::cli {
namespace {

namespace json = boost::json;

HeatGrid grid_of(const char* text) {
  return heat_grid(json::parse(text));
}

TEST(Heatmap, PutsColumnsWhereTheirTimeIs) {
  const HeatGrid grid = grid_of(R"({"vm": "v", "period_ms": 10000, "from": "2026-01-31T12:00:00Z",
    "until": "2026-01-31T12:01:00Z", "stretches": [{"object": 0, "offset_bytes": 0, "size_bytes": 4096}],
    "columns": [{"at": "2026-01-31T12:00:20Z", "uses": [1.5], "far": [0.5]}]})");
  ASSERT_EQ(grid.rows.size(), 1u);
  ASSERT_EQ(grid.rows[0].cells.size(), 6u);
  EXPECT_FALSE(grid.rows[0].cells[1]);
  ASSERT_TRUE(grid.rows[0].cells[2]);
  EXPECT_EQ(grid.rows[0].cells[2]->uses, 1.5);
  EXPECT_EQ(grid.rows[0].cells[2]->far, 0.5);
}

TEST(Heatmap, NamesObjectsThatShareARow) {
  const HeatGrid grid = grid_of(R"({"vm": "v", "period_ms": 10000, "from": "2026-01-31T12:00:00Z",
    "until": "2026-01-31T12:01:00Z", "stretches": [{"object": 62, "objects": 1, "offset_bytes": 0, "size_bytes": 4096},
    {"object": 63, "objects": 37, "offset_bytes": 0, "size_bytes": 8192}], "columns": []})");
  ASSERT_EQ(grid.rows.size(), 2u);
  EXPECT_TRUE(grid.rows[0].label.starts_with("62: ")) << grid.rows[0].label;
  EXPECT_EQ(grid.rows[1].label, "63-99");
}

TEST(Heatmap, OfNonsenseIsEmpty) {
  for (
      const char* text :
      {"{}", "[]", "null", "7", R"({"from": "x", "until": "y"})",
       R"({"from": "2026-01-31T12:00:00Z", "until": "2026-01-31T12:00:00Z", "period_ms": 1, "stretches": [], "columns": []})",
       R"({"from": "2026-01-31T12:00:00Z", "until": "2029-01-31T12:00:00Z", "period_ms": 1, "stretches": [{}], "columns": [{}]})",
       R"({"from": "2026-01-31T12:00:00Z", "until": "2026-01-31T12:01:00Z", "period_ms": 15000, "stretches": [{}, 7, null],
            "columns": [1, {"at": 7}, {"at": "2026-01-31T12:00:00Z", "uses": ["a", null], "far": 7},
                        {"at": "1999-01-31T12:00:00Z", "uses": [1], "far": [1]}]})"}) {
    const HeatGrid grid = grid_of(text);
    EXPECT_TRUE(grid.empty()) << text;
    EXPECT_NE(heatmap_text(grid, 80, false).find("nothing"), std::string::npos) << text;
    EXPECT_TRUE(heatmap_drawing(grid).svg().ends_with("</svg>\n"));
    EXPECT_TRUE(heatmap_drawing(grid).png());
  }
}

HeatGrid large(std::size_t rows, std::size_t columns) {
  HeatGrid grid;
  grid.vm = "large";
  grid.column_seconds = 15;
  for (std::size_t r = 0; r < rows; ++r) {
    HeatGrid::Row row;
    row.label = std::to_string(r < rows / 2 ? 0 : 1) + ": " + std::to_string(r) + "G";
    row.size = 1ull << 34;
    for (std::size_t c = 0; c < columns; ++c) row.cells.push_back(HeatGrid::Cell{static_cast<double>(c) / 100, 0.25});
    grid.rows.push_back(row);
  }
  return grid;
}

TEST(Heatmap, FitsInAnyWidth) {
  const HeatGrid grid = large(64, 240);
  for (const std::size_t width : {0u, 1u, 20u, 40u, 80u, 200u, 500u}) {
    const std::string text = heatmap_text(grid, width, false);
    std::size_t lines = 0;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find('\n', at);
      ++lines;
      if (width >= 40 && text.substr(at, end - at).find("|") != std::string::npos) {
        EXPECT_LE(end - at, width);
      }
      at = end + 1;
    }
    EXPECT_LE(lines, 32u + 3u);
  }
}

TEST(Heatmap, JoinsNeighboursOfOneObjectOnly) {
  const HeatGrid small = large(10, 100).at_most(4, 10);
  EXPECT_EQ(small.rows.size(), 4u);
  EXPECT_EQ(small.rows[0].cells.size(), 10u);
  EXPECT_EQ(small.column_seconds, 150);
  EXPECT_TRUE(small.rows[1].label.starts_with("0:"));
  EXPECT_TRUE(small.rows[2].label.starts_with("1:"));
  ASSERT_TRUE(small.rows[0].cells[9]);
  EXPECT_NEAR(small.rows[0].cells[9]->uses, 0.945, 1e-9);
}

TEST(Heatmap, ColoursGetBrighterAsMemoryGetsHotter) {
  double before = -1;
  for (int i = 0; i <= 100; ++i) {
    const Colour c = heat_colour(i / 100.0);
    const double luminance = 0.2126 * c.red + 0.7152 * c.green + 0.0722 * c.blue;
    EXPECT_GE(luminance, before);
    before = luminance;
  }
  EXPECT_EQ(heat_level(0), 0);
  EXPECT_EQ(heat_level(-1), 0);
  EXPECT_EQ(heat_level(1e300), 1);
  EXPECT_GT(heat_level(0.1), heat_level(0.01));
}

TEST(Drawing, TakesWhatDoesNotFit) {
  Drawing drawing(10, 10);
  drawing.rectangle(-5, -5, 1000, 1000, {1, 2, 3});
  drawing.rectangle(3, 3, -1, 5, {});
  drawing.text(-100, 5, std::string(1000, 'x') + "\x01\xff<&>");
  EXPECT_TRUE(drawing.png());
  EXPECT_EQ(drawing.svg().find('\x01'), std::string::npos);
  EXPECT_EQ(Drawing(1 << 30, -1).width(), 4096);
  EXPECT_EQ(Drawing(1 << 30, -1).height(), 1);
}

}  // namespace
}  // namespace tidepool::cli
