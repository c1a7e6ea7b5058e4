// The small parts of the control library.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <latch>
#include <thread>

#include "service/http/worker_pool.h"
#include "service/log.h"
#include "service/notify.h"
#include "tests/integration/control/raw_client.h"
#include "tests/support/notify_socket.h"

namespace tidepool::daemon::testing {
namespace {

using namespace std::chrono_literals;

TEST(WorkerPool, RefusesMoreThanMayWaitAndRunsTheRest) {
  std::latch started{1};
  std::latch go{1};
  std::atomic<int> ran{0};
  {
    http::WorkerPool pool(1, 2);
    ASSERT_TRUE(pool.submit([&] {
      started.count_down();
      go.wait();
      ++ran;
    }));
    started.wait();
    EXPECT_TRUE(pool.submit([&] { ++ran; }));
    EXPECT_TRUE(pool.submit([&] { ++ran; }));
    EXPECT_FALSE(pool.submit([&] { ++ran; }));
    go.count_down();
    while (ran < 3) std::this_thread::yield();
  }
  EXPECT_EQ(ran, 3);
}

TEST(WorkerPool, EndingWaitsForWhatRunsAndDropsWhatWaits) {
  std::latch started{1};
  std::atomic<bool> let_go{false};
  std::atomic<int> ran{0};
  auto pool = std::make_unique<http::WorkerPool>(1, 8);
  ASSERT_TRUE(pool->submit([&] {
    started.count_down();
    while (!let_go) std::this_thread::yield();
    ++ran;
  }));
  started.wait();
  ASSERT_TRUE(pool->submit([&] { ++ran; }));
  std::thread end([&] { pool.reset(); });
  // From here on nothing more is taken; the running job decides when the end comes.
  std::this_thread::yield();
  let_go = true;
  end.join();
  EXPECT_GE(ran, 1);
  EXPECT_LE(ran, 2);
}

// Listens where systemd would.
class Notified : public ::testing::Test {
 protected:
  Notified() { ::setenv("NOTIFY_SOCKET", socket_.path().c_str(), 1); }
  ~Notified() override {
    ::unsetenv("NOTIFY_SOCKET");
    ::unsetenv("WATCHDOG_USEC");
    ::unsetenv("WATCHDOG_PID");
  }
  std::string next() { return socket_.next(); }

  TemporaryFolder folder_;
  const tests::NotifySocket socket_{folder_.path() + "/notify"};
};

TEST_F(Notified, HearsEveryStateOnce) {
  EXPECT_TRUE(ServiceManager::present());
  ServiceManager::ready("2 VMs\nREADY=0");
  EXPECT_EQ(next(), "READY=1\nSTATUS=2 VMs READY=0") << "a line feed must not begin an assignment";
  ServiceManager::reloading();
  EXPECT_TRUE(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
  ServiceManager::status("bringing 1.2G home");
  EXPECT_EQ(next(), "STATUS=bringing 1.2G home");
  ServiceManager::extend_timeout(90s);
  EXPECT_EQ(next(), "EXTEND_TIMEOUT_USEC=90000000");
  ServiceManager::watchdog();
  EXPECT_EQ(next(), "WATCHDOG=1");
  ServiceManager::stopping("bye");
  EXPECT_EQ(next(), "STOPPING=1\nSTATUS=bye");
}

TEST_F(Notified, WatchdogIsForTheProcessThatIsNamed) {
  EXPECT_FALSE(ServiceManager::watchdog_interval());
  ::setenv("WATCHDOG_USEC", "30000000", 1);
  ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
  EXPECT_EQ(ServiceManager::watchdog_interval(), 30s);
  ::setenv("WATCHDOG_PID", "1", 1);
  EXPECT_FALSE(ServiceManager::watchdog_interval());
}

TEST(Notify, WithoutSystemdNothingHappens) {
  ::unsetenv("NOTIFY_SOCKET");
  EXPECT_FALSE(ServiceManager::present());
  ServiceManager::ready("x");
  ServiceManager::watchdog();
}

}  // namespace
}  // namespace tidepool::daemon::testing
