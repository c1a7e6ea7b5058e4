// A pool controller in this process, with memory servers and hosts that ask it as real ones do: its core is the real
// one, and only the way to it is shorter.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "pool/client/controlled_pool.h"
#include "pool/controller/core/core.h"
#include "pool/controller/port/controller_port.h"
#include "pool/server/memd_config.h"
#include "pool/server/registration.h"
#include "pool/server/server.h"

namespace tidepool::pool::testing {

inline bool await(const std::function<bool()>& done, std::chrono::seconds patience = std::chrono::seconds(60)) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!done()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

// Thread-safe. Whoever asks while it is away hears nothing.
class ControllerRig {
 public:
  explicit ControllerRig(const controller::CoreConfig& config) : config_(config) {
    core_ = std::make_unique<controller::Core>(config_);
    (void)*core_->begin(now());
    ticker_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        {
          const std::lock_guard lock(mutex_);
          while (core_ != nullptr && core_->tick(now()).again) {
          }
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    });
  }

  Result<controller::Answer> call(const controller::Request& request) {
    const std::lock_guard lock(mutex_);
    if (core_ == nullptr) return failure(std::errc::connection_refused, "ask", "the controller");
    return core_->apply(request, now()).answer;
  }
  template <class Wanted>
  Wanted ask(const controller::Request& request) {
    auto answer = controller::expect<Wanted>(call(request));
    EXPECT_TRUE(answer) << answer.error().message();
    return answer ? std::move(*answer) : Wanted{};
  }
  // It ends, with its memory; what is stored stays.
  void kill() {
    const std::lock_guard lock(mutex_);
    records_ = core_->records();
    core_.reset();
  }
  void start() {
    const std::lock_guard lock(mutex_);
    core_ = std::make_unique<controller::Core>(config_);
    for (const auto& record : records_) {
      const auto taken = core_->take(record.key, *record.value);
      ASSERT_TRUE(taken) << taken.error().message();
    }
    const auto begun = core_->begin(now());
    ASSERT_TRUE(begun) << begun.error().message();
  }
  std::unique_ptr<controller::ControllerPort> port();

 private:
  controller::Context now() const { return {.now = clock_.now(), .unix_ms = 1, .actor = "test"}; }

  const controller::CoreConfig config_;
  SystemClock clock_;
  std::mutex mutex_;
  std::unique_ptr<controller::Core> core_;
  std::vector<controller::StateChange> records_;
  std::jthread ticker_;
};

class RigPort final : public controller::ControllerPort {
 public:
  explicit RigPort(ControllerRig& rig) : rig_(rig) {}
  Result<controller::Answer> call(const controller::Request& request) override { return rig_.call(request); }
  void stop() override {}

 private:
  ControllerRig& rig_;
};

inline std::unique_ptr<controller::ControllerPort> ControllerRig::port() {
  return std::make_unique<RigPort>(*this);
}

// A memory server with its registration, in this process.
class ServerRig {
 public:
  ServerRig(ControllerRig& controller, std::string directory, std::string name, Bytes capacity)
      : controller_(controller), directory_(std::move(directory)), name_(std::move(name)), capacity_(capacity) {
    start();
  }
  void start() {
    server::MemdConfig config;
    config.name = name_;
    config.listen = {"unix:" + directory_ + "/" + name_ + ".sock"};
    config.group = "";
    config.memory.capacity = capacity_;
    config.limits.threads = 1;
    const auto key = protocol::fresh_random();
    ASSERT_TRUE(key);
    auto started = server::Server::start(config, *key, clock_);
    ASSERT_TRUE(started) << started.error().message();
    server_ = std::move(*started);
    registration_ = std::make_unique<server::Registration>(
        controller_.port(), server::RegistrationOptions{name_, config.listen[0], name_, *key}, *server_, clock_);
  }
  // Its memory is gone; the controller hears of it when it says so with its last word.
  void end() {
    registration_.reset();
    server_.reset();
  }
  server::Server& server() { return *server_; }
  const std::string& name() const { return name_; }

 private:
  ControllerRig& controller_;
  const std::string directory_;
  const std::string name_;
  const Bytes capacity_;
  SystemClock clock_;
  std::unique_ptr<server::Server> server_;
  std::unique_ptr<server::Registration> registration_;
};

}  // namespace tidepool::pool::testing
