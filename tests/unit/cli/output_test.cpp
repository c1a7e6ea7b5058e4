// What tidectl makes of documents and words, without an agent.
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "cli/api_client.h"
#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/document.h"
#include "cli/table.h"

namespace tidepool::cli {
namespace {

namespace json = boost::json;

TEST(Table, ColumnsLineUpWhateverTheyHold) {
  Table table({"NAME", "FAR"});
  table.add({"web-3", "2.9G"});
  table.add({"\xc3\xa4\xc3\xb6", "1K"});  // two letters in four bytes
  EXPECT_EQ(table.text(false), "NAME   FAR\nweb-3  2.9G\n\xc3\xa4\xc3\xb6     1K\n");
}

TEST(Table, ColourDoesNotCountAsWidth) {
  Table table({});
  table.add({Cell("ok", Paint::kGood), "x"});
  table.add({Cell("fail", Paint::kBad), "y"});
  EXPECT_EQ(table.text(true), "\x1b[32mok\x1b[0m    x\n\x1b[31mfail\x1b[0m  y\n");
  EXPECT_EQ(table.text(false), "ok    x\nfail  y\n");
}

TEST(Table, ControlCharactersAreNotPassedOn) {
  Table table({});
  table.add({"a\x1b[2Jb\n\x7f",
             "\xc2\x9b"
             "31m"});
  EXPECT_EQ(table.text(false), "a?[2Jb??  ?31m\n");
}

TEST(Document, NothingThatATerminalObeysIsLeftInJsonAndYaml) {
  const json::value document{{"name",
                              "a\x1b[2J\x7f\xc2\x9b"
                              "31m\xe2\x80\xae\xc3\xa4"},
                             {"list", {"\xc2\x85"}}};
  for (const std::string& text : {to_pretty_json(document), to_json_line(document)}) {
    EXPECT_EQ(json::parse(text), document) << text;
    EXPECT_NE(text.find("\\u009b31m\\u202e\xc3\xa4"), std::string::npos) << text;
    EXPECT_NE(text.find("\"\\u0085\""), std::string::npos) << text;
  }
  EXPECT_NE(to_yaml(document).find("\\u009b31m\\u202e\xc3\xa4"), std::string::npos) << to_yaml(document);
}

TEST(Document, PathsThatLeadNowhereReadAsNothing) {
  const json::value document = json::parse(R"({"a": {"b": 5, "n": null}, "list": [1]})");
  EXPECT_EQ(number_at(document, "a.b"), 5u);
  EXPECT_EQ(number_at(document, "a.b.c"), 0u);
  EXPECT_EQ(number_at(document, "list.x"), 0u);
  EXPECT_EQ(text_at(document, "a.n"), "");
  EXPECT_EQ(size_at(document, "a.missing"), "-");
  EXPECT_FALSE(flag_at(document, "a"));
}

TEST(Document, NegativeSizesKeepTheirSign) {
  const json::value document{{"saved", -1073741824}};
  EXPECT_EQ(size_at(document, "saved"), "-1.0G");
}

TEST(Document, NumbersStayExactAndReadable) {
  const json::value document =
      json::parse(R"({"far": 18446744073709551615, "stall": 0.004, "rate": 120.0, "tiny": 1e-7})");
  const std::string text = to_pretty_json(document);
  EXPECT_NE(text.find("18446744073709551615"), std::string::npos);
  EXPECT_NE(text.find("\"stall\": 0.004"), std::string::npos) << text;
  EXPECT_NE(text.find("\"rate\": 120.0"), std::string::npos) << text;
  EXPECT_NE(text.find("\"tiny\": 0.0000001"), std::string::npos) << text;
  EXPECT_EQ(json::parse(text), document);
}

TEST(Document, YamlQuotesWhatItWouldMisread) {
  const json::value document = json::parse(
      R"({"a": "yes", "b": "web-3", "c": "1.0", "d": "x: y", "e": [], "f": [{"g": 1, "h": [2]}], "i": ""})");
  EXPECT_EQ(to_yaml(document),
            "a: \"yes\"\nb: web-3\nc: \"1.0\"\nd: \"x: y\"\ne: []\nf:\n  - g: 1\n    h:\n      - 2\ni: \"\"\n");
}

TEST(Arguments, MappingIsARangeASizeOrAPattern) {
  EXPECT_EQ(json::serialize(*mapping_from("7f00000-7f01000")), R"({"range":{"start":133169152,"end":133173248}})");
  EXPECT_EQ(json::serialize(*mapping_from(">=64MiB")), R"({"at_least":67108864})");
  EXPECT_EQ(json::serialize(*mapping_from("/memfd:*")), R"({"name":"/memfd:*"})");
  EXPECT_EQ(json::serialize(*mapping_from("memory-backend")), R"({"name":"memory-backend"})");
  EXPECT_FALSE(mapping_from("2000-1000"));
  EXPECT_FALSE(mapping_from("1000-1001"));
  EXPECT_FALSE(mapping_from(">=much"));
  EXPECT_FALSE(mapping_from(""));
}

TEST(Arguments, NamesAreEncodedForPaths) {
  EXPECT_EQ(percent_encoded("web-3_x.y~"), "web-3_x.y~");
  EXPECT_EQ(percent_encoded("a b/c?d#\xc3\xa4"), "a%20b%2Fc%3Fd%23%C3%A4");
}

TEST(Completion, KnowsThreeShells) {
  CompletionTree tree;
  tree[""].words = {"vm", "--yes"};
  tree["vm show"].takes_vm = true;
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const auto script = completion_script(shell, tree);
    ASSERT_TRUE(script) << shell;
    EXPECT_NE(script->find("vm list -q"), std::string::npos) << shell;
  }
  EXPECT_FALSE(completion_script("tcsh", tree));
}

}  // namespace
}  // namespace tidepool::cli
