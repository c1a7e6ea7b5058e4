// Processes that hand themselves off to a real agent: their memory moves and comes home, every byte as it was.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "tests/integration/handoff/handoff_peer.h"
#include "tests/integration/load/load_process.h"
#include "tests/support/agent_process.h"
#include "tests/support/process_state.h"

namespace tidepool::tests {
namespace {

Settings with(const Settings& more) {
  // Everything may go as soon as it is idle.
  Settings settings{{"mode", "\"active\""},
                    {"defaults.guarantee", "\"0%\""},
                    {"defaults.limit", "\"10%\""},
                    {"defaults.stall_budget", "\"100%\""},
                    {"adopt.handoff_group", "\"nogroup\""}};
  for (const auto& [key, value] : more) settings[key] = value;
  return settings;
}

class Handoff : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_agent(); !why.empty()) GTEST_SKIP() << why;
  }
  // A test of the hand-off: the agent, listening.
  void start_agent(const Settings& more = {}) {
    Settings settings = with(more);
    settings["adopt.handoff_socket"] = "\"" + socket() + "\"";
    agent_.write_settings(settings);
    ASSERT_EQ(::chmod(agent_.folder().path().c_str(), 0711), 0);  // for peers of other users
    ASSERT_TRUE(agent_.start());
  }
  std::string socket() const { return agent_.folder() / "handoff.sock"; }
  PeerOptions options() const {
    PeerOptions options;
    options.socket = socket();
    return options;
  }

  std::string show(const std::string& vm) const { return agent_.expect({"vm", "show", vm, "-o", "json"}, 0); }
  std::uint64_t figure(const std::string& vm, const std::string& key) const {
    const std::string text = show(vm);
    const std::size_t at = text.find("\"" + key + "\":");
    return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + key.size() + 3, nullptr, 10);
  }
  bool becomes_far(const std::string& vm, std::uint64_t bytes) const {
    return await([&] { return figure(vm, "far_bytes") >= bytes; });
  }
  std::string events(const std::string& vm) const { return agent_.expect({"vm", "events", vm}, 0); }

  AgentProcess agent_;
};

struct Kind {
  const char* name;
  bool shared;
  bool send_file;
  bool swapped;
  bool full_handshake;  // left to the agent, which then asks for everything
  unsigned regions;
};

class HandoffKinds : public Handoff, public testing::WithParamInterface<Kind> {
 protected:
  PeerOptions options_of(const Kind& kind) const {
    PeerOptions result = options();
    result.shared = kind.shared;
    result.send_file = kind.send_file;
    result.descriptors_swapped = kind.swapped;
    result.regions = kind.regions;
    if (kind.full_handshake) result.features.reset();
    return result;
  }
};

TEST_P(HandoffKinds, LivesOnLessMemoryAndLosesNothing) {
  start_agent();
  HandoffPeer peer(options_of(GetParam()));
  ASSERT_TRUE(peer.served()) << peer.answer();
  const std::string vm = peer.vm();
  EXPECT_NE(agent_.expect({"vm", "list"}, 0).find(vm), std::string::npos);
  EXPECT_NE(show(vm).find("\"origin\": \"handed-off\""), std::string::npos);
  ASSERT_TRUE(peer.fill(1));
  ASSERT_TRUE(becomes_far(vm, 4u << 20));
  EXPECT_TRUE(peer.holds(1));
  // System calls of its own reach far pages like its threads do.
  ASSERT_TRUE(becomes_far(vm, 4u << 20));
  EXPECT_TRUE(peer.kernel_reads());
  ASSERT_TRUE(peer.fill(2));
  ASSERT_TRUE(becomes_far(vm, 4u << 20));
  EXPECT_TRUE(peer.holds(2));
  ASSERT_TRUE(peer.start_working());
  const std::uint64_t before = figure(vm, "demoted_bytes_total");
  EXPECT_TRUE(await([&] { return figure(vm, "demoted_bytes_total") > before + (8u << 20); }));
  EXPECT_TRUE(peer.stop_working()) << "a byte was wrong while pages moved";
  ASSERT_TRUE(peer.fill(3));
  ASSERT_TRUE(becomes_far(vm, 4u << 20));
  agent_.expect({"vm", "release", vm}, 0);
  EXPECT_TRUE(peer.connection_closed()) << "who is released is told";
  EXPECT_TRUE(peer.holds(3));
  EXPECT_EQ(state_of_process(peer.pid()).watched_mappings, 0u);
  EXPECT_EQ(ring_threads(peer.pid()), 0u);
  EXPECT_EQ(agent_.stop(), 0);
}

INSTANTIATE_TEST_SUITE_P(Each, HandoffKinds,
                         testing::Values(Kind{"Private", false, false, false, false, 1},
                                         Kind{"PrivateInRegions", false, false, false, false, 4},
                                         Kind{"MemfdUnsent", true, false, false, false, 1},
                                         Kind{"MemfdSent", true, true, false, false, 2},
                                         Kind{"MemfdSentFirst", true, true, true, true, 1}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_F(Handoff, GivesBackZerosForWhatWasDiscarded) {
  start_agent();
  HandoffPeer peer(options());
  ASSERT_TRUE(peer.served()) << peer.answer();
  ASSERT_TRUE(peer.fill(1));
  ASSERT_TRUE(becomes_far(peer.vm(), 4u << 20));
  ASSERT_TRUE(peer.discard_first_half());
  EXPECT_TRUE(peer.holds(1));
}

TEST_F(Handoff, ServesTheWorkloadProgramUnderFullLoad) {
  start_agent();
  for (const char* memory : {"private", "memfd"}) {
    load::LoadProcess load(
        {"--memory", memory, "--size", "32MiB", "--threads", "4", "--duration", "0", "--handoff", socket()});
    const auto said = load.read_line();
    ASSERT_TRUE(said && said->starts_with("handed off vm=")) << said.value_or("nothing");
    const std::string vm = said->substr(said->find('=') + 1);
    load.wait_until_ready();
    EXPECT_TRUE(await([&] { return figure(vm, "demoted_bytes_total") > (32u << 20); }));
    load.signal(SIGTERM);
    EXPECT_EQ(load.wait_for_exit(), 0) << "a byte was wrong";
    EXPECT_TRUE(await([&] { return agent_.expect({"vm", "list", "-q"}, 0).empty(); }));
  }
}

TEST_F(Handoff, ServesPrivateMemoryWithoutPtraceAndNeverMovesIt) {
  start_agent({{"adopt.allow_ptrace", "false"}});
  HandoffPeer peer(options());
  ASSERT_TRUE(peer.served()) << peer.answer();
  const std::string vm = peer.vm();
  EXPECT_NE(agent_.expect({"vm", "list"}, 0).find("ptrace-forbidden"), std::string::npos);
  const std::string refusal = agent_.expect({"vm", "set", vm, "--mode", "active"}, 3);
  EXPECT_NE(refusal.find("allow_ptrace"), std::string::npos) << refusal;
  EXPECT_NE(agent_.expect({"explain", vm}, 0).find("Nothing may move"), std::string::npos);
  ASSERT_TRUE(peer.fill(1));
  EXPECT_TRUE(peer.holds(1));
  EXPECT_EQ(figure(vm, "demoted_bytes_total"), 0u);
  EXPECT_EQ(ring_threads(peer.pid()), 0u);
  agent_.expect({"vm", "release", vm}, 0);
  EXPECT_TRUE(peer.holds(1));
}

TEST_F(Handoff, MovesSharedMemoryWithoutPtrace) {
  start_agent({{"adopt.allow_ptrace", "false"}});
  PeerOptions wanted = options();
  wanted.shared = wanted.send_file = true;
  HandoffPeer peer(wanted);
  ASSERT_TRUE(peer.served()) << peer.answer();
  ASSERT_TRUE(peer.fill(1));
  ASSERT_TRUE(becomes_far(peer.vm(), 4u << 20));
  EXPECT_TRUE(peer.holds(1));
}

TEST_F(Handoff, ServesButNeverMovesWhereDiscardsWouldNotBeSeen) {
  start_agent();
  PeerOptions wanted = options();
  wanted.features = 0;
  wanted.blocking = true;
  HandoffPeer peer(wanted);
  ASSERT_TRUE(peer.served()) << peer.answer();
  EXPECT_NE(show(peer.vm()).find("discards-unseen"), std::string::npos);
  ASSERT_TRUE(peer.fill(1));
  EXPECT_TRUE(peer.holds(1));
  agent_.expect({"vm", "set", peer.vm(), "--mode", "active"}, 3);
}

TEST_F(Handoff, ServesButNeverMovesWhereTheKernelsFaultsAreNotServed) {
  start_agent();
  PeerOptions wanted = options();
  wanted.userfaultfd_flags = 1;  // UFFD_USER_MODE_ONLY
  HandoffPeer user_mode(wanted);
  ASSERT_TRUE(user_mode.served()) << user_mode.answer();
  EXPECT_NE(show(user_mode.vm()).find("user-mode-only"), std::string::npos);
  ASSERT_TRUE(user_mode.fill(1));
  EXPECT_TRUE(user_mode.holds(1));
  EXPECT_TRUE(user_mode.kernel_reads());
}

TEST_F(Handoff, RefusesUserfaultfdsThatAnswerByThemselves) {
  start_agent();
  PeerOptions wanted = options();
  wanted.features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_EVENT_REMOVE;
  const HandoffPeer peer(wanted);
  EXPECT_FALSE(peer.served());
  EXPECT_NE(peer.answer().find("UFFD_FEATURE_SIGBUS"), std::string::npos) << peer.answer();
}

TEST_F(Handoff, RefusesTheUserfaultfdOfAnotherProcess) {
  start_agent();
  PeerOptions wanted = options();
  wanted.foreign = true;
  for (const bool touched : {false, true}) {
    wanted.touches_first = touched;
    const HandoffPeer peer(wanted);
    EXPECT_FALSE(peer.served());
    EXPECT_NE(peer.answer().find("not of its address space"), std::string::npos) << peer.answer();
  }
}

TEST_F(Handoff, ServesButNeverMovesPrivateMemoryThatIsAllThereAlready) {
  start_agent();
  PeerOptions wanted = options();
  wanted.touches_first = true;
  HandoffPeer peer(wanted);
  ASSERT_TRUE(peer.served()) << peer.answer();
  EXPECT_NE(show(peer.vm()).find("user-mode-only"), std::string::npos);
  ASSERT_TRUE(peer.fill(1));
  EXPECT_TRUE(peer.holds(1));
}

TEST_F(Handoff, MovesSharedMemoryThatIsAllThereAlready) {
  start_agent();
  PeerOptions wanted = options();
  wanted.touches_first = wanted.shared = true;
  HandoffPeer peer(wanted);
  ASSERT_TRUE(peer.served()) << peer.answer();
  ASSERT_TRUE(peer.fill(1));
  ASSERT_TRUE(becomes_far(peer.vm(), 4u << 20));
  EXPECT_TRUE(peer.holds(1));
}

TEST_F(Handoff, RefusesProgramsThatAreNotAllowed) {
  start_agent({{"adopt.allow_exe", "[\"/usr/bin/qemu-system-*\"]"}});
  const HandoffPeer peer(options());
  EXPECT_FALSE(peer.served());
  EXPECT_NE(peer.answer().find("adopt.allow_exe"), std::string::npos) << peer.answer();
}

class Snapshot : public Handoff {
 protected:
  // A memory file with holes, zeros and content, `pages` long.
  std::string memory_file(std::uint64_t pages, uid_t owner = 0) const {
    const std::string path = agent_.folder() / "memory";
    std::ofstream file(path, std::ios::binary);
    std::mt19937_64 random(11);
    std::vector<std::uint64_t> page(kPageSize / 8);
    for (std::uint64_t i = 0; i < pages; ++i) {
      if (i / 64 % 3 == 0) {
        file.seekp(static_cast<std::streamoff>((i + 1) * kPageSize));
        continue;
      }
      for (std::uint64_t& word : page) word = i % 5 == 0 ? 0 : random();
      file.write(reinterpret_cast<const char*>(page.data()), kPageSize);
    }
    file.close();
    EXPECT_EQ(::truncate(path.c_str(), static_cast<off_t>(pages * kPageSize)), 0);
    EXPECT_EQ(::chown(path.c_str(), owner, owner), 0);
    return path;
  }
  void start_agent_with_rule(const std::string& memory_file) {
    Settings settings = with({{"adopt.handoff_socket", "\"" + socket() + "\""}});
    agent_.write_settings(settings);
    std::ofstream more(agent_.config(), std::ios::app);
    more << "[[rule]]\nmatch = { exe = \"*\" }\nmemory_file = \"" << memory_file << "\"\n";
    more.close();
    ASSERT_EQ(::chmod(agent_.folder().path().c_str(), 0711), 0);
    ASSERT_TRUE(agent_.start());
  }
};

TEST_F(Snapshot, FillsTheMemoryBeforeItIsServed) {
  for (const bool shared : {false, true}) {
    PeerOptions wanted = options();
    wanted.shared = shared;
    wanted.regions = 2;
    const std::string path = memory_file(wanted.pages);
    start_agent_with_rule(path);
    HandoffPeer peer(wanted);
    ASSERT_TRUE(peer.served()) << peer.answer();
    EXPECT_TRUE(peer.holds_file(path));
    ASSERT_TRUE(becomes_far(peer.vm(), 3u << 20));
    EXPECT_TRUE(peer.holds_file(path));
    agent_.expect({"vm", "release", peer.vm()}, 0);
    EXPECT_TRUE(peer.holds_file(path));
    EXPECT_EQ(agent_.stop(), 0);
  }
}

TEST_F(Snapshot, GivesNobodyAFileThatIsNotItsUsers) {
  PeerOptions wanted = options();
  const std::string path = memory_file(wanted.pages, 4711);
  start_agent_with_rule(path);
  wanted.user = 65534;
  wanted.group = 65534;
  {
    const HandoffPeer stranger(wanted);
    EXPECT_FALSE(stranger.served());
    EXPECT_NE(stranger.answer().find("must belong to the VM's user (uid 65534)"), std::string::npos)
        << stranger.answer();
  }
  ASSERT_EQ(::chown(path.c_str(), 65534, 0), 0);
  HandoffPeer owner(wanted);
  ASSERT_TRUE(owner.served()) << owner.answer();
  EXPECT_TRUE(owner.holds_file(path));
}

TEST_F(Snapshot, RefusesAFileThatIsTooShortOrMissing) {
  PeerOptions wanted = options();
  const std::string path = memory_file(wanted.pages / 2);
  start_agent_with_rule(path);
  {
    const HandoffPeer peer(wanted);
    EXPECT_FALSE(peer.served());
    EXPECT_NE(peer.answer().find("is it this snapshot's?"), std::string::npos) << peer.answer();
  }
  ASSERT_EQ(::unlink(path.c_str()), 0);
  const HandoffPeer peer(wanted);
  EXPECT_FALSE(peer.served());
  EXPECT_NE(peer.answer().find("open memory file"), std::string::npos) << peer.answer();
}

}  // namespace
}  // namespace tidepool::tests
