#include "kmod-interfaces/proc_text.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "tests/unit/kmod-interfaces/kernel_tree.h"

namespace tidepool::kernel {
namespace {

TEST(ProcText, NumbersAreWholeOrNothing) {
  EXPECT_EQ(parse_decimal("42"), 42u);
  EXPECT_EQ(parse_decimal("18446744073709551615"), UINT64_MAX);
  for (const char* bad : {"", " 1", "1 ", "-1", "+1", "0x1", "1.5", "18446744073709551616", "99999999999999999999999"})
    EXPECT_EQ(parse_decimal(bad), std::nullopt) << bad;
  EXPECT_EQ(parse_hex("ffffffffff600000"), 0xffffffffff600000ull);
  EXPECT_EQ(parse_hex("g"), std::nullopt);
  EXPECT_EQ(parse_octal("02140002"), 02140002u);
  EXPECT_EQ(parse_octal("8"), std::nullopt);
}

TEST(ProcText, KilobytesThatDoNotFitAreRefused) {
  EXPECT_EQ(parse_kilobytes("   12 kB"), Bytes{12288});
  EXPECT_EQ(parse_kilobytes("18014398509481983 kB"), Bytes{18014398509481983ull << 10});
  EXPECT_EQ(parse_kilobytes("18014398509481984 kB"), std::nullopt);
  EXPECT_EQ(parse_kilobytes("kB"), std::nullopt);
}

TEST(ProcText, NumberListsStopAtNonsense) {
  EXPECT_EQ(parse_number_list("0-2,5\n"), (std::vector<unsigned>{0, 1, 2, 5}));
  EXPECT_EQ(parse_number_list(""), std::vector<unsigned>{});
  EXPECT_EQ(parse_number_list("1,x,3"), (std::vector<unsigned>{1}));
  EXPECT_EQ(parse_number_list("5-1"), std::vector<unsigned>{});
  EXPECT_EQ(parse_number_list("0-4294967295", 8).size(), 8u);
}

TEST(ProcText, BracketsNameTheChoice) {
  EXPECT_EQ(parse_bracketed("always [madvise] never"), "madvise");
  EXPECT_EQ(parse_bracketed("always madvise"), std::nullopt);
  EXPECT_EQ(parse_bracketed("]["), std::nullopt);
}

TEST(ProcText, PrintableIsOneBoundedLine) {
  EXPECT_EQ(printable("a\nb\x1b[31m\xff"), "a?b?[31m?");
  EXPECT_EQ(printable(std::string(500, 'x'), 10).size(), 10u);
}

TEST(ProcText, FilesBeyondTheLimitAreAnErrorThatNamesThem) {
  KernelTree tree;
  tree.write("proc/long", std::string(1000, 'x'));
  EXPECT_EQ(read_file(tree.path_of("proc/long"))->size(), 1000u);
  const auto refused = read_file(tree.path_of("proc/long"), 999);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, std::errc::file_too_large);
  EXPECT_NE(refused.error().message().find("proc/long"), std::string::npos);
  EXPECT_EQ(read_file(tree.path_of("proc/absent")).error().code, std::errc::no_such_file_or_directory);
}

TEST(ProcText, LinesAreCutAtTheLimitAndNothingIsLostBehindThem) {
  KernelTree tree;
  tree.write("proc/lines", "first\n" + std::string(kMaxLine * 4, 'x') + "\n\nlast");
  auto fd = open_at(AT_FDCWD, tree.path_of("proc/lines"), O_RDONLY, "lines");
  ASSERT_TRUE(fd);
  std::vector<std::string> lines;
  ASSERT_TRUE(for_each_line(fd->get(), "lines", 100, [&](std::string_view line) {
    lines.emplace_back(line);
    return true;
  }));
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0], "first");
  EXPECT_EQ(lines[1].size(), kMaxLine);
  EXPECT_EQ(lines[2], "");
  EXPECT_EQ(lines[3], "last");
}

TEST(ProcText, TooManyLinesAreAnErrorAndAVisitorMayStopEarly) {
  KernelTree tree;
  std::string text;
  for (int i = 0; i < 50; ++i) text += "x\n";
  tree.write("proc/lines", text);
  auto fd = open_at(AT_FDCWD, tree.path_of("proc/lines"), O_RDONLY, "lines");
  ASSERT_TRUE(fd);
  const auto refused = for_each_line(fd->get(), "lines", 49, [](std::string_view) { return true; });
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, std::errc::file_too_large);
  auto again = open_at(AT_FDCWD, tree.path_of("proc/lines"), O_RDONLY, "lines");
  int seen = 0;
  EXPECT_TRUE(for_each_line(again->get(), "lines", 49, [&](std::string_view) { return ++seen < 3; }));
  EXPECT_EQ(seen, 3);
}

TEST(ProcText, DirectoriesAreListedWithinALimit) {
  KernelTree tree;
  for (const char* name : {"proc/10", "proc/9", "proc/self", "proc/010x"}) tree.make_directory(name);
  EXPECT_EQ(list_numbers_at(AT_FDCWD, tree.roots().proc, "proc", 10).value(), (std::vector<std::uint64_t>{9, 10}));
  EXPECT_EQ(list_numbers_at(AT_FDCWD, tree.roots().proc, "proc", 1).error().code, std::errc::file_too_large);
  EXPECT_EQ(list_directory(tree.roots().proc, 10)->size(), 4u);
}

}  // namespace
}  // namespace tidepool::kernel
