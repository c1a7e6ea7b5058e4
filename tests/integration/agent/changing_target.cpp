// A process that does to its address space whatever a process can do, and knows what every word of it should be.
//
//   changing_target private|shared SEED [quiet] OPERATIONS...
//
// quiet: nothing is changed before SIGUSR2 comes.
//
// OPERATIONS: those that the changing thread chooses from, all when none is named:
//   fork      a child verifies everything, writes to it (private memory: to its copy), verifies again, forks once more
//   spawn     fork and exec, and vfork and exec
//   unmap     a part of a block, which is filled anew at the same place
//   move      mremap to another place; move-fixed: onto a block that is there; leave: MREMAP_DONTUNMAP
//   resize    mremap to more or less
//   discard   MADV_DONTNEED (and MADV_REMOVE); free: MADV_FREE, after which every page is written first
//   protect   mprotect to nothing and back
//   grow      one more block, or one less; more: one more, up to a number
//   thread    threads that come, work and go
//
// Prints `ready pid=N address=A-B` (of its first block). SIGTERM: verifies all, prints `mismatches N`, ends with 0 when
// there was none. SIGUSR1: replaces itself by exec of /bin/sleep. No sanitizer: it is the patient, not the program.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kWords = kPage / sizeof(std::uint64_t);
constexpr std::size_t kBlockPages = 1024;
constexpr std::size_t kMostPages = 2048;
constexpr std::size_t kFirstBlocks = 6;
constexpr std::size_t kMostBlocks = 10;

using Random = std::mt19937_64;

// A page of version 0 is zeros; of any other, words that follow from block, page and version.
std::uint64_t word_of(std::uint64_t block, std::uint64_t page, std::uint64_t version, std::size_t index) {
  if (version == 0) return 0;
  std::uint64_t x = block * 0x9e3779b97f4a7c15ull + page * 0xbf58476d1ce4e5b9ull + version * 0x94d049bb133111ebull;
  // Most pages compress, some do not.
  x += (page % 4 == 0) ? index * 0xd6e8feb86659fd93ull : index / 64;
  x ^= x >> 31;
  return x * 0xff51afd7ed558ccdull;
}

struct Block {
  std::uint64_t id = 0;
  bool shared = false;
  int file = -1;
  std::byte* memory = nullptr;
  std::vector<std::uint64_t> versions;  // per page
  std::mutex mutex;

  std::uint64_t* page(std::size_t i) const { return reinterpret_cast<std::uint64_t*>(memory + i * kPage); }
  std::size_t pages() const { return versions.size(); }
  std::size_t bytes() const { return versions.size() * kPage; }
  void write(std::size_t i) {
    ++versions[i];
    for (std::size_t k = 0; k < kWords; ++k) page(i)[k] = word_of(id, i, versions[i], k);
  }
  // What is refused moved nothing.
  bool is_mapped() const {
    for (std::size_t i = 0; i < pages(); i += 16) {
      unsigned char in = 0;
      if (::mincore(page(i), kPage, &in) != 0) return false;
    }
    return true;
  }
  bool right(std::size_t i) const {
    for (std::size_t k = 0; k < kWords; ++k) {
      if (page(i)[k] != word_of(id, i, versions[i], k)) return false;
    }
    return true;
  }
};

std::atomic<std::uint64_t> mismatches{0};
std::atomic<bool> stopping{false};
std::atomic<bool> replacing{false};
std::atomic<bool> quiet{false};

void check(const Block& block, std::size_t i, const char* after) {
  if (block.right(i)) return;
  if (mismatches++ >= 20) return;
  // Which words, and whether that lasts.
  std::size_t wrong = 0;
  std::size_t first = kWords;
  std::size_t last = 0;
  std::uint64_t found = 0;
  for (std::size_t k = 0; k < kWords; ++k) {
    const std::uint64_t now = block.page(i)[k];
    if (now == word_of(block.id, i, block.versions[i], k)) continue;
    if (wrong++ == 0) {
      first = k;
      found = now;
    }
    last = k;
  }
  std::uint64_t is = block.versions[i];
  while (is > 0 && found != word_of(block.id, i, is, first)) --is;
  std::printf(
      "block %lu page %zu (%p) version %lu is wrong after %s: %zu words, %zu to %zu; %016lx: version %lu (pid %d)\n",
      block.id, i, static_cast<void*>(block.page(i)), block.versions[i], after, wrong, first, last, found, is,
      ::getpid());
  std::fflush(stdout);
}

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::abort();
}

std::byte* map(std::size_t bytes, bool shared, int file, void* where = nullptr) {
  int flags = shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  if (where != nullptr) flags |= MAP_FIXED;
  void* memory = ::mmap(where, bytes, PROT_READ | PROT_WRITE, flags, shared ? file : -1, 0);
  if (memory == MAP_FAILED) die("mmap");
  return static_cast<std::byte*>(memory);
}

class Memory {
 public:
  Memory(bool shared, std::uint64_t seed) : shared_(shared), random_(seed) {}

  Block& add() {
    auto block = std::make_unique<Block>();
    block->id = ++last_id_;
    block->shared = shared_;
    block->versions.resize(kBlockPages);
    if (shared_) {
      block->file = ::memfd_create("changing-target", MFD_CLOEXEC);
      if (block->file < 0 || ::ftruncate(block->file, kMostPages * kPage) != 0) die("memfd");
    }
    block->memory = map(block->bytes(), shared_, block->file);
    for (std::size_t i = 0; i < block->pages(); ++i) block->write(i);
    blocks_.push_back(std::move(block));
    return *blocks_.back();
  }
  void remove_last() {
    Block& block = *blocks_.back();
    ::munmap(block.memory, block.bytes());
    if (block.file >= 0) ::close(block.file);
    blocks_.pop_back();
  }
  std::size_t size() const { return blocks_.size(); }
  Block& operator[](std::size_t i) { return *blocks_[i]; }
  Block& any() { return *blocks_[random_() % blocks_.size()]; }
  void check_all(const char* after) {
    for (const auto& block : blocks_) {
      for (std::size_t i = 0; i < block->pages(); ++i) check(*block, i, after);
    }
  }
  // The list itself; each block has a lock of its own.
  std::mutex mutex;

 private:
  bool shared_;
  Random random_;
  std::uint64_t last_id_ = 0;
  std::vector<std::unique_ptr<Block>> blocks_;
};

// Writes and checks single pages until told to stop; `rounds` 0: for ever.
void work(Memory& memory, std::uint64_t seed, std::uint64_t rounds) {
  Random random(seed);
  for (std::uint64_t round = 0; !stopping && (rounds == 0 || round < rounds); ++round) {
    {
      std::unique_lock list(memory.mutex);
      Block& block = memory[random() % memory.size()];
      const std::unique_lock lock(block.mutex);
      list.unlock();
      for (int k = 0; k < 8; ++k) {
        const std::size_t i = random() % block.pages();
        check(block, i, "work");
        if (random() % 3 == 0) block.write(i);
      }
    }
    // The locks are not fair: let the changing thread have them.
    ::usleep(20);
  }
}

class Changer {
 public:
  Changer(Memory& memory, bool shared, std::uint64_t seed) : memory_(memory), shared_(shared), random_(seed) {
    operations_ = {
        {"fork", [this] { fork(1); }},      {"spawn", [this] { spawn(); }},     {"unmap", [this] { unmap(); }},
        {"move", [this] { move(); }},       {"move-fixed", [this] { onto(); }}, {"leave", [this] { leave(); }},
        {"resize", [this] { resize(); }},   {"discard", [this] { discard(); }}, {"free", [this] { free(); }},
        {"protect", [this] { protect(); }}, {"grow", [this] { grow(); }},       {"more", [this] { more(); }},
        {"thread", [this] { threads(); }}};
  }
  bool knows(const std::string& name) const { return operations_.contains(name); }
  void run(const std::vector<std::string>& names) {
    while (quiet && !stopping && !replacing) ::usleep(1000);
    while (!stopping) {
      const std::string& name = names[random_() % names.size()];
      operations_.at(name)();
      ++done_[name];
      reap(false);
      ::usleep(static_cast<unsigned>(random_() % 4000));
      if (replacing) replace();
    }
    reap(true);
    for (const auto& [name, count] : done_) std::printf("%s %lu\n", name.c_str(), count);
  }

 private:
  struct Piece {
    std::unique_lock<std::mutex> list;
    std::unique_lock<std::mutex> lock;
    Block* block;
    std::size_t first;
    std::size_t count;
    std::byte* at() const { return block->memory + first * kPage; }
    std::size_t bytes() const { return count * kPage; }
  };
  Piece piece() {
    std::unique_lock list(memory_.mutex);
    Block& block = memory_.any();
    std::unique_lock lock(block.mutex);
    const std::size_t first = random_() % block.pages();
    const std::size_t count =
        1 + random_() % std::min<std::size_t>(block.pages() - first, random_() % 4 == 0 ? 600 : 40);
    return {std::move(list), std::move(lock), &block, first, count};
  }
  void look(const Piece& piece, const char* after) {
    check(*piece.block, piece.first, after);
    check(*piece.block, piece.first + random_() % piece.count, after);
  }

  void fork(int generations) {
    const std::lock_guard list(memory_.mutex);
    std::vector<std::unique_lock<std::mutex>> locks;
    for (std::size_t i = 0; i < memory_.size(); ++i) locks.emplace_back(memory_[i].mutex);
    const pid_t pid = ::fork();
    if (pid < 0) die("fork");
    if (pid == 0) child(generations);
    // A child of shared memory must be done before anybody here writes to it.
    if (shared_) {
      wait_for(pid);
    } else {
      children_.push_back(pid);
    }
  }
  [[noreturn]] void child(int generations) {
    mismatches = 0;
    memory_.check_all("fork, in the child");
    for (std::size_t b = 0; b < memory_.size(); ++b) {
      for (std::size_t i = 0; !shared_ && i < memory_[b].pages(); i += 1 + random_() % 16) memory_[b].write(i);
    }
    if (generations > 0) {
      const pid_t pid = ::fork();
      if (pid == 0) child(generations - 1);
      wait_for(pid);
    }
    memory_.check_all("writing, in the child");
    ::_exit(mismatches == 0 ? 0 : 1);
  }
  static void wait_for(pid_t pid) {
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (status != 0) {
      std::printf("child %d ended with status %x\n", pid, status);
      ++mismatches;
    }
  }
  void reap(bool all) {
    while (children_.size() > (all ? 0 : 3)) {
      wait_for(children_.front());
      children_.pop_front();
    }
  }

  void spawn() {
    const char* arguments[] = {"/bin/true", nullptr};
    pid_t pid = 0;
    // glibc: vfork in all but name.
    if (::posix_spawn(&pid, arguments[0], nullptr, nullptr, const_cast<char**>(arguments), environ) == 0) wait_for(pid);
    pid = ::fork();
    if (pid == 0) {
      ::execv(arguments[0], const_cast<char**>(arguments));
      ::_exit(127);
    }
    wait_for(pid);
  }
  void unmap() {
    const Piece hole = piece();
    if (::munmap(hole.at(), hole.bytes()) != 0) die("munmap");
    // Filled again at once: nothing of what was there may return, and nothing new may go.
    int flags = MAP_FIXED_NOREPLACE | (shared_ ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
    void* again = ::mmap(hole.at(), hole.bytes(), PROT_READ | PROT_WRITE, flags, hole.block->file,
                         shared_ ? static_cast<off_t>(hole.first * kPage) : 0);
    if (again != hole.at()) die("mmap again");
    for (std::size_t i = hole.first; i < hole.first + hole.count && !shared_; ++i) hole.block->versions[i] = 0;
    look(hole, "unmap");
    for (std::size_t i = hole.first; i < hole.first + hole.count; ++i) hole.block->write(i);
  }
  // A block that the kernel keeps as several mappings does not move as one.
  void refused(const Block& block, std::byte* target, std::size_t bytes) {
    if (errno != EFAULT && errno != EINVAL) die("mremap");
    ++done_["(refused)"];
    if (!block.is_mapped()) {
      std::printf("a refused mremap has moved a part\n");
      ++mismatches;
      std::abort();
    }
    if (target != nullptr) ::munmap(target, bytes);
  }
  void move() {
    const Piece all = piece();
    Block& block = *all.block;
    std::byte* target = map(block.bytes(), false, -1);
    void* now = ::mremap(block.memory, block.bytes(), block.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED, target);
    if (now == MAP_FAILED) return refused(block, target, block.bytes());
    block.memory = target;
    look(all, "move");
  }
  // Onto memory that is watched itself: what was there is gone.
  void onto() {
    const std::lock_guard list(memory_.mutex);
    if (memory_.size() < kFirstBlocks + 1) {
      memory_.add();
      return;
    }
    Block& last = memory_[memory_.size() - 1];
    Block& other = memory_[random_() % (memory_.size() - 1)];
    const std::lock_guard lock(other.mutex);
    if (last.pages() != other.pages()) return;
    std::byte* target = last.memory;
    void* now = ::mremap(other.memory, other.bytes(), other.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED, target);
    if (now == MAP_FAILED) return refused(other, nullptr, 0);
    last.memory = map(last.bytes(), last.shared, last.file);
    if (!shared_) std::fill(last.versions.begin(), last.versions.end(), 0);
    other.memory = target;
    for (std::size_t i = 0; i < other.pages(); i += 7) check(other, i, "move onto another");
    for (std::size_t i = 0; i < last.pages(); i += 7) check(last, i, "being moved onto");
    for (std::size_t i = 0; i < last.pages(); ++i) last.write(i);
  }
  void leave() {
    const Piece all = piece();
    Block& block = *all.block;
    if (block.shared) return;  // private anonymous memory only, before Linux 5.13
    std::byte* old = block.memory;
    void* now = ::mremap(old, block.bytes(), block.bytes(), MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
    if (now == MAP_FAILED) return refused(block, nullptr, 0);
    block.memory = static_cast<std::byte*>(now);
    look(all, "leave");
    // What stays behind is empty.
    const std::size_t at = random_() % block.pages();
    if (old[at * kPage] != std::byte{0}) {
      std::printf("memory that was left is not empty\n");
      ++mismatches;
    }
    ::munmap(old, block.bytes());
  }
  void resize() {
    const Piece all = piece();
    Block& block = *all.block;
    const std::size_t pages = kBlockPages / 2 + random_() % (kMostPages - kBlockPages / 2);
    void* now = ::mremap(block.memory, block.bytes(), pages * kPage, MREMAP_MAYMOVE);
    if (now == MAP_FAILED) return refused(block, nullptr, 0);
    block.memory = static_cast<std::byte*>(now);
    const std::size_t before = block.pages();
    block.versions.resize(pages);
    // Behind what was there lie zeros, or what the file holds from an earlier time: written before it is looked at.
    for (std::size_t i = before; i < pages; ++i) {
      if (!shared_ && random_() % 8 == 0) check(block, i, "growing");
      block.write(i);
    }
    check(block, std::min(all.first, pages - 1), "resize");
  }
  void discard() {
    const Piece part = piece();
    const bool keeps = shared_ && random_() % 3 == 0;
    if (::madvise(part.at(), part.bytes(), shared_ && !keeps ? MADV_REMOVE : MADV_DONTNEED) != 0) die("madvise");
    for (std::size_t i = part.first; i < part.first + part.count && !keeps; ++i) part.block->versions[i] = 0;
    look(part, keeps ? "unmapping entries" : "discard");
  }
  void free() {
    const Piece part = piece();
    if (shared_) return;
    if (::madvise(part.at(), part.bytes(), MADV_FREE) != 0) die("madvise free");
    for (std::size_t i = part.first; i < part.first + part.count; ++i) part.block->write(i);
    look(part, "free");
  }
  void protect() {
    const Piece part = piece();
    if (::mprotect(part.at(), part.bytes(), PROT_NONE) != 0) die("mprotect");
    ::usleep(200);
    if (::mprotect(part.at(), part.bytes(), PROT_READ) != 0) die("mprotect");
    look(part, "protect");
    if (::mprotect(part.at(), part.bytes(), PROT_READ | PROT_WRITE) != 0) die("mprotect");
  }
  void more() {
    const std::lock_guard list(memory_.mutex);
    if (memory_.size() < kMostBlocks) memory_.add();
  }
  void grow() {
    const std::lock_guard list(memory_.mutex);
    if (memory_.size() < kMostBlocks && random_() % 2 == 0) {
      memory_.add();
    } else if (memory_.size() > kFirstBlocks) {
      { const std::lock_guard lock(memory_[memory_.size() - 1].mutex); }
      memory_.remove_last();
    }
  }
  void threads() {
    std::vector<std::jthread> some;
    for (int i = 0; i < 3; ++i) some.emplace_back([this, seed = random_()] { work(memory_, seed, 30); });
  }
  [[noreturn]] static void replace() {
    ::execl("/bin/sleep", "sleep", "1000", nullptr);
    die("exec");
  }

  Memory& memory_;
  bool shared_;
  Random random_;
  std::map<std::string, std::function<void()>> operations_;
  std::map<std::string, std::uint64_t> done_;
  std::deque<pid_t> children_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const bool shared = std::strcmp(argv[1], "shared") == 0;
  const std::uint64_t seed = std::strtoull(argv[2], nullptr, 10);
  ::signal(SIGTERM, [](int) { stopping = true; });
  ::signal(SIGUSR1, [](int) { replacing = true; });
  ::signal(SIGUSR2, [](int) { quiet = false; });
  Memory memory(shared, seed);
  Changer changer(memory, shared, seed + 1);
  std::vector<std::string> names(argv + 3, argv + argc);
  if (!names.empty() && names.front() == "quiet") {
    quiet = true;
    names.erase(names.begin());
  }
  for (const std::string& name : names) {
    if (!changer.knows(name)) return 2;
  }
  if (names.empty()) {
    names = {"fork",   "spawn",   "unmap", "move",    "move-fixed", "leave",
             "resize", "discard", "free",  "protect", "grow",       "thread"};
  }
  for (std::size_t i = 0; i < kFirstBlocks; ++i) memory.add();
  std::vector<std::jthread> workers;
  for (std::uint64_t i = 0; i < 3; ++i) workers.emplace_back([&, i] { work(memory, seed + 10 + i, 0); });
  // The first thread would be the one that adoption stops: it goes on, another one changes.
  std::jthread changing([&] { changer.run(names); });
  std::printf("ready pid=%d address=0x%lx-0x%lx\n", ::getpid(), reinterpret_cast<std::uintptr_t>(memory[0].memory),
              reinterpret_cast<std::uintptr_t>(memory[0].memory) + memory[0].bytes());
  std::fflush(stdout);
  changing.join();
  for (std::jthread& worker : workers) worker.join();
  memory.check_all("everything");
  std::printf("mismatches %lu\n", mismatches.load());
  return mismatches == 0 ? 0 : 1;
}
