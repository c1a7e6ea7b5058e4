// Fuzzing without an engine: inputs made from recorded ones by seeded mutations, tried until a number of them or a time
// has passed. Deterministic: the same seed makes the same inputs.
//
// As an ordinary test the seed is fixed and the bound small. In the environment: TIDEPOOL_FUZZ_SEED another seed,
// TIDEPOOL_FUZZ_SECONDS a time instead of the number, TIDEPOOL_FUZZ_KEEP a file that always holds the input that is
// being tried, for a finding that ends the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace tidepool::fuzz {

struct Corpus {
  std::vector<std::string> inputs;  // recorded; not empty
  std::vector<std::string> tokens;  // what the format is made of, for putting in; may be empty
  std::size_t longest = 64u << 10;  // inputs are cut there
};

// Makes inputs. What it returns is one of the corpus with a few changes: bits, bytes, numbers (binary and in text) set
// to the values at which parsers break, pieces cut out, doubled, moved over from another input, cut short.
class Mutator {
 public:
  Mutator(const Corpus& corpus, std::uint64_t seed) : corpus_(corpus), random_(seed) {}
  std::string next();
  std::uint64_t number(std::uint64_t below) { return below == 0 ? 0 : random_() % below; }

 private:
  void change(std::string& input);
  void overwrite_number(std::string& input, std::size_t at);
  void overwrite_digits(std::string& input, std::size_t at);

  const Corpus& corpus_;
  std::mt19937_64 random_;
};

// Calls `one` with inputs whose bytes lie in memory of just their size, so that a sanitizer sees a step beyond; every
// input of the corpus as it is first. Ends early when a test failed, with the input in the failure's text.
void fuzz(const Corpus& corpus, std::size_t times, const std::function<void(std::string_view input, Mutator&)>& one);

// Bytes as C would write them, for messages.
std::string escaped(std::string_view bytes);

}  // namespace tidepool::fuzz
