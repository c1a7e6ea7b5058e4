#include "bench/load/page_content.h"

#include <fmt/format.h>

#include <array>
#include <atomic>

#include "bench/load/random.h"

namespace tidepool::load {
namespace {

using Words = std::array<std::uint64_t, kWordsPerPage>;

constexpr std::size_t kAddressWord = 0;
constexpr std::size_t kVersionWord = 1;
constexpr std::size_t kChecksumWord = 2;
constexpr std::size_t kFirstBodyWord = 3;

// Compressible pages: per 128 bytes some random words, then one word repeated. LZ4 spends about 5 bytes on each
// repetition, so 4 to 6 random words of 16 give 3.5:1 to 2.3:1.
constexpr std::size_t kGroupWords = 16;
constexpr std::uint64_t kLeastRandomWords = 4;
constexpr std::uint64_t kRandomWordChoices = 3;

std::uint64_t load_word(const void* page, std::size_t index) {
  // atomic_ref takes no const object before C++26; nothing is written through it.
  auto* word = static_cast<std::uint64_t*>(const_cast<void*>(page)) + index;
  return std::atomic_ref<std::uint64_t>(*word).load(std::memory_order_relaxed);
}

void store_word(void* page, std::size_t index, std::uint64_t value) {
  std::atomic_ref<std::uint64_t>(static_cast<std::uint64_t*>(page)[index]).store(value, std::memory_order_relaxed);
}

std::uint64_t key_of(std::uint64_t seed, std::uint64_t address, std::uint64_t version) {
  return mix(mix(seed ^ address) + version);
}

PageKind kind_from(std::uint64_t key) {
  const std::uint64_t tenth = (key >> 32) % 10;
  if (tenth == 0) return PageKind::kZero;
  return tenth <= 6 ? PageKind::kCompressible : PageKind::kRandom;
}

// Cheap, and it sees the order of words: a checksum for tools that know neither seed nor version.
std::uint64_t checksum_of(const Words& words) {
  std::uint64_t sum = words[kAddressWord] ^ (words[kVersionWord] * 0x9e3779b97f4a7c15ull);
  for (std::size_t i = kFirstBodyWord; i < kWordsPerPage; ++i) sum = ((sum << 7) | (sum >> 57)) + words[i];
  return mix(sum);
}

std::uint64_t random_word(std::uint64_t key, std::size_t index) {
  return mix(key ^ (index << 48) ^ index);
}

Words make_words(std::uint64_t key, const Expectation& expected) {
  Words words{};
  const PageKind kind = kind_from(key);
  if (expected.zero || kind == PageKind::kZero) return words;
  if (kind == PageKind::kRandom) {
    for (std::size_t i = 0; i < kWordsPerPage; ++i) words[i] = random_word(key, i);
  } else {
    const std::size_t random_words = kLeastRandomWords + key % kRandomWordChoices;
    const std::uint64_t repeated = mix(key);
    for (std::size_t i = 0; i < kWordsPerPage; ++i) {
      words[i] = i % kGroupWords < random_words ? random_word(key, i) : repeated;
    }
  }
  words[kAddressWord] = expected.address;
  words[kVersionWord] = expected.version;
  words[kChecksumWord] = checksum_of(words);
  return words;
}

}  // namespace

PageKind PageContent::kind_of(std::uint64_t address, std::uint64_t version) const {
  return kind_from(key_of(seed_, address, version));
}

void PageContent::write(void* page, std::uint64_t address, std::uint64_t version) const {
  const Words words = make_words(key_of(seed_, address, version), {.address = address, .version = version});
  for (std::size_t i = 0; i < kWordsPerPage; ++i) store_word(page, i, words[i]);
}

bool PageContent::matches(const void* page, const Expectation& expected, Thoroughness how) const {
  const std::uint64_t key = key_of(seed_, expected.address, expected.version);
  if (how == Thoroughness::kFull) {
    const Words words = make_words(key, expected);
    std::uint64_t difference = 0;
    for (std::size_t i = 0; i < kWordsPerPage; ++i) difference |= load_word(page, i) ^ words[i];
    return difference == 0;
  }
  const std::uint64_t first = load_word(page, kAddressWord);
  if (how == Thoroughness::kNone) return true;
  // Both ends of the page: a torn page shows in one of them. The last word of a compressible page is its repeated word.
  const std::uint64_t version = load_word(page, kVersionWord);
  const std::uint64_t last = load_word(page, kWordsPerPage - 1);
  const PageKind kind = kind_from(key);
  if (expected.zero || kind == PageKind::kZero) return (first | version | last) == 0;
  const std::uint64_t wanted_last = kind == PageKind::kRandom ? random_word(key, kWordsPerPage - 1) : mix(key);
  return first == expected.address && version == expected.version && last == wanted_last;
}

std::optional<std::string> PageContent::describe_mismatch(const void* page, const Expectation& expected) const {
  const Words wanted = make_words(key_of(seed_, expected.address, expected.version), expected);
  Words found{};
  for (std::size_t i = 0; i < kWordsPerPage; ++i) found[i] = load_word(page, i);
  if (found == wanted) return std::nullopt;

  std::size_t first = 0;
  std::size_t wrong = 0;
  for (std::size_t i = kWordsPerPage; i-- > 0;) {
    if (found[i] == wanted[i]) continue;
    first = i;
    ++wrong;
  }
  const std::string wanted_text = expected.zero ? "zeros (given back)" : fmt::format("version {}", expected.version);
  std::string verdict;
  if (found == Words{}) {
    verdict = "the page reads as zeros";
  } else if (found[kChecksumWord] == checksum_of(found) && found[kAddressWord] != expected.address) {
    verdict = fmt::format("holds the page of offset {:#x}, version {}", found[kAddressWord], found[kVersionWord]);
  } else if (found[kChecksumWord] == checksum_of(found) && found[kVersionWord] != expected.version) {
    verdict = fmt::format("holds its version {}, intact", found[kVersionWord]);
  } else {
    verdict = fmt::format("{} of {} words differ, from byte {} on: {:#018x} instead of {:#018x}", wrong, kWordsPerPage,
                          first * sizeof(std::uint64_t), found[first], wanted[first]);
  }
  return fmt::format("offset {:#x}: expected {}; {}", expected.address, wanted_text, verdict);
}

}  // namespace tidepool::load
