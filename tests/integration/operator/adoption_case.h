// What tests of adoption share: an agent, the ways to ask it, and a before to compare an after with.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "base/units.h"
#include "tests/support/agent_process.h"
#include "tests/support/process_state.h"

namespace boost::json {
class value;
}

namespace tidepool::tests {

inline constexpr std::size_t kMiB = 1u << 20;

class AdoptionCase : public testing::Test {
 protected:
  void SetUp() override;
  // The agent that all this is about; a test that needs other settings makes it itself.
  void start(const Settings& settings = {});

  AgentProcess& agent() { return *agent_; }
  // `vm adopt --pid PID`, with the memory of `range` unless that is empty.
  Outcome adopt(pid_t pid, AddressRange range = {}, const Words& more = {});
  Outcome release(const std::string& name) { return agent_->tidectl({"vm", "release", name}); }
  // Adopts and must succeed; the VM's name.
  std::string adopt_whole(pid_t pid, AddressRange range = {}, const Words& more = {});
  boost::json::value ask(Words words, int code = 0);
  std::size_t vms();

  // What agent and keeper hold when nothing is adopted: to be the same after every failure and release.
  void remember();
  void expect_as_remembered();

  std::unique_ptr<AgentProcess> agent_;

 private:
  std::size_t agent_descriptors_ = 0;
  std::size_t keeper_descriptors_ = 0;
};

// As `--mapping` wants it.
std::string text_of(AddressRange range);

// A program in front of tidepool-adopt that runs `hook` (shell) before the helper does its work: something that happens
// between the agent's look at the process and the stop.
std::string helper_with(const TestFolder& folder, const std::string& hook);

void expect_parts(const Outcome& outcome, int code, std::initializer_list<std::string> parts);

}  // namespace tidepool::tests
