#include "tests/integration/controller/controller_process.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <iostream>

#include "tests/support/http_get.h"

namespace tidepool::pool::controller::testing {

using tests::await;

ControllerProcess::ControllerProcess(ControllerSettings settings, std::string name)
    : name_(std::move(name)), metrics_port_(tests::free_port()) {
  write_settings(settings);
}

void ControllerProcess::write_settings(const ControllerSettings& settings) {
  settings_ = {{"name", "\"" + name_ + "\""},
               {"metrics", "\"127.0.0.1:" + std::to_string(metrics_port_) + "\""},
               {"api.socket", "\"" + socket() + "\""},
               {"api.audit_log", "\"" + file("audit.jsonl") + "\""},
               {"state.file", "\"" + state_file() + "\""},
               {"log.level", "\"debug\""}};
  for (const auto& [key, value] : settings) settings_[key] = value;
  std::ofstream file(config());
  file << "schema = 1\n";
  for (const auto& [key, value] : settings_) file << key << " = " << value << "\n";
}

ControllerProcess::~ControllerProcess() {
  kill_hard();
  if (::testing::Test::HasFailure()) std::cerr << log();
}

void ControllerProcess::launch() {
  pid_ = tests::start_program({"tidepool-controller", "--config", config()}, {}, file("out"), file("log"));
}

bool ControllerProcess::start(const std::string& until) {
  launch();
  const bool ready = await([&] { return log().find(until) != std::string::npos; });
  EXPECT_TRUE(ready) << log();
  return ready;
}

void ControllerProcess::signal(int number) const {
  ::kill(pid_, number);
}

int ControllerProcess::await_end() {
  const int status = tests::await_exit(pid_);
  pid_ = 0;
  return status;
}

void ControllerProcess::kill_hard() {
  if (pid_ == 0) return;
  signal(SIGKILL);
  await_end();
}

http::Answer ControllerProcess::raw(const std::string& method, const std::string& target,
                                    const std::string& body) const {
  http::ClientOptions options;
  options.endpoints = {endpoint()};
  const auto client = http::Client::make(options);
  if (!client) return {};
  const Result<http::Answer> answer = (*client)->request(method, target, body);
  return answer ? *answer : http::Answer{};
}

Result<Answer> ControllerProcess::ask(const Request& request) const {
  const HttpForm form = http_form(request);
  const http::Answer answer = raw(form.method, form.target, form.body);
  if (answer.status == 0) return failure(std::errc::connection_refused, "ask", endpoint());
  return answer_from(request, answer.status, answer.body);
}

Answer ControllerProcess::ask_until_answered(const Request& request) const {
  Answer answered;
  EXPECT_TRUE(await([&] {
    Result<Answer> answer = ask(request);
    if (answer) answered = std::move(*answer);
    return answer.has_value();
  }));
  return answered;
}

double ControllerProcess::metric(const std::string& series) const {
  return tests::metric_value(tests::http_get(metrics_port_, "/metrics"), series);
}

}  // namespace tidepool::pool::controller::testing
