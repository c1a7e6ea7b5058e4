// A memory server at its controller, which is a script here.
#include "pool/server/registration.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <condition_variable>
#include <deque>
#include <filesystem>

#include "pool/server/memd_config.h"

namespace tidepool::pool::server {
namespace {

using controller::Answer;
using controller::Refusal;
using controller::RegisterServer;
using controller::Request;
using controller::ServerAnswer;
using controller::ServerHeartbeat;
using protocol::LeaseEpoch;
using protocol::SliceId;

// What was asked, in order; answers from a list, and then always well.
struct Script {
  std::mutex mutex;
  std::condition_variable asked;
  std::vector<Request> requests;
  std::deque<Result<Answer>> answers;

  // The first request from `first` on that `right` likes.
  template <class Asked>
  std::optional<Asked> await(std::size_t first, const std::function<bool(const Asked&)>& right) {
    std::unique_lock lock(mutex);
    std::optional<Asked> found;
    asked.wait_for(lock, std::chrono::seconds(20), [&] {
      for (std::size_t i = first; i < requests.size() && !found; ++i) {
        const auto* request = std::get_if<Asked>(&requests[i]);
        if (request != nullptr && right(*request)) found = *request;
      }
      return found.has_value();
    });
    return found;
  }
  std::size_t count() {
    const std::lock_guard lock(mutex);
    return requests.size();
  }
  void say(Result<Answer> answer) {
    const std::lock_guard lock(mutex);
    answers.push_back(std::move(answer));
  }
};

class ScriptedPort final : public controller::ControllerPort {
 public:
  explicit ScriptedPort(Script& script) : script_(script) {}
  Result<Answer> call(const Request& request) override {
    const std::lock_guard lock(script_.mutex);
    script_.requests.push_back(request);
    script_.asked.notify_all();
    if (script_.answers.empty()) return Answer{ServerAnswer{.heartbeat_ms = 50, .free = {}}};
    Result<Answer> answer = std::move(script_.answers.front());
    script_.answers.pop_front();
    return answer;
  }
  void stop() override {}

 private:
  Script& script_;
};

class RegistrationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/tidepool-registration-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern), nullptr);
    directory_ = pattern;
    MemdConfig config;
    config.name = "m1";
    config.listen = {"unix:" + directory_ + "/memd.sock"};
    config.group = "";
    config.memory.capacity = Bytes{8u << 20};
    config.limits.threads = 1;
    auto started = Server::start(config, key_, clock_);
    ASSERT_TRUE(started) << started.error().message();
    server_ = std::move(*started);
  }
  void TearDown() override {
    registration_.reset();
    server_.reset();
    std::filesystem::remove_all(directory_);
  }
  void begin() {
    registration_ =
        std::make_unique<Registration>(std::make_unique<ScriptedPort>(script_),
                                       RegistrationOptions{"m1", "tcp:m1:7411", "rack-7", key_}, *server_, clock_);
  }

  protocol::ServerKey key_{9, 8, 7};
  SystemClock clock_;
  std::string directory_;
  Script script_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Registration> registration_;
};

Refusal refusal(Refusal::Code code, const std::string& message, const std::string& remedy) {
  Refusal refusal;
  refusal.code = code;
  refusal.message = message;
  refusal.remedy = remedy;
  return refusal;
}

bool lend(Server& server, std::uint64_t slice, std::uint64_t epoch) {
  protocol::HolderId holder{};
  holder.fill(1);
  return server.slices()
             .attach({SliceId{slice}, holder, LeaseEpoch{epoch}, 64,
                      protocol::kRightRead | protocol::kRightWrite | protocol::kRightCreate, 0},
                     true)
             .status == protocol::ErrorCode::kOk;
}

TEST_F(RegistrationTest, SaysWhoItIsWhatItHasAndItsKey) {
  ASSERT_TRUE(lend(*server_, 4, 2));
  begin();
  const auto request = script_.await<RegisterServer>(0, [](const auto&) { return true; });
  ASSERT_TRUE(request);
  EXPECT_EQ(request->name, "m1");
  EXPECT_EQ(request->boot, server_->boot());
  EXPECT_EQ(request->address, "tcp:m1:7411");
  EXPECT_EQ(request->domain, "rack-7");
  EXPECT_EQ(request->capacity, server_->figures().slices.capacity);
  EXPECT_EQ(request->key, key_);
  ASSERT_EQ(request->slices.size(), 1u);
  EXPECT_EQ(request->slices[0].slice, SliceId{4});
  EXPECT_EQ(request->slices[0].epoch, LeaseEpoch{2});
  const auto beat = script_.await<ServerHeartbeat>(1, [](const auto&) { return true; });
  ASSERT_TRUE(beat);
  EXPECT_EQ(beat->free, request->capacity - Bytes{kChunkBytes});
  EXPECT_TRUE(registration_->figures().registered);
  EXPECT_EQ(registration_->figures().trouble, "");
}

TEST_F(RegistrationTest, FreesWhatItIsToldAndSaysSoUntilItWasHeard) {
  ASSERT_TRUE(lend(*server_, 4, 2));
  script_.say(
      Answer{ServerAnswer{.heartbeat_ms = 50, .free = {{SliceId{4}, LeaseEpoch{3}}, {SliceId{5}, LeaseEpoch{1}}}}});
  // The first time that it says so, nobody hears it.
  script_.say(failure(std::errc::timed_out, "ask", "the script"));
  begin();
  const auto told = [](const ServerHeartbeat& beat) { return beat.done.size() == 2; };
  ASSERT_TRUE(script_.await<ServerHeartbeat>(0, told));
  EXPECT_EQ(server_->figures().slices.slices, 0u);
  EXPECT_EQ(server_->figures().slices.scrubbing, Bytes{});
  EXPECT_FALSE(lend(*server_, 4, 2));
  const std::size_t first = script_.count();
  const auto again = script_.await<ServerHeartbeat>(std::min<std::size_t>(first, 2), told);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->done[0].below, LeaseEpoch{3});
  EXPECT_TRUE(script_.await<ServerHeartbeat>(3, [](const auto& beat) { return beat.done.empty(); }));
}

TEST_F(RegistrationTest, RegistersAgainWhenItIsNotKnownOrAskedTo) {
  begin();
  const auto any = [](const auto&) { return true; };
  ASSERT_TRUE(script_.await<ServerHeartbeat>(0, any));
  std::size_t before = script_.count();
  script_.say(Answer{refusal(Refusal::Code::kStale, "who is m1?", "")});
  ASSERT_TRUE(script_.await<RegisterServer>(before, any));
  before = script_.count();
  script_.say(Answer{ServerAnswer{.heartbeat_ms = 50, .register_again = true, .free = {}}});
  ASSERT_TRUE(script_.await<RegisterServer>(before, any));
}

TEST_F(RegistrationTest, GoesOnWhileTheControllerIsAwayAndSaysWhy) {
  for (int i = 0; i < 2; ++i) script_.say(failure(std::errc::connection_refused, "ask", "the script"));
  script_.say(Answer{refusal(Refusal::Code::kConflict, "m1 is another server", "rename it")});
  begin();
  const auto any = [](const auto&) { return true; };
  ASSERT_TRUE(script_.await<RegisterServer>(2, any));
  while (registration_->figures().failures < 3) std::this_thread::yield();
  if (!registration_->figures().registered) {
    EXPECT_NE(registration_->figures().trouble.find("m1 is another server: rename it"), std::string::npos);
  }
  EXPECT_TRUE(lend(*server_, 4, 2));
  ASSERT_TRUE(script_.await<ServerHeartbeat>(0, any));
  EXPECT_EQ(registration_->figures().trouble, "");
}

TEST_F(RegistrationTest, SaysThatItWantsToEndAndStaysUntilItIsEnded) {
  script_.say(Answer{ServerAnswer{.heartbeat_ms = 60'000, .free = {}}});
  begin();
  const auto any = [](const auto&) { return true; };
  ASSERT_TRUE(script_.await<RegisterServer>(0, any));
  registration_->drain();
  // Not with the next heartbeat, which is a minute away.
  const auto first = script_.await<ServerHeartbeat>(0, [](const auto& beat) { return beat.draining; });
  ASSERT_TRUE(first);
  EXPECT_FALSE(first->leaving);
  const auto again = script_.await<ServerHeartbeat>(script_.count(), any);
  ASSERT_TRUE(again);
  EXPECT_TRUE(again->draining) << "a controller that has taken over has to hear it too";
}

TEST_F(RegistrationTest, SaysThatItLeaves) {
  begin();
  const auto any = [](const auto&) { return true; };
  ASSERT_TRUE(script_.await<ServerHeartbeat>(0, any));
  registration_.reset();
  const auto last = script_.await<ServerHeartbeat>(0, [](const auto& beat) { return beat.leaving; });
  ASSERT_TRUE(last);
}

}  // namespace
}  // namespace tidepool::pool::server
