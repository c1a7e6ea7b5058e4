// What a test and the process that it adopts tell each other: a page of shared memory, inherited as kReportFd.
#pragma once

#include <atomic>
#include <cstdint>

namespace tidepool::adopt_test {

inline constexpr int kReportFd = 9;
inline constexpr std::uint64_t kMemoryPages = 64;
inline constexpr unsigned char kFill = 0x5a;

struct Report {
  std::atomic<std::uint32_t> ready{0};
  // Of the blocking calls: what the program saw.
  std::atomic<std::uint64_t> eintr{0};
  std::atomic<std::uint64_t> returned{0};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::int32_t> last_error{0};
  // Of programs that work: rounds done, and what must never happen.
  std::atomic<std::uint64_t> rounds{0};
  std::atomic<std::uint64_t> wrong{0};
  // Of signals: how many came, and the sum of their values; those whose siginfo was not as sent.
  std::atomic<std::uint64_t> signals{0};
  std::atomic<std::uint64_t> signal_values{0};
  std::atomic<std::uint64_t> bad_signals{0};
  std::atomic<std::int32_t> sender{0};
  // Private memory of kMemoryPages, filled with kFill; a page to be looked at, and what was found there.
  std::atomic<std::uint64_t> memory{0};
  std::atomic<std::uint64_t> question{0};  // page number + 1
  std::atomic<std::uint64_t> answered{0};  // the same, when `answer` is there
  std::atomic<std::uint32_t> answer{0};    // sum of the page's bytes
  std::atomic<std::int32_t> thread{0};     // of the one that is called like a vCPU
  // What outlives a process: the test removes it.
  std::atomic<std::int32_t> message_queue{-1};
  std::atomic<std::int32_t> semaphores{-1};
};

}  // namespace tidepool::adopt_test
