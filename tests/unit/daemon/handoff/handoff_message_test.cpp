// The array of regions, as Firecracker writes it and as nobody should.
#include "daemon/vm/handoff_message.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace tidepool::daemon {
namespace {

// serde_json's compact form of what a microVM with a hole below 4 GiB sends.
constexpr std::string_view kFirecracker =
    R"([{"base_host_virt_addr":140052435746816,"size":3221225472,"offset":0,"page_size":4096,"page_size_kib":4096},)"
    R"({"base_host_virt_addr":140056738111488,"size":1073741824,"offset":3221225472,"page_size":4096,"page_size_kib":4096}])";

Result<std::vector<HandoffRegion>> parse(std::string_view text, std::size_t piece = 1u << 20) {
  HandoffMessage message;
  for (std::size_t at = 0; at < text.size(); at += piece) {
    if (auto added = message.add(text.substr(at, piece)); !added) return Failure{added.error()};
  }
  return message.regions();
}

std::string region(const std::string& fields) {
  return "[{" + fields + "}]";
}

TEST(HandoffMessage, ReadsWhatFirecrackerWritesByteForByte) {
  const auto regions = parse(kFirecracker);
  ASSERT_TRUE(regions) << regions.error().message();
  const std::vector<HandoffRegion> expected{{{140052435746816, 140052435746816 + 3221225472}, 0},
                                            {{140056738111488, 140056738111488 + 1073741824}, 3221225472}};
  EXPECT_EQ(*regions, expected);
}

TEST(HandoffMessage, ReadsItHoweverItIsCut) {
  const auto whole = parse(kFirecracker);
  ASSERT_TRUE(whole);
  for (std::size_t piece = 1; piece < 64; ++piece) {
    const auto regions = parse(kFirecracker, piece);
    ASSERT_TRUE(regions) << piece << ": " << regions.error().message();
    EXPECT_EQ(*regions, *whole) << piece;
  }
}

TEST(HandoffMessage, IsCompleteWithItsLastByteAndNotBefore) {
  HandoffMessage message;
  for (std::size_t i = 0; i < kFirecracker.size(); ++i) {
    EXPECT_FALSE(message.complete()) << i;
    ASSERT_TRUE(message.add(kFirecracker.substr(i, 1)));
  }
  EXPECT_TRUE(message.complete());
  EXPECT_TRUE(message.add("\n"));
  EXPECT_FALSE(message.add("["));
}

TEST(HandoffMessage, ReadsOlderFormsWithoutPageSizes) {
  for (const char* pages : {"", R"(,"page_size":4096)", R"(,"page_size_kib":4096)", R"(,"added_later":[])"}) {
    const auto regions = parse(region(std::string(R"("base_host_virt_addr":4096,"size":8192,"offset":0)") + pages));
    ASSERT_TRUE(regions) << pages << regions.error().message();
    EXPECT_EQ(regions->front(), (HandoffRegion{{4096, 12288}, 0}));
  }
}

TEST(HandoffMessage, OrdersRegionsByAddress) {
  const auto regions = parse(
      R"([{"base_host_virt_addr":1048576,"size":4096,"offset":0},{"base_host_virt_addr":4096,"size":4096,"offset":4096}])");
  ASSERT_TRUE(regions);
  EXPECT_EQ((*regions)[0].addresses.start, 4096u);
  EXPECT_EQ((*regions)[1].addresses.start, 1048576u);
}

struct Wrong {
  std::string text;
  std::errc code;
  std::string says;
};

class WrongMessage : public testing::TestWithParam<Wrong> {};

TEST_P(WrongMessage, IsRefusedWithWhatIsWrong) {
  const auto regions = parse(GetParam().text);
  ASSERT_FALSE(regions);
  EXPECT_EQ(regions.error().code, GetParam().code) << regions.error().message();
  EXPECT_NE(regions.error().message().find(GetParam().says), std::string::npos) << regions.error().message();
}

const std::string kBase = R"("base_host_virt_addr":4096,)";
const std::string kSize = R"("size":8192,)";
const std::string kOffset = R"("offset":0)";
constexpr auto kMalformed = std::errc::bad_message;

INSTANTIATE_TEST_SUITE_P(
    Each, WrongMessage,
    testing::Values(
        Wrong{"", kMalformed, "not complete"}, Wrong{"   ", kMalformed, "not complete"},
        Wrong{"{}", kMalformed, "not an array"}, Wrong{"17", kMalformed, "not an array"},
        Wrong{"GET / HTTP/1.1\r\n", kMalformed, "not an array"}, Wrong{"[", kMalformed, "not complete"},
        Wrong{"[1,]", kMalformed, "not JSON"}, Wrong{"[]", kMalformed, "no region"},
        Wrong{"[7]", kMalformed, "region 0 is not an object"},
        Wrong{"[{}]", kMalformed, "base_host_virt_addr is missing"},
        Wrong{std::string("[\xff\xfe]"), kMalformed, "not JSON"}, Wrong{"[[[[[[]]]]]]", kMalformed, "not JSON"},
        Wrong{region(kBase + kOffset), kMalformed, "size is missing"},
        Wrong{region(kBase + R"("size":8192)"), kMalformed, "offset is missing"},
        Wrong{region(R"("base_host_virt_addr":"4096",)" + kSize + kOffset), kMalformed, "not a whole number"},
        Wrong{region(R"("base_host_virt_addr":-4096,)" + kSize + kOffset), kMalformed, "not a whole number"},
        Wrong{region(R"("base_host_virt_addr":4096.0,)" + kSize + kOffset), kMalformed, "not a whole number"},
        Wrong{region(R"("base_host_virt_addr":18446744073709551616,)" + kSize + kOffset), kMalformed,
              "not a whole number"},
        Wrong{region(R"("base_host_virt_addr":null,)" + kSize + kOffset), kMalformed, "not a whole number"},
        Wrong{region(R"("base_host_virt_addr":0,)" + kSize + kOffset), kMalformed, "no process has memory"},
        Wrong{region(R"("base_host_virt_addr":18446744073709547520,)" + kSize + kOffset), kMalformed,
              "no process has memory"},
        Wrong{region(kBase + R"("size":18446744073709547520,)" + kOffset), kMalformed, "no process has memory"},
        Wrong{region(kBase + R"("size":0,)" + kOffset), kMalformed, "size is 0"},
        Wrong{region(kBase + R"("size":4097,)" + kOffset), kMalformed, "whole pages"},
        Wrong{region(R"("base_host_virt_addr":4097,)" + kSize + kOffset), kMalformed, "whole pages"},
        Wrong{region(kBase + kSize + R"("offset":1)"), kMalformed, "whole pages"},
        Wrong{region(kBase + kSize + R"("offset":18446744073709547520)"), kMalformed, "no file has this offset"},
        Wrong{region(kBase + kSize + kOffset + R"(,"page_size":2097152)"), std::errc::not_supported, "not of 4 KiB"},
        Wrong{region(kBase + kSize + kOffset + R"(,"page_size_kib":4)"), std::errc::not_supported, "not of 4 KiB"},
        Wrong{region(kBase + kSize + kOffset + R"(,"page_size":4096,"page_size_kib":4)"), kMalformed, "contradict"},
        Wrong{"[{" + kBase + kSize + kOffset + "},{" + kBase + kSize + kOffset + "}]", kMalformed, "overlap"},
        Wrong{"[{" + kBase + kSize + kOffset + "}] x", kMalformed, "something follows"}));

TEST(HandoffMessage, BoundsItsLengthItsRegionsAndTheirFields) {
  std::string many = "[";
  for (std::size_t i = 0; i <= kMaxHandoffRegions; ++i) {
    many += (i == 0 ? "" : ",") + std::string(R"({"base_host_virt_addr":)") + std::to_string((i + 1) * 8192) +
            R"(,"size":4096,"offset":0})";
  }
  const auto too_many = parse(many + "]");
  ASSERT_FALSE(too_many);
  EXPECT_NE(too_many.error().message().find("more than"), std::string::npos);
  const auto too_long = parse("[" + std::string(kMaxHandoffMessage, ' ') + "]");
  ASSERT_FALSE(too_long);
  EXPECT_EQ(too_long.error().code, std::errc::message_size);
  std::string wide;
  for (int i = 0; i < 64; ++i) wide += (i == 0 ? "\"k" : ",\"k") + std::to_string(i) + "\":1";
  EXPECT_FALSE(parse(region(wide)));
}

void check_regions(const std::vector<HandoffRegion>& regions) {
  ASSERT_FALSE(regions.empty());
  ASSERT_LE(regions.size(), kMaxHandoffRegions);
  for (std::size_t i = 0; i < regions.size(); ++i) {
    const HandoffRegion& region = regions[i];
    ASSERT_LT(region.addresses.start, region.addresses.end);
    ASSERT_EQ((region.addresses.start | region.addresses.end | region.offset) % kPageSize, 0u);
    ASSERT_GE(region.offset + region.addresses.size(), region.offset);
    if (i > 0) {
      ASSERT_LE(regions[i - 1].addresses.end, region.addresses.start);
    }
  }
}

// Whatever arrives, in whatever pieces, is an error or regions that make sense; and the pieces make no difference.
TEST(HandoffMessage, SurvivesMutatedMessages) {
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  static constexpr std::string_view kTokens[] = {"[",        "]",    "{",     "}",  ",",    ":",
                                                 "\"",       "null", "1e308", "-1", "0",    "\\u00",
                                                 "\xf0\x9f", "4096", "true",  " ",  "size", "9223372036854775807"};
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text(kFirecracker);
    const auto mutations = random() % 4;
    for (std::uint64_t i = 0; i < mutations; ++i) {
      const std::size_t at = random() % (text.size() + 1);
      switch (random() % 5) {
        case 0:
          text.insert(at, kTokens[random() % std::size(kTokens)]);
          break;
        case 1:
          text.erase(at, random() % 12);
          break;
        case 2:
          if (at < text.size()) text[at] = static_cast<char>(random());
          break;
        case 3:
          text.resize(at);
          break;
        default:
          text.insert(at, text.substr(random() % (text.size() + 1), random() % 80));
      }
    }
    const auto whole = parse(text);
    const auto cut = parse(text, 1 + random() % 40);
    ASSERT_EQ(whole.has_value(), cut.has_value()) << text;
    if (!whole) continue;
    ++accepted;
    EXPECT_EQ(*whole, *cut) << text;
    ASSERT_NO_FATAL_FAILURE(check_regions(*whole)) << text;
  }
  EXPECT_GT(accepted, 1000);
}

}  // namespace
}  // namespace tidepool::daemon
