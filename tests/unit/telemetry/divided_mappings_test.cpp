// Dividing memory for trackers, and reading what smaps says of the pieces.
#include "telemetry/hotness/divided_mappings.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "base/mapping.h"
#include "kmod-interfaces/pidfd.h"
#include "telemetry/hotness/referenced_tracker.h"
#include "telemetry/hotness/write_tracker.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"
#include "tests/unit/telemetry/tracked_fakes.h"

namespace tidepool::telemetry {
namespace {

using namespace std::chrono_literals;
using namespace tidepool::literals;

TEST(ChunkSize, LeavesAProcessMostOfItsMappings) {
  EXPECT_EQ(chunk_size(1_GiB, 65530, 100), 2_MiB);
  EXPECT_EQ(chunk_size(1_TiB, 65530, 100), 128_MiB);
  EXPECT_EQ(chunk_size(1_GiB, 65530, 65000), 8_MiB);
  EXPECT_EQ(chunk_size(1_GiB, 100, 200), 1_GiB) << "without room for any there is one chunk";
  EXPECT_EQ(chunk_size(Bytes{}, 65530, 0), 2_MiB);
}

// A process whose smaps is text of ours; its memory is some of this process's, so that the kernel's part is real.
class ReferencedFiles : public testing::Test {
 protected:
  static constexpr pid_t kTarget = 4711;
  static constexpr std::uint64_t kSize = 8ull << 20;

  void SetUp() override {
    tracker_ = std::make_unique<ReferencedTracker>(ReferencedConfig{}, tree_.roots(), clock_);
    tree_.link("proc/" + std::to_string(::getpid()), "/proc/" + std::to_string(::getpid()));
    tree_.add_process(kTarget, "target", "/usr/bin/target");
    if (!tracker_->info().usable) GTEST_SKIP() << tracker_->info().why_not;
    auto room = Mapping::anonymous(Bytes{kSize});
    auto first = kernel::Userfaultfd::create_for_self();
    auto second = kernel::Userfaultfd::create_for_self();
    ASSERT_TRUE(room && first && second);
    room_ = std::move(*room);
    start_ = reinterpret_cast<std::uintptr_t>(room_.data());
    auto divided = DividedMappings::divide(std::move(*first), std::move(*second), {{start_, start_ + kSize}}, 2_MiB);
    ASSERT_TRUE(divided) << divided.error().message();
    auto pidfd = kernel::open_pidfd(::getpid());
    ASSERT_TRUE(pidfd);
    auto memory = std::make_shared<TrackedMemory>();
    memory->vm = VmId{1};
    memory->objects.resize(1);
    memory->objects[0] = {{VmId{1}, 0}, whole_pages(Bytes{kSize}), false, true, nullptr};
    TrackedSpace space;
    space.process = kernel::Process::open(tree_.roots(), kTarget)->id();
    space.pidfd = std::make_shared<UniqueFd>(std::move(*pidfd));
    space.segments = {{{start_, start_ + kSize}, 0, PageIndex{0}}};
    space.divided = std::make_shared<DividedMappings>(std::move(*divided));
    memory->spaces.push_back(space);
    tracker_->set_cpu_share(1);
    tracker_->set_memory({memory});
  }

  static std::string chunk(std::uint64_t start, std::uint64_t end, const std::string& resident,
                           const std::string& referenced) {
    char line[128];
    std::snprintf(line, sizeof line, "%lx-%lx rw-p 00000000 00:00 0 \n", static_cast<unsigned long>(start),
                  static_cast<unsigned long>(end));
    return std::string(line) + "Rss: " + resident + " kB\nReferenced: " + referenced + " kB\nVmFlags: rd wr \n";
  }
  void say(const std::string& smaps) { tree_.write("proc/4711/smaps", smaps); }
  // Rounds until a look was taken in, or the tracker gave up.
  std::vector<policy::AccessSample> look(int patience = 5000) {
    SampleList seen;
    for (int i = 0; i < patience && seen.samples.empty() && tracker_->info().usable && looks_ == tracker_->info().cpu;
         ++i) {
      tracker_->round(seen);
      std::this_thread::sleep_for(1ms);
    }
    looks_ = tracker_->info().cpu;
    clock_.advance(70s);
    for (const auto& sample : seen.samples) EXPECT_TRUE(policy::well_formed(sample));
    return seen.samples;
  }

  kernel::KernelTree tree_;
  ManualClock clock_;
  Mapping room_;
  std::uint64_t start_ = 0;
  std::unique_ptr<ReferencedTracker> tracker_;
  Nanoseconds looks_{0};
};

TEST_F(ReferencedFiles, SayHowMuchOfEachChunkWasUsed) {
  const std::uint64_t at = start_;
  say(chunk(at, at + (2 << 20), "2048", "0") + chunk(at + (2 << 20), at + (4 << 20), "1024", "512") +
      chunk(at + (4 << 20), at + (6 << 20), "0", "0") + chunk(0x1000, 0x2000, "4", "4"));
  EXPECT_TRUE(look().empty()) << "the first look only makes memory cold";
  const auto samples = look();
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(samples[0].watched, 512u);
  EXPECT_EQ(samples[0].used, 0u);
  EXPECT_EQ(samples[1].pages.first.value, 512u);
  EXPECT_EQ(samples[1].watched, 256u);
  EXPECT_EQ(samples[1].used, 128u);
  EXPECT_GE(samples[1].window, 70s);
}

TEST_F(ReferencedFiles, ThatContradictThemselvesOrEndEarlyAreBelievedAsFarAsTheyGo) {
  look();
  say(chunk(start_, start_ + (2 << 20), "1024", "99999999") +
      chunk(start_ + (2 << 20), start_ + (4 << 20), "18446744073709551615", "many") + "7f00-");
  const auto samples = look();
  ASSERT_EQ(samples.size(), 1u);
  EXPECT_EQ(samples[0].used, samples[0].watched);
}

TEST_F(ReferencedFiles, ThatVanishEndNothing) {
  look();
  std::filesystem::remove_all(tree_.path_of("proc/4711"));
  EXPECT_TRUE(look(300).empty());
  EXPECT_TRUE(tracker_->info().usable) << tracker_->info().why_not;
}

TEST_F(ReferencedFiles, OfAKvmGuestAreLeftOut) {
  tree_.add_descriptor(kTarget, 9, "anon_inode:kvm-vm", "pos:\t0\nflags:\t02000002\n");
  say(chunk(start_, start_ + (2 << 20), "2048", "2048"));
  look(300);
  EXPECT_TRUE(look(300).empty());
}

TEST(WrittenPages, CountOnceAndWithinTheirRange) {
  constexpr AddressRange kRange{0x200000, 0x400000};
  std::uint64_t malformed = 0;
  const auto pages = [&](std::vector<kernel::uapi::page_region> regions) {
    return pages_in(kRange, regions, malformed).count();
  };
  EXPECT_EQ(pages({{0x200000, 0x202000, 0}, {0x3ff000, 0x400000, 0}}), 3u);
  EXPECT_EQ(pages({{0x200000, 0x204000, 0}, {0x202000, 0x206000, 0}}), 6u) << "overlapping";
  EXPECT_EQ(malformed, 0u);
  EXPECT_EQ(pages({{0, ~0ull, 0},
                   {0x1ff000, 0x201000, 0},
                   {0x3ff000, 0x401000, 0},
                   {0x202000, 0x202000, 0},
                   {0x204000, 0x202000, 0},
                   {0x200800, 0x202000, 0}}),
            0u);
  EXPECT_EQ(malformed, 6u);
}

}  // namespace
}  // namespace tidepool::telemetry
