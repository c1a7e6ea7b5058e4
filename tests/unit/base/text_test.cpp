#include "base/text.h"

#include <gtest/gtest.h>

#include "base/nearest.h"
#include "base/quantity_text.h"

namespace tidepool {
namespace {

using namespace literals;
using std::chrono::milliseconds;

TEST(QuantityText, ReadsSizesInPowersOf1024) {
  EXPECT_EQ(parse_bytes("0"), 0_KiB);
  EXPECT_EQ(parse_bytes("4096"), 4_KiB);
  EXPECT_EQ(parse_bytes("64KiB"), 64_KiB);
  EXPECT_EQ(parse_bytes("64K"), 64_KiB);
  EXPECT_EQ(parse_bytes("1.5GiB"), 1536_MiB);
  EXPECT_EQ(parse_bytes("9007199254740993"), Bytes{9007199254740993ull});
}

TEST(QuantityText, RefusesWhatIsNotASize) {
  for (const char* text : {"", "GiB", "-1", "4 GiB", "4GB", "4gib", ".5G", "1.2.3G", "1.5", "99999999999999999999",
                           "9PPiB", "8589934592GiB"})
    EXPECT_FALSE(parse_bytes(text)) << text;
}

TEST(QuantityText, ReadsSharesFromZeroToOne) {
  EXPECT_DOUBLE_EQ(*parse_share("25%"), 0.25);
  EXPECT_DOUBLE_EQ(*parse_share("0.5%"), 0.005);
  EXPECT_DOUBLE_EQ(*parse_share("0.25"), 0.25);
  EXPECT_DOUBLE_EQ(*parse_share("100%"), 1);
  for (const char* text : {"", "%", "101%", "2", "-1%", "5 %", "nan", "1e-3"}) EXPECT_FALSE(parse_share(text)) << text;
}

TEST(QuantityText, ReadsDurationsWithAUnitOnly) {
  EXPECT_EQ(parse_duration("2m"), milliseconds{120'000});
  EXPECT_EQ(parse_duration("1.5s"), milliseconds{1500});
  EXPECT_EQ(parse_duration("0s"), milliseconds{0});
  EXPECT_EQ(parse_duration("7d"), milliseconds{604'800'000});
  for (const char* text : {"", "2", "s", "-2s", "2 s", "2min", "999999d"}) EXPECT_FALSE(parse_duration(text)) << text;
}

TEST(QuantityText, WritesExactlyWhatItReadsBack) {
  for (const Bytes size : {Bytes{0}, Bytes{1}, 4_KiB, 1536_MiB, 3_TiB, Bytes{4097}})
    EXPECT_EQ(parse_bytes(exact_text(size)), size);
  for (const int ms : {0, 1, 1000, 1500, 120'000, 86'400'000})
    EXPECT_EQ(parse_duration(exact_text(milliseconds{ms})), milliseconds{ms});
  EXPECT_EQ(share_text(0.005), "0.5%");
  EXPECT_EQ(share_text(0.25), "25%");
  EXPECT_EQ(share_text(1), "100%");
}

TEST(QuantityText, ShortFormFitsATable) {
  EXPECT_EQ(short_text(Bytes{}), "0");
  EXPECT_EQ(short_text(Bytes{1023}), "1023B");
  EXPECT_EQ(short_text(8_GiB), "8.0G");
  EXPECT_EQ(short_text(412_MiB), "412M");
  EXPECT_EQ(short_text(1023_MiB), "1.0G");
  EXPECT_EQ(short_text(Bytes{~0ull}), "16.0E");
}

TEST(Nearest, FindsAMisspelling) {
  const std::vector<std::string> known{"socket", "metrics", "audit_log"};
  EXPECT_EQ(nearest("sockte", known), "socket");
  EXPECT_EQ(nearest("metric", known), "metrics");
  EXPECT_FALSE(nearest("zebra", known));
  EXPECT_FALSE(nearest(std::string(100000, 'x'), known));
}

TEST(Nearest, CountsASwapAsOneEdit) {
  EXPECT_EQ(edit_distance("ab", "ba"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
}

TEST(Utf8, ValidTextPassesUnchanged) {
  for (const char* text : {"", "plain", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x8c\x8a", "\xf4\x8f\xbf\xbf"})
    EXPECT_EQ(to_valid_utf8(text), text);
}

TEST(Utf8, EveryInvalidByteIsReplaced) {
  const std::string mark = "\xEF\xBF\xBD";
  EXPECT_EQ(to_valid_utf8("a\xff"), "a" + mark);
  EXPECT_EQ(to_valid_utf8("\xc3"), mark);                                   // cut off
  EXPECT_EQ(to_valid_utf8("\xc0\xaf"), mark + mark);                        // overlong
  EXPECT_EQ(to_valid_utf8("\xe0\x80\xaf"), mark + mark + mark);             // overlong
  EXPECT_EQ(to_valid_utf8("\xed\xa0\x80"), mark + mark + mark);             // surrogate
  EXPECT_EQ(to_valid_utf8("\xf4\x90\x80\x80"), mark + mark + mark + mark);  // beyond U+10FFFF
  EXPECT_EQ(to_valid_utf8("\xe2\x82"
                          "b"),
            mark + mark + "b");
}

TEST(Printable, KeepsWhatOnlyShows) {
  for (const char* text : {"", "web-3 (pid 7)", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x8c\x8a"})
    EXPECT_EQ(printable(text), text);
}

TEST(Printable, TakesOutWhatATerminalObeys) {
  EXPECT_EQ(printable("a\x1b[2Jb\n\r\t\x7f"), "a?[2Jb????");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            "?31m");  // CSI as one character
  EXPECT_EQ(printable("\x9b"
                      "31m"),
            "?31m");  // and as a bare byte
  EXPECT_EQ(printable("\xe2\x80\xae"
                      "gpj"),
            "?gpj");                          // right-to-left override
  EXPECT_EQ(printable("\xe2\x80\xa8"), "?");  // line separator
}

}  // namespace
}  // namespace tidepool
