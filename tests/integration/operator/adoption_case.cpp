#include "tests/integration/operator/adoption_case.h"

#include <sys/stat.h>

#include <boost/json.hpp>
#include <cstdio>
#include <fstream>

namespace tidepool::tests {

namespace json = boost::json;

void AdoptionCase::SetUp() {
  if (const std::string why = why_no_agent(); !why.empty()) GTEST_SKIP() << why;
}

void AdoptionCase::start(const Settings& settings) {
  agent_ = std::make_unique<AgentProcess>(settings);
  ASSERT_TRUE(agent_->start());
  remember();
}

Outcome AdoptionCase::adopt(pid_t pid, AddressRange range, const Words& more) {
  Words words{"vm", "adopt", "--pid", std::to_string(pid)};
  if (!range.empty()) words.insert(words.end(), {"--mapping", text_of(range)});
  words.insert(words.end(), more.begin(), more.end());
  return agent_->tidectl(words);
}

std::string AdoptionCase::adopt_whole(pid_t pid, AddressRange range, const Words& more) {
  Words with{"-o", "json"};
  with.insert(with.end(), more.begin(), more.end());
  const Outcome outcome = adopt(pid, range, with);
  EXPECT_EQ(outcome.code, 0) << outcome.all();
  if (outcome.code != 0) return {};
  return std::string(json::parse(outcome.out).at("vm").as_string());
}

std::size_t AdoptionCase::vms() {
  return ask({"vm", "list"}).at("items").as_array().size();
}

json::value AdoptionCase::ask(Words words, int code) {
  words.insert(words.end(), {"-o", "json"});
  const Outcome outcome = agent_->tidectl(words);
  EXPECT_EQ(outcome.code, code) << outcome.all();
  boost::system::error_code error;
  json::value document = json::parse(outcome.out, error);
  EXPECT_FALSE(error) << outcome.all();
  return document;
}

void AdoptionCase::remember() {
  // Connections of tidectl close a moment after its end.
  agent_descriptors_ = 0;
  EXPECT_TRUE(await([&] {
    const std::size_t now = open_descriptors(agent_->pid());
    const bool same = now == agent_descriptors_;
    agent_descriptors_ = now;
    return same;
  }));
  keeper_descriptors_ = open_descriptors(agent_->keeper());
}

void AdoptionCase::expect_as_remembered() {
  EXPECT_TRUE(await([&] { return open_descriptors(agent_->pid()) == agent_descriptors_; }))
      << "the agent had " << agent_descriptors_ << " descriptors and has " << open_descriptors(agent_->pid());
  EXPECT_TRUE(await([&] { return open_descriptors(agent_->keeper()) == keeper_descriptors_; }))
      << "the keeper had " << keeper_descriptors_ << " descriptors and has " << open_descriptors(agent_->keeper());
  EXPECT_TRUE(agent_->running());
}

std::string text_of(AddressRange range) {
  char text[64];
  std::snprintf(text, sizeof text, "%llx-%llx", static_cast<unsigned long long>(range.start),
                static_cast<unsigned long long>(range.end));
  return text;
}

std::string helper_with(const TestFolder& folder, const std::string& hook) {
  const std::string path = folder / "helper";
  std::ofstream(path) << "#!/bin/sh\n" << hook << "\nexec " << bin_folder() << "/tidepool-adopt\n";
  ::chmod(path.c_str(), 0755);
  return path;
}

void expect_parts(const Outcome& outcome, int code, std::initializer_list<std::string> parts) {
  EXPECT_EQ(outcome.code, code) << outcome.all();
  for (const std::string& part : parts)
    EXPECT_NE(outcome.all().find(part), std::string::npos) << "wanted: " << part << "\n" << outcome.all();
}

}  // namespace tidepool::tests
