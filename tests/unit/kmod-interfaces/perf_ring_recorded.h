// A ring of page faults as Linux 6.18 filled it on x86-64 (PERF_COUNT_SW_PAGE_FAULTS, every one; TID, TIME, ADDR;
// CLOCK_MONOTONIC): a child of one thread touches five pages of fresh memory in the order below, the second and the
// fourth by reading. The last two records are faults of its own code, one of them in a system call.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>

namespace tidepool::kernel::recorded {

inline constexpr pid_t kPid = 19928;
inline constexpr std::uint64_t kTouched = 0x7fa5b90b7000;
inline constexpr std::array<std::uint64_t, 28> kRing = {
    0x0020000200000009, 0x00004dd800004dd8, 0x00001365dd392589, 0x00007fa5b90ba000, 0x0020000200000009,
    0x00004dd800004dd8, 0x00001365dd397815, 0x00007fa5b90b7008, 0x0020000200000009, 0x00004dd800004dd8,
    0x00001365dd39a39f, 0x00007fa5b90c0010, 0x0020000200000009, 0x00004dd800004dd8, 0x00001365dd39d100,
    0x00007fa5b90c6018, 0x0020000200000009, 0x00004dd800004dd8, 0x00001365dd39f8e8, 0x00007fa5b90bb020,
    0x0020000200000009, 0x00004dd800004dd8, 0x00001365dd3a27d9, 0x00007fa5b92ea2e0, 0x0020000100000009,
    0x00004dd800004dd8, 0x00001365dd3a6cb4, 0x0000555b3fbd5004,
};
inline constexpr std::uint64_t kPages = 16;
inline constexpr std::array<std::uint64_t, 5> kOrder = {3, 0, 9, 15, 4};

}  // namespace tidepool::kernel::recorded
