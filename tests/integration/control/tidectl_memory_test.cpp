// Heatmap and working set, as tidectl shows and draws them.
#include <gtest/gtest.h>
#include <png.h>
#include <stdlib.h>

#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <sstream>

#include "cli/table.h"
#include "tests/integration/control/tidectl_case.h"

namespace tidepool::daemon::testing {
namespace {

namespace json = boost::json;

std::size_t widest(const std::string& text) {
  std::size_t most = 0;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    if (line.find('|') != std::string::npos) most = std::max(most, cli::columns_of(line));
  return most;
}

class Columns {
 public:
  explicit Columns(const char* value) { ::setenv("COLUMNS", value, 1); }
  ~Columns() { ::unsetenv("COLUMNS"); }
};

TEST_F(Tidectl, HeatmapShowsAddressesAndTimeInPlainCharacters) {
  const Outcome map = run({"vm", "heatmap", "web-3", "--last", "10m"});
  EXPECT_EQ(map.code, 0) << map.err;
  EXPECT_EQ(map.out.find('\x1b'), std::string::npos);
  EXPECT_TRUE(std::ranges::all_of(map.out, [](char c) { return c == '\n' || (c >= ' ' && c <= '~'); })) << map.out;
  // Two objects, the first half hot, the second cold and lately far, the last stretch without memory.
  for (const char* part : {"0: 0 |", "1: 64.0M |", "@@@@@@@@", "........", "-10m", "now", "far", "10/s"}) {
    EXPECT_NE(map.out.find(part), std::string::npos) << part << "\n" << map.out;
  }
  EXPECT_LE(widest(map.out), 80u) << map.out;
}

TEST_F(Tidectl, HeatmapKeepsToTheWidthAndBelievesNoAbsurdOne) {
  {
    const Columns narrow("40");
    EXPECT_LE(widest(run({"vm", "heatmap", "web-3"}).out), 40u);
  }
  for (const char* absurd : {"0", "1", "-5", "99999999999999999999", "abc", "", "2147483647"}) {
    const Columns columns(absurd);
    const Outcome map = run({"vm", "heatmap", "web-3"});
    EXPECT_EQ(map.code, 0) << absurd;
    EXPECT_LE(widest(map.out), 500u) << absurd;
    EXPECT_NE(map.out.find('@'), std::string::npos) << absurd << "\n" << map.out;
  }
}

TEST_F(Tidectl, HeatmapHasColoursOnTerminalsOnlyAndOnlyIfWanted) {
  EXPECT_NE(run_on_terminal({"vm", "heatmap", "web-3"}, "").out.find("\x1b[30;48;5;"), std::string::npos);
  EXPECT_EQ(run_on_terminal({"vm", "heatmap", "web-3", "--no-color"}, "").out.find("\x1b["), std::string::npos);
  no_color_ = true;
  EXPECT_EQ(run_on_terminal({"vm", "heatmap", "web-3"}, "").out.find("\x1b["), std::string::npos);
}

TEST_F(Tidectl, HeatmapIsDrawnAsSvg) {
  agent_.add_vm(example_vm("a<b>&\"c"));
  const std::string file = folder_.path() + "/map.svg";
  const Outcome drawn = run({"vm", "heatmap", "a<b>&\"c", "--last", "10m", "--file", file});
  EXPECT_EQ(drawn.code, 0) << drawn.err;
  EXPECT_EQ(drawn.out, "");
  const std::string svg = slurp(file);
  EXPECT_TRUE(svg.starts_with("<svg "));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  for (const char* part : {"a&lt;b&gt;&amp;&quot;c", "once an hour", "10 per second", "100% far", "offset (bytes)",
                           "-10m", ">now<", ">1: 0<"})
    EXPECT_NE(svg.find(part), std::string::npos) << part;
  if (std::system("python3 -c '' 2>/dev/null") == 0) {
    const std::string command = "python3 -c 'import sys, xml.dom.minidom as x; x.parse(sys.argv[1])' " + file;
    EXPECT_EQ(std::system(command.c_str()), 0);
  }
}

TEST_F(Tidectl, HeatmapIsDrawnAsPng) {
  const std::string file = folder_.path() + "/map.png";
  expect({"vm", "heatmap", "web-3", "--last", "10m", "--file", file}, 0, {});
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  ASSERT_NE(png_image_begin_read_from_file(&image, file.c_str()), 0) << image.message;
  image.format = PNG_FORMAT_RGB;
  std::vector<std::uint8_t> pixels(PNG_IMAGE_SIZE(image));
  ASSERT_NE(png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr), 0) << image.message;
  const auto has = [&](std::uint8_t red, std::uint8_t green, std::uint8_t blue) {
    for (std::size_t i = 0; i + 2 < pixels.size(); i += 3)
      if (pixels[i] == red && pixels[i + 1] == green && pixels[i + 2] == blue) return true;
    return false;
  };
  EXPECT_TRUE(has(0, 0, 4)) << "cold";
  EXPECT_TRUE(has(0xdd, 0xe4, 0xee)) << "nothing";
  EXPECT_TRUE(has(0xff, 0xff, 0xff)) << "paper";
  EXPECT_TRUE(has(0, 0, 0)) << "letters";
}

TEST_F(Tidectl, HeatmapIsAlsoADocument) {
  const json::value map = json::parse(run({"vm", "heatmap", "web-3", "-o", "json"}).out);
  EXPECT_EQ(map.at("stretches").as_array().size(), 8u);
  EXPECT_EQ(map.at("stretches").at(1).at("offset_bytes").to_number<std::uint64_t>(), 64u << 20);
  EXPECT_EQ(map.at("stretches").at(1).at("address").to_number<std::uint64_t>(), 0x7f0004000000u);
  EXPECT_TRUE(map.at("stretches").at(7).at("address").is_null());
  EXPECT_TRUE(map.at("columns").at(0).at("uses").at(7).is_null());
  EXPECT_EQ(map.at("columns").at(39).at("far").at(4).to_number<double>(), 39 / 40.0);
}

TEST_F(Tidectl, WrongPicturesAreUsageErrorsOrFailures) {
  for (const char* file : {"map.gif", "map", "svg", "map.svg.gz"})
    expect({"vm", "heatmap", "web-3", "--file", file}, 2, {".svg", ".png"});
  expect({"vm", "heatmap", "web-3", "--file", ""}, 2, {"empty"});
  expect({"vm", "heatmap", "web-3", "--file", "/nonexistent/map.svg"}, 1, {"/nonexistent/map.svg", "No such file"});
  std::filesystem::create_symlink("/dev/full", folder_.path() + "/full.png");
  expect({"vm", "heatmap", "web-3", "--file", folder_.path() + "/full.png"}, 1, {"No space left"});
  for (const char* command : {"heatmap", "wss"}) {
    expect({"vm", command, "nobody"}, 1, {"nobody"});
    expect({"vm", command}, 2, {});
    expect({"vm", command, "web-3", "--last", "soon"}, 2, {"soon"});
    for (const char* last : {"0s", "59s", "8d", "9999d"})
      expect({"vm", command, "web-3", "--last", last}, 2, {"1m", "7d"});
  }
}

TEST_F(Tidectl, WorkingSetSaysWhatCouldBeGivenUp) {
  expect({"vm", "wss", "web-3"}, 0,
         {"resident 3.0G, far 1.0G", "COULD GIVE UP", "1.0%", "5.0%", "beyond its stall budget", "20 us (assumed",
          "MISSES AT BEST", "USED IN 1M"});
  const json::value set = json::parse(run({"vm", "wss", "web-3", "-o", "json"}).out);
  EXPECT_EQ(set.at("offers").at(0).at("gives_bytes").to_number<std::uint64_t>(), 1u << 30);
  EXPECT_EQ(set.at("curve").as_array().size(), 33u);
  EXPECT_EQ(set.at("curve").at(0).at("miss_ratio_best").to_number<double>(), 1.0);
}

}  // namespace
}  // namespace tidepool::daemon::testing
