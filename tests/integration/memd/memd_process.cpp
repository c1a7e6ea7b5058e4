#include "tests/integration/memd/memd_process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <fstream>
#include <iostream>
#include <sstream>

#include "tests/support/http_get.h"

namespace tidepool::pool::server::testing {

using tests::await;

MemdProcess::MemdProcess(MemdSettings settings) : port_(tests::free_port()), metrics_port_(tests::free_port()) {
  for (std::size_t i = 0; i < key_.size(); ++i) key_[i] = static_cast<std::uint8_t>(7 * i + 1);
  std::ofstream file(key_file(), std::ios::binary);
  file.write(static_cast<const char*>(static_cast<const void*>(key_.data())),
             static_cast<std::streamsize>(key_.size()));
  file.close();
  ::chmod(key_file().c_str(), 0600);
  write_settings(settings);
}

void MemdProcess::write_settings(const MemdSettings& settings) {
  settings_ = {{"name", "\"test\""},
               {"listen", "[\"" + unix_address() + "\", \"" + tcp_address() + "\"]"},
               {"key_file", "\"" + key_file() + "\""},
               {"metrics", "\"127.0.0.1:" + std::to_string(metrics_port_) + "\""},
               {"memory.capacity", "\"64MiB\""},
               {"limits.threads", "2"},
               {"log.level", "\"debug\""}};
  for (const auto& [key, value] : settings) settings_[key] = value;
  std::ofstream file(config());
  file << "schema = 1\n";
  for (const auto& [key, value] : settings_) file << key << " = " << value << "\n";
}

MemdProcess::~MemdProcess() {
  if (pid_ != 0) {
    ::kill(pid_, SIGKILL);
    tests::await_exit(pid_);
  }
  if (::testing::Test::HasFailure()) std::cerr << log();
}

void MemdProcess::launch() {
  pid_ = tests::start_program({"tidepool-memd", "--config", config()}, {}, folder_ / "memd.out", folder_ / "memd.log");
}

bool MemdProcess::start() {
  launch();
  const bool ready = await([&] { return log().find("msg=ready") != std::string::npos; });
  EXPECT_TRUE(ready) << log();
  return ready;
}

void MemdProcess::signal(int number) const {
  ::kill(pid_, number);
}

int MemdProcess::await_end() {
  const int status = tests::await_exit(pid_);
  pid_ = 0;
  return status;
}

double MemdProcess::metric(const std::string& series) const {
  return tests::metric_value(tests::http_get(metrics_port_, "/metrics"), series);
}

namespace {

std::uint64_t status_kib(pid_t pid, const std::string& name) {
  std::istringstream text(tests::read_file("/proc/" + std::to_string(pid) + "/status"));
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with(name + ":")) return std::stoull(line.substr(name.size() + 1));
  }
  return 0;
}

}  // namespace

std::uint64_t MemdProcess::own_memory() const {
  return status_kib(pid_, "RssAnon") << 10;
}
std::uint64_t MemdProcess::donated_memory() const {
  return status_kib(pid_, "RssShmem") << 10;
}

}  // namespace tidepool::pool::server::testing
