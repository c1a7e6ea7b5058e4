// A picture of rectangles and short texts, written as SVG or PNG: few enough shapes that both look the same.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::cli {

struct Colour {
  std::uint8_t red = 0, green = 0, blue = 0;
  bool operator==(const Colour&) const = default;
};

// Dark is little, bright is much, in steps that look alike, also in greys and to people who are colour-blind
// (the "inferno" scale of matplotlib, interpolated). `value` 0..1.
Colour heat_colour(double value);
Colour grey(double value);

enum class Anchor : std::uint8_t { kStart, kMiddle, kEnd };

class Drawing {
 public:
  // In pixels; at most 4096 each way.
  Drawing(int width, int height);

  int width() const { return width_; }
  int height() const { return height_; }
  void rectangle(int x, int y, int width, int height, Colour colour);
  // In black, on one line; `y` is its middle. Characters beyond ASCII are shown as '?' where the format has no letters
  // for them.
  void text(int x, int y, std::string_view words, Anchor anchor = Anchor::kStart);

  std::string svg() const;
  Result<std::string> png() const;

 private:
  struct Rectangle {
    int x, y, width, height;
    Colour colour;
  };
  struct Text {
    int x, y;
    std::string words;
    Anchor anchor;
  };

  int width_;
  int height_;
  std::vector<Rectangle> rectangles_;
  std::vector<Text> texts_;
};

}  // namespace tidepool::cli
