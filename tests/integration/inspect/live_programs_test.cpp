// The choice of memory in programs as they are installed: the guest's RAM of QEMU, the cache of memcached, the heap of
// Redis.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "daemon/vm/eligibility.h"
#include "tests/support/child_process.h"

namespace tidepool::daemon {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;
const kernel::KernelRoots kRoots;

// Becomes the program; reports only when that fails. Its output goes nowhere.
std::string become(const std::vector<std::string>& arguments) {
  if (::access(arguments[0].c_str(), X_OK) != 0) return "skip: " + arguments[0] + " is not installed";
  std::vector<char*> list;
  for (const std::string& argument : arguments) list.push_back(const_cast<char*>(argument.c_str()));
  list.push_back(nullptr);
  const int null = ::open("/dev/null", O_RDWR);
  for (const int fd : {0, 1, 2}) ::dup2(null, fd);
  ::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
  ::execv(list[0], list.data());
  return "exec failed";
}

// Facts of the program once they satisfy `ready`: it needs a while to set itself up.
ProcessFacts facts_when(const ChildProcess& program, const std::string& selector,
                        const std::function<bool(const ProcessFacts&)>& ready) {
  ProcessFacts facts;
  for (int attempt = 0; attempt < 600; ++attempt) {
    auto found = collect_facts(program.pid(), kRoots, *parse_memory_selector(selector));
    if (found) facts = std::move(*found);
    if (found && ready(facts)) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return facts;
}

bool eligible(const ProcessFacts& facts) {
  AdoptionRules rules;
  rules.allow_executables = {"*"};
  return check_eligibility(facts, rules).eligible();
}

TEST(LivePrograms, QemuWithPrivateMemory) {
  const ChildProcess qemu([] {
    return become({"/usr/bin/qemu-system-x86_64", "-name", "guest=web-3,debug-threads=on", "-m", "96", "-display",
                   "none", "-nodefaults", "-S"});
  });
  ASSERT_READY(qemu);
  const auto ram = [](const ProcessFacts& facts) {
    return facts.hypervisor && facts.mappings.total() == Bytes{96 * kMiB};
  };
  const ProcessFacts facts = facts_when(qemu, "auto", ram);
  EXPECT_TRUE(ram(facts)) << facts.mappings.chosen.size() << " mappings, " << facts.mappings.total().value << " bytes";
  EXPECT_TRUE(facts.mappings.has_private());
  EXPECT_EQ(facts.name, "web-3");
  EXPECT_TRUE(eligible(facts));
}

TEST(LivePrograms, QemuWithSharedMemory) {
  const ChildProcess qemu([] {
    return become({"/usr/bin/qemu-system-x86_64", "-name", "db-1", "-m", "96", "-display", "none", "-nodefaults", "-S",
                   "-machine", "q35,memory-backend=m", "-object", "memory-backend-memfd,id=m,size=96M,share=on"});
  });
  ASSERT_READY(qemu);
  const auto ram = [](const ProcessFacts& facts) {
    return facts.mappings.chosen.size() == 1 && facts.mappings.chosen[0].kind == MemoryKind::memfd;
  };
  const ProcessFacts facts = facts_when(qemu, "auto", ram);
  ASSERT_TRUE(ram(facts)) << facts.mappings.chosen.size() << " mappings";
  EXPECT_EQ(facts.mappings.total(), Bytes{96 * kMiB});
  EXPECT_EQ(facts.name, "db-1");
  EXPECT_TRUE(eligible(facts));
}

TEST(LivePrograms, QemuWithLockedMemoryIsRefused) {
  const ChildProcess qemu([] {
    return become({"/usr/bin/qemu-system-x86_64", "-name", "db-1", "-m", "96", "-display", "none", "-nodefaults", "-S",
                   "-overcommit", "mem-lock=on"});
  });
  ASSERT_READY(qemu);
  const auto locked = [](const ProcessFacts& facts) {
    return facts.mappings.blocked_by(Exclusion::locked) == Bytes{96 * kMiB};
  };
  const ProcessFacts facts = facts_when(qemu, "auto", locked);
  EXPECT_TRUE(locked(facts));
  EXPECT_FALSE(eligible(facts));
}

TEST(LivePrograms, MemcachedOnTmpfs) {
  const std::string file = "/dev/shm/tidepool-inspect-" + std::to_string(::getpid());
  {
    const ChildProcess memcached([&] {
      // A socket rather than a port: nothing else on this machine can have it.
      return become({"/usr/bin/memcached", "-u", "root", "-m", "64", "-e", file, "-s", file + ".sock"});
    });
    ASSERT_READY(memcached);
    const auto cache = [&](const ProcessFacts& facts) {
      return facts.mappings.chosen.size() == 1 && facts.mappings.chosen[0].path == file;
    };
    const ProcessFacts facts = facts_when(memcached, "auto", cache);
    EXPECT_TRUE(cache(facts));
    EXPECT_EQ(facts.mappings.total(), Bytes{64 * kMiB});
    EXPECT_TRUE(eligible(facts));
  }
  ::unlink(file.c_str());
  ::unlink((file + ".sock").c_str());
}

TEST(LivePrograms, RedisHeap) {
  const std::string socket = "/dev/shm/tidepool-inspect-redis-" + std::to_string(::getpid());
  {
    const ChildProcess redis([&] {
      return become({"/usr/bin/redis-server", "--port", "0", "--unixsocket", socket, "--save", ""});
    });
    ASSERT_READY(redis);
    const auto heap = [](const ProcessFacts& facts) { return facts.mappings.has_private(); };
    const ProcessFacts facts = facts_when(redis, "auto", heap);
    EXPECT_TRUE(heap(facts));
    EXPECT_TRUE(facts.mappings.objects().empty());
    EXPECT_TRUE(eligible(facts));
  }
  ::unlink(socket.c_str());
}

}  // namespace
}  // namespace tidepool::daemon
