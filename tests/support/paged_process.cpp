#include "tests/support/paged_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

namespace tidepool::tests {
namespace {

constexpr std::size_t kDropSlots = 256;
constexpr std::uint64_t kMaxPages = 1 << 18;

struct DropSlot {
  std::uint64_t cookie;
  std::uint64_t start;
  std::uint64_t length;
  std::int32_t error;
};

void nap() {
  std::this_thread::sleep_for(std::chrono::microseconds(50));
}

}  // namespace

struct PagedProcess::Shared {
  std::atomic<int> ready;
  std::atomic<int> go;
  std::atomic<int> stop;
  std::atomic<Visits> visits;
  std::atomic<unsigned> running;
  std::atomic<int> userfaultfd;
  std::atomic<std::uint64_t> address;
  std::atomic<std::uint64_t> operations;
  std::atomic<std::uint64_t> mismatches;
  std::atomic<std::uint64_t> forks;
  std::atomic<std::uint64_t> children_lost;
  // Drops: written by the test, taken by the process, answered in place.
  std::atomic<std::uint64_t> drops_submitted;
  std::atomic<std::uint64_t> drops_done;
  DropSlot drops[kDropSlots];
  std::atomic<int> give_back;
  std::atomic<int> dropper_broken;
  std::atomic<std::uint64_t> versions[kMaxPages];
};

namespace {

using Shared = PagedProcess::Shared;

std::uint64_t word(std::uint64_t page, std::uint64_t version, std::uint64_t index) {
  std::uint64_t x = (page * 0x9E3779B97F4A7C15ull) ^ (version * 0xC2B2AE3D27D4EB4Full) ^ index;
  // Half of the pages compress, a tenth repeat one word: every kind of far page occurs.
  if (page % 10 == 3) return version * 0x0101010101010101ull;
  if (page % 2 == 0 && index % 4 != 0) return version;
  x ^= x >> 29;
  return x * 0xBF58476D1CE4E5B9ull;
}

void write_page(volatile std::uint64_t* words, std::uint64_t page, std::uint64_t version) {
  for (std::uint64_t i = 0; i < kPageSize / 8; ++i) words[i] = version == 0 ? 0 : word(page, version, i);
}

bool page_is(const volatile std::uint64_t* words, std::uint64_t page, std::uint64_t version) {
  for (std::uint64_t i = 0; i < kPageSize / 8; ++i) {
    if (words[i] != (version == 0 ? 0 : word(page, version, i))) return false;
  }
  return true;
}

class Target {
 public:
  Target(const PagedProcessOptions& options, Shared& shared, int file) : options_(options), shared_(shared) {
    const std::size_t length = options.pages * kPageSize;
    // Room to align to 2 MiB.
    void* room = ::mmap(nullptr, length + kHugePageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const auto aligned = (reinterpret_cast<std::uintptr_t>(room) + kHugePageSize - 1) & ~(kHugePageSize - 1);
    void* memory =
        ::mmap(reinterpret_cast<void*>(aligned), length, PROT_READ | PROT_WRITE,
               (options.shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | MAP_FIXED, options.shared ? file : -1, 0);
    if (memory == MAP_FAILED) ::_exit(71);
    ::madvise(memory, length, options.huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    base_ = static_cast<volatile std::uint64_t*>(memory);
    for (std::uint64_t page = 0; page < options.pages; ++page) {
      shared.versions[page] = page % 16 == 15 ? 0 : 1;  // some pages are never touched
      if (shared.versions[page] != 0) write_page(at(page), page, 1);
      if (shared.versions[page] == 0 && options.read_untouched) page_is(at(page), page, 0);
    }
    shared.userfaultfd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    shared.address = aligned;
  }

  void run() {
    std::thread([this] { serve_drops(); }).detach();
    shared_.ready = 1;
    while (shared_.go == 0) nap();
    std::vector<std::thread> threads;
    shared_.running = options_.threads;
    for (unsigned i = 0; i < options_.threads; ++i) threads.emplace_back([this, i] { work(i); });
    for (auto& thread : threads) thread.join();
    for (;;) ::pause();
  }

 private:
  volatile std::uint64_t* at(std::uint64_t page) const { return base_ + page * (kPageSize / 8); }

  void mismatch(std::uint64_t page, const char* where) {
    if (shared_.mismatches++ < 5) {
      std::fprintf(stderr, "mismatch (%s): page %lu version %lu, first word %lx want %lx\n", where, page,
                   shared_.versions[page].load(), at(page)[0],
                   shared_.versions[page] == 0 ? 0 : word(page, shared_.versions[page], 0));
    }
  }

  std::uint64_t next_visit(std::uint64_t random, std::uint64_t step, std::uint64_t own) const {
    constexpr std::uint64_t kBlock = 64;
    constexpr std::uint64_t kBeginning = 6;
    switch (shared_.visits.load()) {
      case Visits::kRandom:
        return random % own;
      case Visits::kInOrder:
        return step % own;
      case Visits::kBeginnings:
        // Blocks in an order without a stride.
        return (step / kBeginning * 0x9E3779B97F4A7C15ull >> 32) % (own / kBlock) * kBlock + step % kBeginning;
    }
    return 0;
  }

  // Every page has one thread that owns it, so its version needs no lock.
  void work(unsigned self) {
    std::mt19937_64 random(options_.seed * 1000 + self);
    const std::uint64_t own = options_.pages / options_.threads;
    std::uint64_t step = 0;
    while (shared_.stop == 0) {
      const std::uint64_t page = next_visit(random(), step++, own) * options_.threads + self;
      if (!page_is(at(page), page, shared_.versions[page])) mismatch(page, "read");
      if (options_.write && random() % 3 == 0) {
        const std::uint64_t version = shared_.versions[page] + 1;
        write_page(at(page), page, version);
        shared_.versions[page] = version;
      }
      if (options_.discard && random() % 16 == 0) {
        const std::uint64_t count = 1;
        ::madvise(const_cast<std::uint64_t*>(at(page)), count * kPageSize, MADV_DONTNEED);
        shared_.versions[page] = 0;
        if (!page_is(at(page), page, 0)) mismatch(page, "discarded");
      }
      if (options_.fork_children && self == 0 && random() % 512 == 0) fork_child(own);
      ++shared_.operations;
    }
    --shared_.running;
  }

  void fork_child(std::uint64_t own) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::signal(SIGBUS, SIG_DFL);  // a sanitizer would catch it
      // Only this thread's pages: the others' change while we fork.
      for (std::uint64_t i = 0; i < own; ++i) {
        const std::uint64_t page = i * options_.threads;
        if (!page_is(at(page), page, shared_.versions[page])) mismatch(page, "child");
      }
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) {
      ++shared_.children_lost;
    } else if (status != 0) {
      ++shared_.mismatches;
    }
    ++shared_.forks;
  }

  // All of it; whoever waits for a page meanwhile expects what was there.
  void give_back() {
    for (std::uint64_t page = 0; page < options_.pages; ++page) shared_.versions[page] = 0;
    const int advice = options_.shared ? MADV_REMOVE : MADV_DONTNEED;
    if (::madvise(const_cast<std::uint64_t*>(at(0)), options_.pages * kPageSize, advice) != 0) ++shared_.mismatches;
    shared_.give_back = 0;
  }

  void serve_drops() {
    for (;;) {
      if (shared_.give_back != 0) give_back();
      const std::uint64_t next = shared_.drops_done;
      if (next == shared_.drops_submitted) {
        nap();
        continue;
      }
      DropSlot& slot = shared_.drops[next % kDropSlots];
      slot.error = ::madvise(reinterpret_cast<void*>(slot.start), slot.length, MADV_DONTNEED) == 0 ? 0 : errno;
      shared_.drops_done = next + 1;
    }
  }

  const PagedProcessOptions options_;
  Shared& shared_;
  volatile std::uint64_t* base_ = nullptr;
};

class MailboxDropper final : public daemon::Dropper {
 public:
  explicit MailboxDropper(Shared& shared) : shared_(shared) {}

  bool submit(const daemon::Drop& drop) override {
    if (broken() || shared_.drops_submitted - reaped_ >= kDropSlots) return false;
    shared_.drops[shared_.drops_submitted % kDropSlots] = {drop.cookie, drop.addresses.start, drop.addresses.size(), 0};
    ++shared_.drops_submitted;
    return true;
  }
  std::size_t reap(std::span<daemon::DropCompletion> out) override {
    std::size_t count = 0;
    while (!broken() && count < out.size() && reaped_ < shared_.drops_done) {
      const DropSlot& slot = shared_.drops[reaped_++ % kDropSlots];
      out[count++] = {slot.cookie, slot.error};
    }
    return count;
  }
  std::size_t capacity() const override { return kDropSlots; }
  std::size_t in_flight() const override { return shared_.drops_submitted - reaped_; }
  bool announced_as_remove() const override { return true; }
  bool needs_confirmation() const override { return true; }
  bool broken() const override { return shared_.dropper_broken != 0; }

 private:
  Shared& shared_;
  std::uint64_t reaped_ = 0;
};

}  // namespace

PagedProcess::PagedProcess(const PagedProcessOptions& options) : options_(options) {
  auto memory =
      Mapping::of_file(-1, Bytes{sizeof(Shared)}, Bytes{}, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  if (!memory || options.pages > kMaxPages) throw std::runtime_error("no memory for the test process");
  shared_memory_ = std::move(*memory);
  shared_ = reinterpret_cast<Shared*>(shared_memory_.data());
  if (options.shared) {
    file_ = UniqueFd{::memfd_create("guest", MFD_CLOEXEC)};
    if (::ftruncate(file_.get(), static_cast<off_t>(options.pages * kPageSize)) != 0)
      throw std::runtime_error("ftruncate");
  }
  shared_->visits = options.visits;
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    Target target(options, *shared_, file_.get());
    target.run();
    ::_exit(0);
  }
  while (shared_->ready == 0) nap();
}

PagedProcess::~PagedProcess() {
  kill_now();
}

void PagedProcess::break_dropper() {
  shared_->dropper_broken = 1;
}

void PagedProcess::kill_now() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

UniqueFd PagedProcess::pidfd() const {
  return UniqueFd{static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0))};
}
UniqueFd PagedProcess::take_userfaultfd() const {
  const UniqueFd process = pidfd();
  return UniqueFd{static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), shared_->userfaultfd.load(), 0))};
}
UniqueFd PagedProcess::memory_file() const {
  return file_.duplicate();
}
AddressRange PagedProcess::memory() const {
  return {shared_->address, shared_->address + options_.pages * kPageSize};
}
std::unique_ptr<daemon::Dropper> PagedProcess::dropper() const {
  return std::make_unique<MailboxDropper>(*shared_);
}
void PagedProcess::visit(Visits order) {
  shared_->visits = order;
}
void PagedProcess::give_all_back() {
  shared_->give_back = 1;
  while (shared_->give_back != 0) nap();
}

void PagedProcess::start() {
  shared_->go = 1;
}
void PagedProcess::signal(int number) const {
  ::kill(pid_, number);
}
std::uint64_t PagedProcess::operations() const {
  return shared_->operations;
}
std::uint64_t PagedProcess::mismatches() const {
  return shared_->mismatches;
}
std::uint64_t PagedProcess::forks() const {
  return shared_->forks;
}
std::uint64_t PagedProcess::children_lost() const {
  return shared_->children_lost;
}

void PagedProcess::stop_threads() {
  shared_->stop = 1;
  for (int i = 0; i < 1200000 && shared_->running != 0; ++i) nap();
}

bool PagedProcess::await_operations(std::uint64_t more) const {
  const std::uint64_t goal = operations() + more;
  std::uint64_t seen = operations();
  auto last_progress = std::chrono::steady_clock::now();
  while (operations() < goal) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (operations() != seen) {
      seen = operations();
      last_progress = std::chrono::steady_clock::now();
    } else if (std::chrono::steady_clock::now() - last_progress > std::chrono::minutes(1)) {
      return false;
    }
  }
  return true;
}

}  // namespace tidepool::tests
