// Endpoints, paths and queries.
#include <gtest/gtest.h>

#include <array>

#include "service/http/endpoint.h"
#include "service/http/target.h"

namespace tidepool::http {
namespace {

TEST(Endpoint, ReadsWhatItWrites) {
  for (const char* text : {"unix:/run/x.sock", "http://127.0.0.1:2379", "https://[2001:db8::1]:9843",
                           "https://controller-1.example:65535"}) {
    const Result<Endpoint> endpoint = Endpoint::parse(text);
    ASSERT_TRUE(endpoint) << endpoint.error().message();
    EXPECT_EQ(endpoint->text(), text);
  }
  EXPECT_EQ(Endpoint::parse("http://a:1/")->text(), "http://a:1");
}

TEST(Endpoint, RefusesWhatIsNone) {
  for (const std::string& text :
       {std::string(), std::string("unix:"), std::string("127.0.0.1:1"), std::string("http://a"),
        std::string("http://a:0"), std::string("http://a:65536"), std::string("http://a:-1"), std::string("http://:80"),
        std::string("https://::1:80"), std::string("https://a b:80"), std::string("https://a:80/path"),
        std::string("https://a\n:80"), std::string("ftp://a:80"), "unix:/" + std::string(107, 'x'),
        "http://" + std::string(300, 'a') + ":80"})
    EXPECT_FALSE(Endpoint::parse(text)) << text;
}

TEST(Target, PathsMatchSegmentBySegment) {
  EXPECT_TRUE(matches("/v1/vms/{host}/{vm}", "/v1/vms/a/b%2Fc"));
  EXPECT_FALSE(matches("/v1/vms/{host}/{vm}", "/v1/vms/a"));
  EXPECT_FALSE(matches("/v1/vms/{host}/{vm}", "/v1/vms//b"));
  EXPECT_FALSE(matches("/v1/vms", "/v1/vms/a"));
  const auto values = path_values("/v1/vms/{host}/{vm}", "/v1/vms/a/b%2Fc");
  ASSERT_TRUE(values);
  EXPECT_EQ(values->at("host"), "a");
  EXPECT_EQ(values->at("vm"), "b/c");
  EXPECT_FALSE(path_values("/v1/{x}", "/v1/%zz"));
  EXPECT_FALSE(path_values("/v1/{x}", "/v1/a%00"));
}

TEST(Target, QueriesAreKnownAndComeOnce) {
  static constexpr std::array<std::string_view, 2> kKnown{"plan", "after"};
  const auto values = query_values("/x?plan=true&after=a%20b", kKnown, "");
  ASSERT_TRUE(values);
  EXPECT_EQ(values->at("after"), "a b");
  EXPECT_TRUE(query_values("/x", kKnown, "")->empty());
  EXPECT_FALSE(query_values("/x?other=1", kKnown, ""));
  EXPECT_FALSE(query_values("/x?plan=1&plan=2", kKnown, ""));
  EXPECT_FALSE(query_values("/x?plan=%", kKnown, ""));
}

TEST(Target, PercentCodingIsReversible) {
  std::string all;
  for (int c = 1; c < 256; ++c) all += static_cast<char>(c);
  EXPECT_EQ(percent_decoded(percent_encoded(all)), all);
}

}  // namespace
}  // namespace tidepool::http
