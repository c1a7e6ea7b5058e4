#include "tests/fuzz/fuzz_driver.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

namespace tidepool::fuzz {
namespace {

constexpr std::uint64_t kSeed = 0x7469646570;
constexpr std::size_t kShownBytes = 2048;

constexpr std::array<std::uint64_t, 18> kNumbers = {
    0,      1,          7,          8,          0x7f,        0x80,       0xff,       0x100,      0xfff,
    0x1000, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 1ull << 47, 1ull << 62, ~0ull >> 1, ~0ull};
constexpr std::array<std::string_view, 16> kDigits = {"0",
                                                      "-1",
                                                      "00000000000000000000000000000000000001",
                                                      "2147483648",
                                                      "4294967295",
                                                      "4294967296",
                                                      "9223372036854775807",
                                                      "9223372036854775808",
                                                      "18446744073709551615",
                                                      "18446744073709551616",
                                                      "99999999999999999999999999999999999999999",
                                                      "ffffffffffffffff",
                                                      "10000000000000000",
                                                      "1e999",
                                                      "nan",
                                                      "0.0000000000000000000000000000001"};

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 0);
}

void keep(std::string_view input) {
  static const char* const path = std::getenv("TIDEPOOL_FUZZ_KEEP");
  if (path == nullptr) return;
  std::ofstream(path, std::ios::binary).write(input.data(), static_cast<std::streamsize>(input.size()));
}

}  // namespace

std::string escaped(std::string_view bytes) {
  std::string text;
  for (const char c : bytes.substr(0, kShownBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f && c != '\\' && c != '"') {
      text += c;
      continue;
    }
    std::array<char, 5> code{};
    std::snprintf(code.data(), code.size(), "\\%03o", byte);
    text += code.data();
  }
  return text + (bytes.size() > kShownBytes ? "..." : "");
}

std::string Mutator::next() {
  std::string input = corpus_.inputs[number(corpus_.inputs.size())];
  for (std::uint64_t changes = 1 + number(6); changes > 0; --changes) change(input);
  if (input.size() > corpus_.longest) input.resize(corpus_.longest);
  return input;
}

void Mutator::change(std::string& input) {
  const std::size_t at = number(input.size() + 1);
  const bool inside = at < input.size();
  switch (number(11)) {
    case 0:
      if (inside) input[at] = static_cast<char>(input[at] ^ (1 << number(8)));
      break;
    case 1:
      if (inside) input[at] = static_cast<char>(random_());
      break;
    case 2:
      overwrite_number(input, at);
      break;
    case 3:
      overwrite_digits(input, at);
      break;
    case 4:
      input.erase(at, 1 + number(16));
      break;
    case 5:
      input.insert(at, input.substr(number(input.size() + 1), 1 + number(128)));
      break;
    case 6:
      if (!corpus_.tokens.empty()) input.insert(at, corpus_.tokens[number(corpus_.tokens.size())]);
      break;
    case 7: {
      const std::string& other = corpus_.inputs[number(corpus_.inputs.size())];
      input.replace(at, number(64), other.substr(number(other.size() + 1), 1 + number(256)));
      break;
    }
    case 8:
      if (number(4) == 0) input.resize(at);
      break;
    case 9:
      input.insert(at, std::string(1 + number(number(32) == 0 ? 8192 : 24), static_cast<char>(random_())));
      break;
    default:
      for (std::size_t i = at; i < std::min(input.size(), at + 8); ++i) input[i] = static_cast<char>(random_());
  }
}

void Mutator::overwrite_number(std::string& input, std::size_t at) {
  const std::size_t width = std::size_t{1} << number(4);
  if (input.size() < width) return;
  // Where formats have them, mostly: at multiples of their size.
  std::size_t place = std::min(at, input.size() - width);
  if (number(4) != 0) place = place / width * width;
  std::uint64_t value = kNumbers[number(kNumbers.size())] + number(3) - 1;
  if (number(4) == 0) {
    value = 0;
    std::memcpy(&value, input.data() + place, width);
    value += number(17) - 8;
  }
  std::memcpy(input.data() + place, &value, width);
}

void Mutator::overwrite_digits(std::string& input, std::size_t at) {
  constexpr std::string_view kDecimal = "0123456789";
  const std::size_t first = input.find_first_of(kDecimal, at);
  if (first == std::string::npos) return;
  const std::size_t end = std::min(input.find_first_not_of(kDecimal, first), input.size());
  input.replace(first, end - first, kDigits[number(kDigits.size())]);
}

void fuzz(const Corpus& corpus, std::size_t times, const std::function<void(std::string_view, Mutator&)>& one) {
  const std::uint64_t seed = from_environment("TIDEPOOL_FUZZ_SEED", kSeed);
  const std::uint64_t seconds = from_environment("TIDEPOOL_FUZZ_SECONDS", 0);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  Mutator mutator(corpus, seed);
  std::size_t tried = 0;
  for (; seconds > 0 ? std::chrono::steady_clock::now() < deadline : tried < times + corpus.inputs.size(); ++tried) {
    const std::string made = tried < corpus.inputs.size() ? corpus.inputs[tried] : mutator.next();
    const std::vector<char> exact(made.begin(), made.end());
    const std::string_view input(exact.data(), exact.size());
    keep(input);
    one(input, mutator);
    if (testing::Test::HasFailure()) {
      ADD_FAILURE() << "seed " << seed << ", input " << tried << ": \"" << escaped(input) << '"';
      return;
    }
  }
  testing::Test::RecordProperty("inputs", std::to_string(tried));
}

}  // namespace tidepool::fuzz
