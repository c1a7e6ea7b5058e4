#include "cli/drawing.h"

#include <png.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "base/text.h"
#include "cli/letters.h"

namespace tidepool::cli {
namespace {

constexpr int kMostPixels = 4096;
constexpr std::array<Colour, 10> kInferno{{{0x00, 0x00, 0x04},
                                           {0x1b, 0x0c, 0x41},
                                           {0x4a, 0x0c, 0x6b},
                                           {0x78, 0x1c, 0x6d},
                                           {0xa5, 0x2c, 0x60},
                                           {0xcf, 0x44, 0x46},
                                           {0xed, 0x69, 0x25},
                                           {0xfb, 0x9b, 0x06},
                                           {0xf7, 0xd1, 0x3d},
                                           {0xfc, 0xff, 0xa4}}};

double within_one(double value) {
  return std::isfinite(value) ? std::clamp(value, 0.0, 1.0) : 0.0;
}

std::string hexadecimal(Colour colour) {
  std::array<char, 8> text{};
  std::snprintf(text.data(), text.size(), "#%02x%02x%02x", colour.red, colour.green, colour.blue);
  return text.data();
}

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : to_valid_utf8(text)) {
    switch (c) {
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '&':
        result += "&amp;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        // XML has no place for control characters, however they are written.
        result += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
    }
  }
  return result;
}

// A canvas of 24-bit pixels.
struct Pixels {
  int width, height;
  std::vector<std::uint8_t> bytes;

  void fill(int x, int y, int w, int h, Colour colour) {
    const int right = std::min(width, x + w);
    const int bottom = std::min(height, y + h);
    for (int row = std::max(y, 0); row < bottom; ++row) {
      for (int column = std::max(x, 0); column < right; ++column) {
        std::uint8_t* at = &bytes[(static_cast<std::size_t>(row) * static_cast<std::size_t>(width) +
                                   static_cast<std::size_t>(column)) *
                                  3];
        at[0] = colour.red;
        at[1] = colour.green;
        at[2] = colour.blue;
      }
    }
  }
};

}  // namespace

Colour heat_colour(double value) {
  const double at = within_one(value) * (kInferno.size() - 1);
  const auto below = std::min(static_cast<std::size_t>(at), kInferno.size() - 2);
  const double part = at - static_cast<double>(below);
  const auto mix = [&](std::uint8_t from, std::uint8_t to) {
    return static_cast<std::uint8_t>(std::lround(from + (to - from) * part));
  };
  const Colour& low = kInferno[below];
  const Colour& high = kInferno[below + 1];
  return {mix(low.red, high.red), mix(low.green, high.green), mix(low.blue, high.blue)};
}

Colour grey(double value) {
  const auto level = static_cast<std::uint8_t>(std::lround(240 - 200 * within_one(value)));
  return {level, level, level};
}

Drawing::Drawing(int width, int height)
    : width_(std::clamp(width, 1, kMostPixels)), height_(std::clamp(height, 1, kMostPixels)) {}

void Drawing::rectangle(int x, int y, int width, int height, Colour colour) {
  if (width > 0 && height > 0) rectangles_.push_back({x, y, width, height, colour});
}

void Drawing::text(int x, int y, std::string_view words, Anchor anchor) {
  texts_.push_back({x, y, std::string(words), anchor});
}

std::string Drawing::svg() const {
  const std::string w = std::to_string(width_);
  const std::string h = std::to_string(height_);
  std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + w + "\" height=\"" + h +
                    "\" viewBox=\"0 0 " + w + " " + h +
                    "\" font-family=\"monospace\" font-size=\"12\">\n<rect width=\"" + w + "\" height=\"" + h +
                    "\" fill=\"#ffffff\"/>\n<g shape-rendering=\"crispEdges\">\n";
  for (const Rectangle& each : rectangles_) {
    out += "<rect x=\"" + std::to_string(each.x) + "\" y=\"" + std::to_string(each.y) + "\" width=\"" +
           std::to_string(each.width) + "\" height=\"" + std::to_string(each.height) + "\" fill=\"" +
           hexadecimal(each.colour) + "\"/>\n";
  }
  out += "</g>\n";
  for (const Text& each : texts_) {
    const char* anchor = each.anchor == Anchor::kStart ? "start" : each.anchor == Anchor::kMiddle ? "middle" : "end";
    out += "<text x=\"" + std::to_string(each.x) + "\" y=\"" + std::to_string(each.y + 4) + "\" text-anchor=\"" +
           anchor + "\">" + escaped(each.words) + "</text>\n";
  }
  return out + "</svg>\n";
}

Result<std::string> Drawing::png() const {
  Pixels pixels{width_, height_, {}};
  pixels.bytes.assign(static_cast<std::size_t>(width_) * static_cast<std::size_t>(height_) * 3, 0xff);
  for (const Rectangle& each : rectangles_) pixels.fill(each.x, each.y, each.width, each.height, each.colour);
  for (const Text& each : texts_) {
    const int length = static_cast<int>(each.words.size()) * kLetterAdvance;
    int x = each.x;
    if (each.anchor == Anchor::kMiddle) x -= length / 2;
    if (each.anchor == Anchor::kEnd) x -= length;
    for (const char c : each.words) {
      const Letter& letter = letter_of(c);
      for (int column = 0; column < static_cast<int>(letter.size()); ++column) {
        for (int row = 0; row < kLetterHeight; ++row) {
          if ((letter[static_cast<std::size_t>(column)] >> row & 1) != 0)
            pixels.fill(x + column, each.y - kLetterHeight / 2 + row, 1, 1, {});
        }
      }
      x += kLetterAdvance;
    }
  }
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width_);
  image.height = static_cast<png_uint_32>(height_);
  image.format = PNG_FORMAT_RGB;
  std::string out(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = out.size();
  if (png_image_write_to_memory(&image, out.data(), &size, 0, pixels.bytes.data(), 0, nullptr) == 0)
    return failure(std::errc::io_error, "make a PNG", image.message);
  out.resize(size);
  return out;
}

}  // namespace tidepool::cli
