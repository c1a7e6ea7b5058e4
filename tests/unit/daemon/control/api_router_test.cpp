// Routes, documents and errors, without sockets.
#include "daemon/control/api_router.h"

#include <gtest/gtest.h>

#include <array>
#include <boost/json.hpp>
#include <fstream>
#include <random>
#include <set>
#include <sstream>

#include "daemon/control/api_json.h"
#include "tests/integration/control/fake_agent.h"

namespace tidepool::daemon::testing {
namespace {

namespace json = boost::json;
using namespace literals;

class Router : public ::testing::Test {
 protected:
  Router() {
    agent_.add_vm(example_vm("web-3"));
    agent_.add_vm(example_vm("web-30"));
    agent_.add_vm(example_vm("a b/c"));
  }

  ApiResponse ask(std::string method, std::string target, std::string body = "", std::string if_match = "") {
    last_ = answer({std::move(method), std::move(target), std::move(body), std::move(if_match), {}}, agent_);
    return last_;
  }

  json::value document() const { return json::parse(last_.body); }
  std::string error_code() const { return std::string(document().at("error").at("code").as_string()); }
  std::string remedy() const { return std::string(document().at("error").at("remedy").as_string()); }

  FakeAgent agent_;
  ApiResponse last_;
};

TEST_F(Router, EveryReadingRouteAnswersWithJson) {
  for (const ApiRoute& route : api_routes()) {
    if (route.method != "GET" || route.pattern.find("{id}") != std::string_view::npos) continue;
    std::string target(route.pattern);
    if (const std::size_t at = target.find("{vm}"); at != std::string::npos) target.replace(at, 4, "web-3");
    EXPECT_EQ(ask("GET", target).status, 200u) << target << last_.body;
    EXPECT_TRUE(document().is_object()) << target;
  }
}

TEST_F(Router, OnlyReadingRoutesAndTheCheckGoUnaudited) {
  for (const ApiRoute& route : api_routes())
    EXPECT_EQ(route.changes, route.method != "GET" && route.pattern != "/v1/adoption-check") << route.pattern;
}

TEST_F(Router, UnknownPathsAndMethodsAreToldApart) {
  EXPECT_EQ(ask("GET", "/").status, 404u);
  EXPECT_EQ(ask("GET", "/v2/vms").status, 404u);
  EXPECT_EQ(ask("GET", "/v1/vms/a/b/c").status, 404u);
  EXPECT_EQ(ask("PUT", "/v1/vms").status, 405u);
  EXPECT_EQ(last_.allow, "GET, POST");
  EXPECT_EQ(ask("get", "/v1/vms").status, 405u);
  EXPECT_EQ(ask("GET", "").status, 404u);
}

TEST_F(Router, NamesArePercentDecodedAndUuidsAccepted) {
  EXPECT_EQ(ask("GET", "/v1/vms/a%20b%2Fc").status, 200u) << last_.body;
  EXPECT_EQ(document().at("name").as_string(), "a b/c");
  EXPECT_EQ(ask("GET", "/v1/vms/" + example_vm("web-3").uuid).status, 200u);
  EXPECT_EQ(ask("GET", "/v1/vms/web%2").status, 400u);
  EXPECT_EQ(ask("GET", "/v1/vms/web%zz").status, 400u);
  EXPECT_EQ(ask("GET", "/v1/vms/web%00").status, 400u);
  EXPECT_EQ(ask("GET", "/v1/vms/nobody").status, 404u);
  EXPECT_EQ(error_code(), "not_found");
  EXPECT_NE(remedy().find("vm list"), std::string::npos);
}

TEST_F(Router, ListIsPagedByName) {
  ask("GET", "/v1/vms?limit=2");
  EXPECT_EQ(document().at("items").as_array().size(), 2u);
  const std::string cursor(document().at("next_cursor").as_string());
  EXPECT_EQ(cursor, "web-3");
  ask("GET", "/v1/vms?limit=2&cursor=" + cursor);
  ASSERT_EQ(document().at("items").as_array().size(), 1u);
  EXPECT_EQ(document().at("items").at(0).at("name").as_string(), "web-30");
  EXPECT_TRUE(document().at("next_cursor").is_null());
  EXPECT_EQ(ask("GET", "/v1/vms?limit=0").status, 400u);
  EXPECT_EQ(ask("GET", "/v1/vms?limit=1001").status, 400u);
  EXPECT_EQ(ask("GET", "/v1/vms?limit=x").status, 400u);
  EXPECT_EQ(ask("GET", "/v1/vms?colour=red").status, 400u);
}

TEST_F(Router, LogsAreReadFromASequenceOn) {
  ask("GET", "/v1/vms/web-3/events?since=3&limit=1");
  ASSERT_EQ(document().at("items").as_array().size(), 1u);
  EXPECT_EQ(document().at("items").at(0).at("sequence").to_number<int>(), 4);
  EXPECT_EQ(document().at("last_sequence").to_number<int>(), 5);
  ask("GET", "/v1/decisions?vm=web-3");
  EXPECT_EQ(document().at("items").as_array().size(), 3u);
}

TEST_F(Router, MemoryStatesAddUpToWhatWasPromised) {
  ask("GET", "/v1/vms/web-3");
  const json::object memory = document().at("memory").as_object();
  std::uint64_t sum = 0;
  for (const char* state :
       {"untouched", "resident", "clean_copy", "moving_out", "far", "fetching", "released", "excluded"})
    sum += memory.at(std::string(state) + "_bytes").to_number<std::uint64_t>();
  EXPECT_EQ(memory.at("promised_bytes").to_number<std::uint64_t>(), sum);
  EXPECT_GT(sum, 0u);
}

TEST_F(Router, BytesBeyondDoublePrecisionStayExact) {
  VmStatus vm = example_vm("big");
  vm.memory = {};
  vm.memory.far = Bytes{9007199254740993ull};
  agent_.add_vm(vm);
  ask("GET", "/v1/vms/big");
  EXPECT_NE(last_.body.find("\"far_bytes\":9007199254740993"), std::string::npos) << last_.body;
}

TEST_F(Router, NamesThatAreNotUtf8StillGiveJson) {
  VmStatus vm = example_vm("bad");
  vm.exe = "/opt/\xff\xfe/\xc3\xa4";
  agent_.add_vm(vm);
  ask("GET", "/v1/vms/bad");
  EXPECT_EQ(document().at("exe").as_string(), "/opt/\xEF\xBF\xBD\xEF\xBF\xBD/\xc3\xa4");
}

TEST_F(Router, SettingsAreReadAsBytesOrText) {
  EXPECT_EQ(ask("PATCH", "/v1/vms/web-3",
                R"({"guarantee": "25%", "stall_budget": 0.02, "min_cold_age": "90s", "limit": null})")
                .status,
            200u);
  const VmSettings settings = agent_.last_settings();
  EXPECT_EQ(settings.guarantee, Amount::part(0.25));
  EXPECT_DOUBLE_EQ(*settings.stall_budget, 0.02);
  EXPECT_EQ(settings.min_cold_age, std::chrono::seconds(90));
  EXPECT_TRUE(settings.no_limit);
  EXPECT_FALSE(settings.mode);
  EXPECT_EQ(ask("PATCH", "/v1/vms/web-3", R"({"guarantee": 4096})").status, 200u);
  EXPECT_EQ(agent_.last_settings().guarantee, Amount::of(4_KiB));
}

TEST_F(Router, RepeatedChangeChangesNothing) {
  ask("PATCH", "/v1/vms/web-3", R"({"guarantee": "1GiB"})");
  EXPECT_EQ(document().at("changes").as_array().size(), 1u);
  ask("PATCH", "/v1/vms/web-3", R"({"guarantee": "1GiB"})");
  EXPECT_EQ(last_.status, 200u);
  EXPECT_TRUE(document().at("changes").as_array().empty());
}

TEST_F(Router, PlanShowsARefusalThatTheChangeMeets) {
  ask("PATCH", "/v1/vms/web-3?plan=true", R"({"guarantee": "9GiB"})");
  EXPECT_EQ(last_.status, 200u);
  EXPECT_FALSE(document().at("allowed").as_bool());
  ask("PATCH", "/v1/vms/web-3", R"({"guarantee": "9GiB"})");
  EXPECT_EQ(last_.status, 422u);
  EXPECT_EQ(error_code(), "refused");
  EXPECT_EQ(remedy(), "Try: --guarantee 8GiB");
  EXPECT_EQ(ask("PATCH", "/v1/vms/web-3?plan=maybe", R"({"guarantee": "1GiB"})").status, 400u);
}

TEST_F(Router, EtagGuardsAgainstLostUpdates) {
  const std::string seen = ask("GET", "/v1/vms/web-3").etag;
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(ask("PATCH", "/v1/vms/web-3", R"({"guarantee": "1GiB"})", seen).status, 200u);
  EXPECT_NE(last_.etag, seen);
  EXPECT_EQ(ask("PATCH", "/v1/vms/web-3", R"({"guarantee": "3GiB"})", seen).status, 412u);
  EXPECT_EQ(ask("PATCH", "/v1/vms/web-3", R"({"guarantee": "3GiB"})", "*").status, 200u);
}

TEST_F(Router, BodiesThatMakeNoSenseNameTheField) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "not JSON"},
      {"[1]", "object"},
      {"{\"guarantee\": }", "not JSON"},
      {"{}", "at least one"},
      {R"({"guarante": 1})", "did you mean 'guarantee'"},
      {R"({"guarantee": -1})", "size such as"},
      {R"({"guarantee": "lots"})", "size such as"},
      {R"({"mode": "fast"})", "observe"},
      {R"({"stall_budget": 2})", "share"},
      {R"({"min_cold_age": 5})", "duration"},
      {std::string(4000, '['), "not JSON"},
  };
  for (const auto& [body, words] : cases) {
    EXPECT_EQ(ask("PATCH", "/v1/vms/web-3", body).status, 400u) << body;
    EXPECT_NE(last_.body.find(words), std::string::npos) << body.substr(0, 50) << " -> " << last_.body;
  }
}

TEST_F(Router, AdoptionNamesItsTargetOnce) {
  for (const char* body :
       {"{}", R"({"pid": 1, "domain": "x"})", R"({"pid": 0})", R"({"pid": -4})", R"({"pid": 99999999999})",
        R"({"pid": 1, "mapping": {"range": {"start": 4096, "end": 4096}}})",
        R"({"pid": 1, "mapping": {"range": {"start": 1, "end": 4096}}})", R"({"pid": 1, "mapping": {"colour": 1}})",
        R"({"pid": 1, "force": "vfio"})", R"({"pid": 1, "name": "a/b"})"})
    EXPECT_EQ(ask("POST", "/v1/vms", body).status, 400u) << body;
  EXPECT_EQ(ask("POST", "/v1/vms",
                R"({"pid": 7, "mapping": {"range": {"start": 4096, "end": 8192}}, "force": ["a"], "mode": "active"})")
                .status,
            202u);
  EXPECT_EQ(agent_.last_adoption().mapping.range, (AddressRange{4096, 8192}));
  EXPECT_EQ(agent_.last_adoption().settings.mode, Mode::kActive);
  EXPECT_EQ(last_.location, "/v1/operations/op-1");
}

TEST_F(Router, RecordingIsReadWithItsBounds) {
  for (const char* body :
       {"", "{}", R"({"file": ""})", R"({"file": "here"})", R"({"file": 1})", R"({"file": "/a\u0000b"})",
        R"({"file": "/x", "duration": "0s"})", R"({"file": "/x", "duration": "25h"})",
        R"({"file": "/x", "duration": 60})", R"({"file": "/x", "max_size": 1000})",
        R"({"file": "/x", "max_size": "65GiB"})", R"({"file": "/x", "maxsize": 1})"})
    EXPECT_EQ(ask("POST", "/v1/vms/web-3/recording", body).status, 400u) << body;
  EXPECT_EQ(ask("POST", "/v1/vms/web-3/recording", R"({"file": "/x", "duration": "24h", "max_size": "2MiB"})").status,
            202u);
  EXPECT_EQ(last_.location, "/v1/operations/op-1");
  EXPECT_EQ(document().at("kind").as_string(), "record");
  EXPECT_EQ(agent_.last_recording().duration, std::chrono::hours(24));
  EXPECT_EQ(agent_.last_recording().max_size, 2_MiB);
  EXPECT_EQ(ask("DELETE", "/v1/vms/web-3/recording").status, 200u);
  EXPECT_EQ(ask("DELETE", "/v1/vms/web-3/recording").status, 404u);
  EXPECT_EQ(ask("POST", "/v1/vms/nobody/recording", R"({"file": "/x"})").status, 404u);
  EXPECT_EQ(ask("POST", "/v1/vms/web-3/recording", R"({"file": "/exists"})").status, 409u);
}

TEST_F(Router, RefusedAdoptionCarriesItsFindings) {
  EXPECT_EQ(ask("POST", "/v1/vms", R"({"pid": 13})").status, 422u);
  const json::value error = document().at("error");
  EXPECT_EQ(error.at("message").as_string(), "VFIO group 12 pins this memory");
  EXPECT_EQ(error.at("findings").at(0).at("code").as_string(), "vfio");
  EXPECT_EQ(ask("POST", "/v1/adoption-check", R"({"pid": 13})").status, 200u);
  EXPECT_FALSE(document().at("eligible").as_bool());
  EXPECT_EQ(ask("POST", "/v1/vms", R"({"pid": 404})").status, 404u);
  EXPECT_EQ(ask("POST", "/v1/vms", R"({"pid": 7, "name": "web-3"})").status, 409u);
}

TEST_F(Router, OperationIsFollowedToItsEnd) {
  ask("DELETE", "/v1/vms/web-3");
  EXPECT_EQ(last_.status, 202u);
  EXPECT_FALSE(document().at("finished").as_bool());
  ask("GET", last_.location);
  EXPECT_DOUBLE_EQ(document().at("progress").to_number<double>(), 0.5);
  ask("GET", "/v1/operations/op-1");
  EXPECT_EQ(document().at("state").as_string(), "succeeded");
  EXPECT_EQ(ask("GET", "/v1/operations/op-9").status, 404u);
}

TEST_F(Router, SicknessShowsInTheStatus) {
  EXPECT_EQ(ask("GET", "/v1/health").status, 200u);
  agent_.set_healthy(false);
  EXPECT_EQ(ask("GET", "/v1/health").status, 503u);
  EXPECT_EQ(document().at("checks").at(1).at("detail").as_string(), "does not answer");
}

TEST_F(Router, DamagedRequestsNeverCrash) {
  const unsigned seed = std::random_device{}();
  std::mt19937 random(seed);
  const std::string body = R"({"pid": 7, "name": "x", "mapping": {"at_least": "1MiB"}, "force": ["a"], "limit": null})";
  for (int round = 0; round < 5000; ++round) {
    std::string damaged = body;
    for (int edits = 0; edits < 3; ++edits) damaged[random() % damaged.size()] = static_cast<char>(random());
    const ApiResponse response = ask("POST", "/v1/adoption-check?" + damaged.substr(0, random() % 5), damaged);
    EXPECT_TRUE(response.status == 200 || response.status == 400) << "seed " << seed << " " << damaged;
  }
}

std::string trim(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" `");
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" `") - first + 1);
}

TEST(ApiDocument, ListsEveryRouteAndNoOther) {
  std::ifstream file(TIDEPOOL_SOURCE_DIR "/docs/api.md");
  std::set<std::string> described;
  for (std::string line; std::getline(file, line);) {
    std::istringstream cells(line);
    std::array<std::string, 3> cell;
    for (std::string& each : cell) std::getline(cells, each, '|');
    if (!trim(cell[2]).starts_with("/v1/")) continue;
    EXPECT_TRUE(described.insert(trim(cell[1]) + " " + trim(cell[2])).second) << line;
  }
  std::set<std::string> known;
  for (const ApiRoute& route : api_routes()) known.insert(std::string(route.method) + " " + std::string(route.pattern));
  EXPECT_EQ(described, known);
}

}  // namespace
}  // namespace tidepool::daemon::testing
