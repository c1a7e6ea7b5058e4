// Documents from people and programs: the configuration, bodies of API requests, hand-off messages, the agent's JSON as
// tidectl reads it.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <iterator>

#include "base/quantity_text.h"
#include "cli/document.h"
#include "daemon/control/api_json.h"
#include "daemon/control/api_router.h"
#include "daemon/control/config_loader.h"
#include "daemon/control/config_schema.h"
#include "daemon/vm/handoff_message.h"
#include "daemon/vm/mappings.h"
#include "policy/config.h"
#include "policy/utilisation.h"
#include "tests/fuzz/fuzz_driver.h"

namespace tidepool::daemon {
namespace {

using fuzz::Corpus;
using fuzz::Mutator;

const std::vector<std::string> kJsonTokens = {"{",
                                              "}",
                                              "[",
                                              "]",
                                              ",",
                                              ":",
                                              "\"",
                                              "null",
                                              "true",
                                              "false",
                                              "1e308",
                                              "-1",
                                              "0",
                                              "\\u0000",
                                              "\\ud800",
                                              "\xf0\x9f",
                                              "9223372036854775807",
                                              "18446744073709551616",
                                              " ",
                                              "\"name\":",
                                              "\"pid\":",
                                              "\"size\":"};

TEST(FuzzDocuments, Configuration) {
  std::ifstream file(TIDEPOOL_SOURCE_DIR "/systemd/tidepool.toml");
  const std::string installed{std::istreambuf_iterator<char>(file), {}};
  ASSERT_FALSE(installed.empty());
  const Corpus corpus{
      .inputs =
          {installed,
           "schema = 1\nmode = \"active\"\n[limits]\ntracker_cpu = \"2%\"\n[trackers]\nsoft_dirty = true\n"
           "[[rule]]\nmode = \"dry-run\"\nmatch.domain = \"web-*\"\nguarantee = \"50%\"\n"
           "[[rule]]\nmatch.exe = \"/usr/bin/qemu-system-*\"\nmatch.cgroup = \"/machine.slice/*\"\nlimit = \"4GiB\"\n"},
      .tokens = {"[", "]",   "[[rule]]\n", "=",          "\"", "'''", "\"\"\"", "\n",      "#",    "{",      "}",
                 ",", "inf", "nan",        "1979-05-27", "0x", "%",   "GiB",    "\\u0000", "\xff", "match.", "true"},
      .longest = 16u << 10};
  fuzz::fuzz(corpus, 2500, [](std::string_view text, Mutator&) {
    const ConfigCheck check = parse_config(text);
    ASSERT_LE(check.problems.size(), 1000u);
    for (const ConfigProblem& problem : check.problems) {
      ASSERT_FALSE(problem.message.empty());
      ASSERT_FALSE(problem.text("tidepool.toml").empty());
    }
  });
}

TEST(FuzzDocuments, ApiRequests) {
  const Corpus corpus{
      .inputs = {R"({"pid": 7, "name": "x", "mapping": {"at_least": "1MiB"}, "force": ["a"], "limit": null})",
                 R"({"mode": "active", "guarantee": "50%", "limit": "4GiB", "stall_budget": "1%", "class": "batch"})",
                 R"({"held": true, "reason": "backup"})",
                 R"({"file": "/var/log/tidepool/a.trace", "duration": "60s", "max_size": "64MiB"})",
                 R"({"frozen": false})", R"({"capacity": "8GiB"})"},
      .tokens = kJsonTokens,
      .longest = 8192};
  std::size_t accepted = 0;
  fuzz::fuzz(corpus, 20000, [&](std::string_view body, Mutator&) {
    const auto judged = [&](const auto& result) {
      accepted += result ? 1 : 0;
      ASSERT_TRUE(result || !result.error().message().empty());
    };
    judged(adopt_request_from(body));
    judged(vm_settings_from(body));
    judged(hold_request_from(body));
    judged(record_request_from(body));
    judged(frozen_from(body));
    judged(capacity_from(body));
  });
  EXPECT_GT(accepted, 100u);
}

TEST(FuzzDocuments, ApiTargets) {
  Corpus corpus{.inputs = {"/v1/vms/web-3?follow=true&limit=10", "/v1/operations/12", "/v1/vms/%2e%2e%2f/far"},
                .tokens = {"/", "?", "&", "=", "%", "%00", "..", "{vm}", "//"},
                .longest = 512};
  for (const ApiRoute& route : api_routes()) corpus.inputs.emplace_back(route.pattern);
  fuzz::fuzz(corpus, 10000, [](std::string_view target, Mutator&) {
    for (const char* method : {"GET", "POST", "PATCH", "DELETE"}) {
      const ApiRoute* route = find_route(method, target);
      ASSERT_TRUE(route == nullptr || !route->pattern.empty());
    }
  });
}

// Sizes, shares, durations, and what else is written as a word; the history that policy keeps over restarts.
TEST(FuzzDocuments, Words) {
  policy::Utilisation history;
  const Corpus corpus{
      .inputs = {"256MiB", "1.5GiB", "50%", "0.25", "2m", "1500ms", "4GiB/s", "at_least=1MiB",
                 "0x7f0000000000-0x7f0080000000", "path:/memfd:*", "auto", history.text(), "latency-sensitive"},
      .tokens = {"%", "GiB", "TiB", "KiB", "h", "ms", "-", ".", "e", "=", "0x", " ", "inf"},
      .longest = 4096};
  fuzz::fuzz(corpus, 20000, [](std::string_view text, Mutator&) {
    static_cast<void>(parse_bytes(text));
    if (const auto share = parse_share(text)) {
      ASSERT_GE(*share, 0);
      ASSERT_LE(*share, 1);
    }
    if (const auto duration = parse_duration(text)) {
      ASSERT_GE(duration->count(), 0);
    }
    static_cast<void>(parse_amount(text));
    static_cast<void>(parse_memory_selector(text));
    static_cast<void>(policy::parse_service_class(text));
    if (const auto read = policy::Utilisation::parse(text)) {
      ASSERT_TRUE(policy::Utilisation::parse(read->text()));
    }
  });
}

TEST(FuzzDocuments, HandoffMessages) {
  const Corpus corpus{
      .inputs = {R"([{"base_host_virt_addr":139667341107200,"size":268435456,"offset":0,"page_size":4096,)"
                 R"("page_size_kib":4096}])",
                 R"([{"base_host_virt_addr":4096,"size":4096,"offset":0},{"base_host_virt_addr":12288,"size":8192,)"
                 R"("offset":4096,"page_size":4096}])"},
      .tokens = kJsonTokens,
      .longest = 4096};
  std::size_t accepted = 0;
  fuzz::fuzz(corpus, 15000, [&](std::string_view text, Mutator& mutator) {
    // Cut anywhere, as it comes over a socket.
    HandoffMessage message;
    bool sound = true;
    for (std::size_t at = 0; sound && at < text.size();) {
      const std::size_t count = std::min<std::size_t>(text.size() - at, 1 + mutator.number(100));
      sound = message.add(text.substr(at, count)).has_value();
      at += count;
    }
    if (!sound || !message.complete()) return;
    const auto regions = message.regions();
    if (!regions) return;
    ++accepted;
    std::uint64_t end = 0;
    for (const HandoffRegion& region : *regions) {
      ASSERT_GE(region.addresses.start, end);
      ASSERT_LT(region.addresses.start, region.addresses.end);
      ASSERT_EQ(region.addresses.start % kPageSize + region.addresses.end % kPageSize, 0u);
      end = region.addresses.end;
    }
    ASSERT_LE(regions->size(), kMaxHandoffRegions);
  });
  EXPECT_GT(accepted, 100u);
}

TEST(FuzzDocuments, TheAgentsAnswersAsTidectlReadsThem) {
  const Corpus corpus{
      .inputs = {R"({"vms": [{"name": "web-3", "memory": {"far_bytes": 1073741824, "resident_bytes": 12},)"
                 R"( "stall": 0.01, "mode": "active", "held": false}], "next": null})",
                 R"({"kernel": "6.18", "rows": [{"verdict": "ok", "check": "a", "detail": "b", "hint": ""}]})"},
      .tokens = kJsonTokens,
      .longest = 8192};
  fuzz::fuzz(corpus, 8000, [](std::string_view text, Mutator&) {
    const auto document = cli::parse_document(text);
    if (!document) return;
    static_cast<void>(cli::to_json_line(*document));
    static_cast<void>(cli::to_pretty_json(*document));
    static_cast<void>(cli::to_yaml(*document));
    for (const char* path : {"vms", "memory.far_bytes", "rows.0.check", ""}) {
      static_cast<void>(cli::text_at(*document, path));
      static_cast<void>(cli::number_at(*document, path));
      static_cast<void>(cli::ratio_at(*document, path));
      static_cast<void>(cli::flag_at(*document, path));
      static_cast<void>(cli::size_at(*document, path));
    }
  });
}

}  // namespace
}  // namespace tidepool::daemon
