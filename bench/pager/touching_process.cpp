#include "bench/pager/touching_process.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>

namespace tidepool::bench {
namespace {

constexpr std::uint64_t kMaxTouched = 1 << 16;

// Shared between processes, which std::atomic::wait is not meant for.
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t while_it_is) {
  ::syscall(SYS_futex, &word, FUTEX_WAIT, while_it_is, nullptr, nullptr, 0);
}
void futex_wake_all(std::atomic<std::uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

std::uint64_t first_word_of(std::uint64_t page) {
  return (page + 1) * 0x9E3779B97F4A7C15ull;
}

}  // namespace

struct TouchingProcess::Shared {
  std::atomic<std::uint32_t> ready;
  std::atomic<std::uint32_t> round;
  std::atomic<std::uint32_t> finished;  // threads, of all rounds
  std::atomic<std::uint64_t> wrong;
  int userfaultfd;
  std::uint64_t address;
  std::uint32_t latency_ns[kMaxTouched];
};

namespace {

class Toucher {
 public:
  Toucher(TouchingProcess::Shared& shared, int file, std::uint64_t pages, unsigned threads, bool fill)
      : shared_(shared), pages_(pages), threads_(threads) {
    void* const memory = ::mmap(nullptr, pages * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) ::_exit(71);
    words_ = static_cast<volatile std::uint64_t*>(memory);
    std::mt19937_64 random(1);
    for (std::uint64_t page = 0; fill && page < pages; ++page) {
      volatile std::uint64_t* const words = words_ + page * (kPageSize / 8);
      for (std::uint64_t i = 0; i < kPageSize / 8; ++i) words[i] = i == 0 ? first_word_of(page) : random();
    }
    shared.userfaultfd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    shared.address = reinterpret_cast<std::uintptr_t>(memory);
  }

  [[noreturn]] void run() {
    order_.resize(std::min(pages_, kMaxTouched));
    std::iota(order_.begin(), order_.end(), 0u);
    std::shuffle(order_.begin(), order_.end(), std::mt19937_64(7));
    for (unsigned i = 0; i < threads_; ++i) std::thread([this, i] { work(i); }).detach();
    shared_.ready = 1;
    futex_wake_all(shared_.ready);
    for (;;) ::pause();
  }

 private:
  [[noreturn]] void work(unsigned self) {
    for (std::uint32_t round = 0;; ++round) {
      while (shared_.round == round) futex_wait(shared_.round, round);
      for (std::size_t i = self; i < order_.size(); i += threads_) touch(order_[i]);
      ++shared_.finished;
      futex_wake_all(shared_.finished);
    }
  }

  void touch(std::uint32_t page) {
    const auto before = std::chrono::steady_clock::now();
    const std::uint64_t word = words_[page * (kPageSize / 8)];
    const auto after = std::chrono::steady_clock::now();
    if (word != first_word_of(page)) ++shared_.wrong;
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(after - before).count();
    shared_.latency_ns[page] = static_cast<std::uint32_t>(std::min<std::int64_t>(ns, UINT32_MAX));
  }

  TouchingProcess::Shared& shared_;
  const std::uint64_t pages_;
  const unsigned threads_;
  volatile std::uint64_t* words_ = nullptr;
  std::vector<std::uint32_t> order_;
};

}  // namespace

TouchingProcess::TouchingProcess(std::uint64_t pages, unsigned threads, bool fill) : pages_(pages), threads_(threads) {
  auto memory =
      Mapping::of_file(-1, Bytes{sizeof(Shared)}, Bytes{}, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  if (!memory) throw std::runtime_error(memory.error().message());
  shared_memory_ = std::move(*memory);
  shared_ = reinterpret_cast<Shared*>(shared_memory_.data());
  file_ = UniqueFd{::memfd_create("bench-memory", MFD_CLOEXEC)};
  if (::ftruncate(file_.get(), static_cast<off_t>(pages * kPageSize)) != 0) throw std::runtime_error("ftruncate");
  pid_ = ::fork();
  if (pid_ < 0) throw std::runtime_error("fork");
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    Toucher(*shared_, file_.get(), pages, threads, fill).run();
  }
  while (shared_->ready == 0) futex_wait(shared_->ready, 0);
}

TouchingProcess::~TouchingProcess() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

AddressRange TouchingProcess::memory() const {
  return {shared_->address, shared_->address + pages_ * kPageSize};
}
bool TouchingProcess::contents_right() const {
  return shared_->wrong == 0;
}
UniqueFd TouchingProcess::pidfd() const {
  return UniqueFd{static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0))};
}

kernel::Userfaultfd TouchingProcess::take_userfaultfd() const {
  const UniqueFd process = pidfd();
  UniqueFd fd{static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), shared_->userfaultfd, 0))};
  if (!fd.valid()) throw std::runtime_error("no userfaultfd from the target: run as root");
  return kernel::Userfaultfd{std::move(fd)};
}

std::vector<std::chrono::nanoseconds> TouchingProcess::touch_all() {
  const std::uint32_t goal = shared_->finished + threads_;
  ++shared_->round;
  futex_wake_all(shared_->round);
  for (std::uint32_t seen = shared_->finished; seen != goal; seen = shared_->finished)
    futex_wait(shared_->finished, seen);
  std::vector<std::chrono::nanoseconds> result;
  const std::uint64_t touched = std::min(pages_, kMaxTouched);
  result.reserve(touched);
  for (std::uint64_t page = 0; page < touched; ++page) result.emplace_back(shared_->latency_ns[page]);
  return result;
}

}  // namespace tidepool::bench
