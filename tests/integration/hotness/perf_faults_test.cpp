// The page faults of a real process name the pages that it touches first.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <thread>

#include "telemetry/hotness/perf_tracker.h"
#include "tests/support/child_process.h"
#include "tests/unit/telemetry/tracked_fakes.h"

namespace tidepool::telemetry {
namespace {

constexpr std::uint8_t kPages = 64;
constexpr std::uint8_t kAnotherThread = 255;

// In the child: writes to the pages that it is told, one byte each, and answers when it has. Another thread goes on in
// its place when it is told so.
void serve(int orders, int answers, std::byte* memory) {
  for (std::uint8_t order = 0; ::read(orders, &order, 1) == 1;) {
    if (order == kAnotherThread) {
      std::thread(serve, orders, answers, memory).detach();
    } else {
      *reinterpret_cast<volatile std::uint8_t*>(memory + order * kPageSize) = 1;
    }
    if (::write(answers, &order, 1) != 1 || order == kAnotherThread) return;
  }
}

class PerfFaults : public testing::Test {
 protected:
  void SetUp() override {
    if (!tracker_.info().usable) GTEST_SKIP() << tracker_.info().why_not;
    memory_ = *Mapping::anonymous(Bytes{kPages * kPageSize});
    ::madvise(memory_.data(), memory_.size(), MADV_NOHUGEPAGE);
    std::array<int, 2> orders{};
    std::array<int, 2> answers{};
    ASSERT_EQ(::pipe2(orders.data(), O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(answers.data(), O_CLOEXEC), 0);
    child_.emplace([&] {
      std::thread(serve, orders[0], answers[1], memory_.data()).detach();
      return std::string();
    });
    orders_ = UniqueFd(orders[1]);
    answers_ = UniqueFd(answers[0]);
    ::close(orders[0]);
    ::close(answers[1]);
    ASSERT_READY(*child_);
    watch();
  }

  void watch() {
    const auto process = kernel::Process::open({}, child_->pid());
    ASSERT_TRUE(process);
    const auto start = reinterpret_cast<std::uintptr_t>(memory_.data());
    auto view = std::make_shared<TrackedMemory>();
    view->vm = VmId{1};
    view->epoch = 1;
    view->objects = {{{VmId{1}, 0}, PageCount{kPages}, false, false, nullptr}};
    TrackedSpace space;
    space.process = process->id();
    space.segments = {{{start, start + memory_.size()}, 0, PageIndex{0}}};
    view->spaces = {space};
    tracker_.set_memory({view});
    tracker_.set_cpu_share(1);
    round();
  }

  void order(std::uint8_t what) {
    ASSERT_EQ(::write(orders_.get(), &what, 1), 1);
    std::uint8_t answer = 0;
    ASSERT_EQ(::read(answers_.get(), &answer, 1), 1);
    ASSERT_EQ(answer, what);
  }
  std::vector<std::uint64_t> round() {
    SampleList sink;
    tracker_.round(sink);
    std::vector<std::uint64_t> pages;
    for (const auto& sample : sink.samples) pages.push_back(sample.pages.first.value);
    return pages;
  }

  const SystemClock clock_{};
  const ThreadCpuClock cpu_{};
  // What the processor may sample besides is left out; every round looks for new threads.
  PerfTracker tracker_{{.refresh = Nanoseconds{0}}, kernel::KernelRoots{.sys = "/nowhere"}, clock_, cpu_};
  Mapping memory_;
  std::optional<ChildProcess> child_;
  UniqueFd orders_;
  UniqueFd answers_;
};

TEST_F(PerfFaults, NameThePagesThatAChildTouchesFirst) {
  for (const std::uint8_t page : std::to_array<std::uint8_t>({9, 2, 31})) order(page);
  EXPECT_EQ(round(), (std::vector<std::uint64_t>{2, 9, 31}));
  for (const std::uint8_t page : std::to_array<std::uint8_t>({9, 2, 32})) order(page);
  EXPECT_EQ(round(), std::vector<std::uint64_t>{32});
}

TEST_F(PerfFaults, AreSeenInThreadsThatBeganLater) {
  order(kAnotherThread);
  round();  // finds it
  order(7);
  EXPECT_EQ(round(), std::vector<std::uint64_t>{7});
}

TEST_F(PerfFaults, DoNotMakeItUnusableWhenTheProcessEnds) {
  order(5);
  child_->leave_as_zombie();
  EXPECT_TRUE(tracker_.info().usable);
  for (int i = 0; i < 5; ++i) round();
  EXPECT_TRUE(tracker_.info().usable) << tracker_.info().why_not;
}

}  // namespace
}  // namespace tidepool::telemetry
