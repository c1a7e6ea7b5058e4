// A real controller in a folder of its own, asked over its unix socket.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>

#include "pool/controller/api/codec.h"
#include "service/http/client.h"
#include "tests/support/program.h"

namespace tidepool::pool::controller::testing {

// Dotted keys and their values as TOML text.
using ControllerSettings = std::map<std::string, std::string>;

class ControllerProcess {
 public:
  explicit ControllerProcess(ControllerSettings settings = {}, std::string name = "test");
  // Killed. Shows its log when the test failed.
  ~ControllerProcess();
  ControllerProcess(const ControllerProcess&) = delete;
  ControllerProcess& operator=(const ControllerProcess&) = delete;

  void launch();
  // Waits until its log has this; "msg=ready" is what it says when it answers.
  bool start(const std::string& until = "msg=ready");
  void signal(int number) const;
  // The exit status, as await_exit tells it.
  int await_end();
  void kill_hard();
  void write_settings(const ControllerSettings& settings);

  // Once, with whatever comes of it.
  Result<Answer> ask(const Request& request) const;
  // Until it is an answer.
  Answer ask_until_answered(const Request& request) const;
  http::Answer raw(const std::string& method, const std::string& target, const std::string& body = {}) const;

  pid_t pid() const { return pid_; }
  const std::string& name() const { return name_; }
  std::string socket() const { return folder_ / "controller.sock"; }
  std::string endpoint() const { return "unix:" + socket(); }
  std::string state_file() const { return folder_ / "state.db"; }
  std::string config() const { return folder_ / "controller.toml"; }
  std::string file(const std::string& file_name) const { return folder_ / file_name; }
  std::string log() const { return tests::read_file(folder_ / "log"); }
  double metric(const std::string& series) const;

 private:
  tests::TestFolder folder_;
  std::string name_;
  int metrics_port_ = 0;
  ControllerSettings settings_;
  pid_t pid_ = 0;
};

}  // namespace tidepool::pool::controller::testing
