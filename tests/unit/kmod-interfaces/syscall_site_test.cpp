// Which thread of a process is stopped for a moment, when it is adopted.
#include "kmod-interfaces/syscall_site.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>

namespace tidepool::kernel {
namespace {

const std::string kOnFutex =
    std::to_string(SYS_futex) + " 0x7f0000000000 0x80 0x0 0x0 0x0 0x0 0x7ffd0000 0x7f0000001000";
const std::string kInPoll =
    std::to_string(SYS_ppoll) + " 0x55d000000000 0x8 0x7ffd0000 0x0 0x8 0x0 0x7ffd0000 0x7f0000001000";
const std::string kInGuest = std::to_string(SYS_ioctl) + " 0x1b 0xae80 0x0 0x0 0x0 0x0 0x7ffd0000 0x7f0000001000";

ThreadCandidate thread(pid_t tid, const std::string& name, char state, const std::string& call) {
  ThreadCandidate candidate;
  candidate.thread.tid = tid;
  candidate.thread.comm = name;
  candidate.thread.state = state;
  candidate.system_call = call;
  candidate.leader = tid == 100;
  return candidate;
}

using Threads = std::vector<pid_t>;

TEST(RankThreads, VcpusAreNeverChosen) {
  const std::vector candidates{thread(100, "qemu-system-x86", 'S', kInPoll), thread(101, "call_rcu", 'S', kOnFutex),
                               thread(102, "CPU 0/KVM", 'S', kOnFutex),      thread(103, "CPU 1/TCG", 'R', "running"),
                               thread(104, "fc_vcpu 0", 'S', kInGuest),      thread(105, "vcpu0", 'S', kInGuest)};
  EXPECT_EQ(rank_threads(candidates), (Threads{101, 100}));
}

TEST(RankThreads, AThreadInTheGuestIsAVcpuWhateverItsName) {
  const std::vector candidates{thread(100, "vmm", 'S', kInPoll), thread(101, "worker", 'S', kInGuest)};
  EXPECT_EQ(rank_threads(candidates), Threads{100});
}

TEST(RankThreads, WhereNamesDoNotTellAFutexSleeperMayBeAHaltedVcpu) {
  const std::vector candidates{thread(100, "qemu-system-x86", 'S', kInPoll),
                               thread(101, "qemu-system-x86", 'S', kOnFutex),
                               thread(102, "qemu-system-x86", 'S', kOnFutex)};
  EXPECT_EQ(rank_threads(candidates), (Threads{100, 101, 102}));
}

TEST(RankThreads, WorkersOfTheKernelAndThreadsThatCannotStopAreNeverChosen) {
  std::vector candidates{thread(100, "program", 'R', "running"), thread(101, "iou-wrk-100", 'S', ""),
                         thread(102, "vhost-100", 'S', ""),      thread(103, "kvm-nx-lpage-re", 'S', ""),
                         thread(104, "program", 'D', ""),        thread(105, "program", 'Z', "")};
  EXPECT_EQ(rank_threads(candidates), Threads{100});
  candidates[0].thread.user_worker = true;
  EXPECT_TRUE(rank_threads(candidates).empty());
}

TEST(RankThreads, IdleThreadsComeBeforeStoppedAndRunningOnes) {
  const std::vector candidates{thread(100, "program", 'R', "running"), thread(101, "program", 'T', ""),
                               thread(102, "program", 'S', kInPoll)};
  EXPECT_EQ(rank_threads(candidates), (Threads{102, 101, 100}));
}

}  // namespace
}  // namespace tidepool::kernel
