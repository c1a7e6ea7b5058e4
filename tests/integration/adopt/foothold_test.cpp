// Taking hold of processes of every kind and letting go again: none of them notices.
#include "daemon/vm/foothold.h"

#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <iostream>
#include <thread>

#include "kmod-interfaces/pidfd.h"
#include "kmod-interfaces/proc_text.h"
#include "kmod-interfaces/process.h"
#include "kmod-interfaces/userfaultfd.h"
#include "tests/integration/adopt/target_process.h"

namespace tidepool::adopt_test {
namespace {

using daemon::let_go;
using daemon::take_foothold;

constexpr int kRounds = 20;

// Takes hold with everything there is and lets go, `rounds` times; descriptors of both sides are as before after each.
void take_and_let_go(const TargetProcess& target, int rounds) {
  const auto before = descriptors_of(target.pid());
  const auto own_before = descriptors_of(::getpid());
  for (int round = 0; round < rounds; ++round) {
    daemon::FootholdRequest request = request_for(target.id());
    request.userfaultfds = static_cast<std::uint8_t>(round % 3);
    request.ring_entries = round % 4 == 1 ? 0 : 8;  // never neither
    if (round % 12 == 9) request.ring_entries = 8;
    {
      const auto foothold = take_foothold(request);
      ASSERT_TRUE(foothold) << foothold.error().message();
      EXPECT_EQ(foothold->userfaultfd.valid(), request.userfaultfds > 0);
      EXPECT_EQ(foothold->second_userfaultfd.valid(), request.userfaultfds == 2);
      EXPECT_EQ(foothold->ring.has_value(), request.ring_entries != 0);
      EXPECT_LT(foothold->stopped, std::chrono::seconds(10));
      auto with_ours = before;
      if (request.userfaultfds > 0) with_ours[foothold->userfaultfd_number] = "anon_inode:[userfaultfd]";
      if (request.userfaultfds == 2) with_ours[foothold->second_userfaultfd_number] = "anon_inode:[userfaultfd]";
      EXPECT_EQ(descriptors_of(target.pid()), with_ours);
      const auto outcome = let_go(return_of(*foothold));
      ASSERT_TRUE(outcome) << outcome.error().message();
      EXPECT_TRUE(outcome->not_ours.empty());
    }
    EXPECT_EQ(descriptors_of(target.pid()), before);
    EXPECT_EQ(descriptors_of(::getpid()), own_before);
  }
}

class BlockedTarget : public testing::TestWithParam<const char*> {};

TEST_P(BlockedTarget, NeverSeesThatItWasStopped) {
  const TargetProcess target({GetParam()});
  ASSERT_TRUE(target.started());
  ASSERT_TRUE(await([&] { return state_of(target.pid()) == "S"; }));
  take_and_let_go(target, kRounds);
  EXPECT_EQ(target.report().eintr, 0U);
  EXPECT_EQ(target.report().returned, 0U);
  EXPECT_EQ(target.report().failed, 0U) << target.report().last_error;
  EXPECT_TRUE(target.alive());
}

INSTANTIATE_TEST_SUITE_P(EveryCall, BlockedTarget,
                         testing::Values("nanosleep", "clock_nanosleep_absolute", "poll", "ppoll", "select",
                                         "epoll_wait", "epoll_pwait", "read_pipe", "recv", "recv_with_time_out",
                                         "accept", "futex_wait", "futex_wait_timed", "sem_wait", "msgrcv",
                                         "inotify_read", "io_getevents", "sigtimedwait", "sigsuspend", "semtimedop",
                                         "pause"),
                         [](const auto& each) { return std::string(each.param); });

TEST(TakeFoothold, LeavesEveryRegisterOfASpinningThreadAsItWas) {
  const TargetProcess target({"compute"});
  ASSERT_TRUE(target.started());
  take_and_let_go(target, kRounds);
  const std::uint64_t rounds = target.report().rounds;
  EXPECT_TRUE(await([&] { return target.report().rounds > rounds + 2; }));
  EXPECT_EQ(target.report().wrong, 0U);
}

TEST(TakeFoothold, AbortsTheRestartableSequenceThatItInterrupts) {
  const TargetProcess target({"restart"});
  ASSERT_TRUE(target.started());
  if (target.report().ready == 2) GTEST_SKIP() << "the C library or the kernel has no restartable sequences";
  for (int round = 0; round < kRounds; ++round) {
    const auto foothold = take_foothold(request_for(target.id()));
    ASSERT_TRUE(foothold) << foothold.error().message();
    // Still in a sequence that the kernel knows: an interruption aborts it.
    const std::uint64_t rounds = target.report().rounds;
    target.signal(SIGSTOP);
    ASSERT_TRUE(await([&] { return state_of(target.pid()) == "T"; }));
    target.signal(SIGCONT);
    ASSERT_TRUE(await([&] { return target.report().rounds > rounds; })) << "round " << round;
    ASSERT_TRUE(let_go(return_of(*foothold)));
  }
}

TEST(TakeFoothold, ChoosesAThreadThatIsNoVcpu) {
  const TargetProcess target({"pause", "threads=5"});
  ASSERT_TRUE(target.started());
  ASSERT_TRUE(await([&] { return target.report().thread != 0; }));
  for (int round = 0; round < kRounds; ++round) {
    const auto foothold = take_foothold(request_for(target.id()));
    ASSERT_TRUE(foothold) << foothold.error().message();
    EXPECT_NE(foothold->stopped_thread, target.report().thread);
    const auto outcome = let_go(return_of(*foothold));
    ASSERT_TRUE(outcome) << outcome.error().message();
  }
  EXPECT_TRUE(target.alive());
}

TEST(TakeFoothold, WorksBehindAStrictSeccompFilter) {
  const TargetProcess target({"nanosleep", "seccomp"});
  ASSERT_TRUE(target.started());
  take_and_let_go(target, kRounds);
  EXPECT_EQ(target.report().eintr, 0U);
  EXPECT_TRUE(target.alive());
}

TEST(TakeFoothold, GivesAnUnprivilegedProcessAFullUserfaultfd) {
  const TargetProcess target({"memory", "uid=65534"});
  ASSERT_TRUE(target.started());
  take_and_let_go(target, kRounds);
  auto foothold = take_foothold(request_for(target.id()));
  ASSERT_TRUE(foothold) << foothold.error().message();
  kernel::Userfaultfd userfaultfd{std::move(foothold->userfaultfd)};
  const auto features = userfaultfd.handshake(0);
  ASSERT_TRUE(features) << features.error().message();
  const std::uint64_t memory = target.report().memory;
  const AddressRange range{memory, memory + kMemoryPages * kPageSize};
  const auto registered = userfaultfd.register_range(range, UFFDIO_REGISTER_MODE_MISSING);
  EXPECT_TRUE(registered) << registered.error().message();
  EXPECT_TRUE(userfaultfd.unregister_range(range));
}

TEST(TakeFoothold, LeavesAProcessThatIgnoresTrapsIgnoringThem) {
  const TargetProcess target({"epoll_wait", "ignore-trap"});
  ASSERT_TRUE(target.started());
  take_and_let_go(target, kRounds);
  target.signal(SIGTRAP);
  take_and_let_go(target, 1);
  EXPECT_TRUE(target.alive());
  EXPECT_EQ(target.report().eintr, 0U);
}

TEST(TakeFoothold, WorksOnAThreadThatBlocksEverySignal) {
  const TargetProcess target({"epoll_wait", "block-all"});
  ASSERT_TRUE(target.started());
  const auto blocked = [&] {
    const auto process = kernel::Process::open(kernel::KernelRoots{}, target.pid());
    const auto text = kernel::read_at(process->directory(), "status", "status");
    const std::string status = text ? *text : std::string{};
    return std::string(kernel::value_of(status, "SigBlk").value_or("unknown"));
  };
  const std::string before = blocked();
  take_and_let_go(target, kRounds);
  EXPECT_EQ(blocked(), before);
  EXPECT_EQ(target.report().eintr, 0U);
}

TEST(TakeFoothold, KeepsEverySignalWithWhatItCarries) {
  const TargetProcess target({"signals"});
  ASSERT_TRUE(target.started());
  std::atomic<bool> stop{false};
  std::uint64_t sent = 0;
  std::uint64_t values = 0;
  std::thread sender([&] {
    while (!stop || sent < 500) {
      const int value = static_cast<int>(sent % 1000) + 1;
      sigval payload{};
      payload.sival_int = value;
      if (::sigqueue(target.pid(), SIGRTMIN, payload) == 0) {
        ++sent;
        values += static_cast<std::uint64_t>(value);
      }
      ::usleep(50);
    }
  });
  take_and_let_go(target, kRounds);
  stop = true;
  sender.join();
  EXPECT_TRUE(await([&] { return target.report().signals == sent; })) << target.report().signals << " of " << sent;
  EXPECT_EQ(target.report().signal_values, values);
  EXPECT_EQ(target.report().bad_signals, 0U);
  EXPECT_EQ(target.report().eintr, 0U);  // its handler restarts calls
}

TEST(TakeFoothold, LeavesAStoppedProcessStopped) {
  const TargetProcess target({"memory"});
  ASSERT_TRUE(target.started());
  target.signal(SIGSTOP);
  ASSERT_TRUE(await([&] { return state_of(target.pid()) == "T"; }));
  take_and_let_go(target, kRounds);
  EXPECT_TRUE(await([&] { return state_of(target.pid()) == "T"; }));
  target.signal(SIGCONT);
  EXPECT_EQ(target.ask_for_page(1), 4096U * kFill);
}

TEST(TakeFoothold, PlacesARingThatDropsPrivateMemory) {
  for (const char* user : {"uid=0", "uid=65534"}) {
    const TargetProcess target({"memory", user});
    ASSERT_TRUE(target.started());
    daemon::FootholdRequest request = request_for(target.id());
    request.ring_entries = 8;
    auto foothold = take_foothold(request);
    ASSERT_TRUE(foothold) << foothold.error().message();
    const std::uint64_t memory = target.report().memory;
    EXPECT_EQ(target.ask_for_page(5), 4096U * kFill);
    ASSERT_EQ(foothold->ring->submit({memory + 5 * kPageSize, memory + 7 * kPageSize}, 77), 0);
    std::array<kernel::DropRing::Completion, 4> done{};
    std::size_t count = 0;
    ASSERT_TRUE(await([&] { return (count = foothold->ring->reap(done)) != 0; }));
    EXPECT_EQ(count, 1U);
    EXPECT_EQ(done[0].cookie, 77U);
    EXPECT_EQ(done[0].error, 0);
    EXPECT_EQ(target.ask_for_page(4), 4096U * kFill);
    EXPECT_EQ(target.ask_for_page(5), 0U);
    EXPECT_EQ(target.ask_for_page(6), 0U);
    EXPECT_EQ(target.ask_for_page(7), 4096U * kFill);
    // Its kernel threads are gone with the last descriptor, which is ours.
    foothold->ring.reset();
    EXPECT_TRUE(await([&] {
      const auto process = kernel::Process::open(kernel::KernelRoots{}, target.pid());
      const auto threads = process->threads();
      return threads && std::ranges::none_of(*threads, [](const auto& thread) { return thread.user_worker; });
    }));
  }
}

TEST(TakeFoothold, CompletesTheDropsOfAStoppedProcessWhenItGoesOn) {
  const TargetProcess target({"memory"});
  ASSERT_TRUE(target.started());
  target.signal(SIGSTOP);
  ASSERT_TRUE(await([&] { return state_of(target.pid()) == "T"; }));
  daemon::FootholdRequest request = request_for(target.id());
  request.ring_entries = 4;
  auto foothold = take_foothold(request);
  ASSERT_TRUE(foothold) << foothold.error().message();
  const std::uint64_t memory = target.report().memory;
  ASSERT_EQ(foothold->ring->submit({memory, memory + kPageSize}, 1), 0);
  target.signal(SIGCONT);
  std::array<kernel::DropRing::Completion, 4> done{};
  EXPECT_TRUE(await([&] { return foothold->ring->reap(done) == 1; }));
  EXPECT_EQ(done[0].error, 0);
  EXPECT_EQ(target.ask_for_page(0), 0U);
}

TEST(TakeFoothold, RingSaysThatItsOwnerDied) {
  TargetProcess target({"memory"});
  ASSERT_TRUE(target.started());
  daemon::FootholdRequest request = request_for(target.id());
  request.ring_entries = 4;
  auto foothold = take_foothold(request);
  ASSERT_TRUE(foothold) << foothold.error().message();
  const std::uint64_t memory = target.report().memory;
  target.kill_and_reap();
  // Never a hang: refused, or accepted and never completed.
  std::array<kernel::DropRing::Completion, 4> done{};
  int error = 0;
  for (int i = 0; i < 8 && error == 0; ++i) error = foothold->ring->submit({memory, memory + kPageSize}, 1);
  EXPECT_TRUE(error == EOWNERDEAD || error == EAGAIN) << error;
  static_cast<void>(foothold->ring->reap(done));
}

TEST(TakeFoothold, StopsAnIdleThreadOnlyBriefly) {
  for (const char* user : {"uid=0", "uid=65534"}) {
    const TargetProcess target({"epoll_wait", user});
    ASSERT_TRUE(target.started());
    std::vector<Nanoseconds> stops;
    for (int round = 0; round < 101; ++round) {
      daemon::FootholdRequest request = request_for(target.id());
      request.ring_entries = 64;
      const auto foothold = take_foothold(request);
      ASSERT_TRUE(foothold) << foothold.error().message();
      stops.push_back(foothold->stopped);
      ASSERT_TRUE(let_go(return_of(*foothold)));
    }
    std::ranges::sort(stops);
    const auto microseconds = [&](std::size_t i) { return static_cast<double>(stops[i].count()) / 1000; };
    std::cout << "stopped with " << user << ": median " << microseconds(50) << " us, worst " << microseconds(100)
              << " us\n";
    EXPECT_LT(stops[50], std::chrono::milliseconds(500));
  }
}

TEST(LetGo, LeavesNumbersAloneThatAreSomethingElseByNow) {
  const TargetProcess target({"pause"});
  ASSERT_TRUE(target.started());
  const auto foothold = take_foothold(request_for(target.id()));
  ASSERT_TRUE(foothold) << foothold.error().message();
  const auto before = descriptors_of(target.pid());
  daemon::LetGoRequest request = return_of(*foothold);
  request.descriptors[0].number = kReportFd;
  auto outcome = let_go(request);
  ASSERT_TRUE(outcome) << outcome.error().message();
  EXPECT_EQ(outcome->not_ours, std::vector<int>{kReportFd});
  EXPECT_EQ(outcome->stopped, Nanoseconds(0));
  EXPECT_EQ(descriptors_of(target.pid()), before);
  // One of two: the other is closed all the same.
  request.descriptors.push_back({.number = foothold->userfaultfd_number, .fd = foothold->userfaultfd.get()});
  outcome = let_go(request);
  ASSERT_TRUE(outcome) << outcome.error().message();
  EXPECT_EQ(outcome->not_ours, std::vector<int>{kReportFd});
  EXPECT_EQ(descriptors_of(target.pid()).size(), before.size() - 1);
}

TEST(LetGo, ClosesNothingButUserfaultfds) {
  const TargetProcess target({"pause"});
  ASSERT_TRUE(target.started());
  const auto pidfd = kernel::open_pidfd(target.pid());
  const auto theirs = kernel::take_descriptor(pidfd->get(), kReportFd);
  ASSERT_TRUE(theirs);
  daemon::LetGoRequest request;
  request.id = target.id();
  request.descriptors.push_back({.number = kReportFd, .fd = theirs->get()});
  request.helper = request_for(target.id()).helper;
  EXPECT_EQ(let_go(request).error().code, std::errc::bad_file_descriptor);
  EXPECT_TRUE(descriptors_of(target.pid()).contains(kReportFd));
}

}  // namespace
}  // namespace tidepool::adopt_test
