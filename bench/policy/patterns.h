// Ways in which VMs use memory, and what an oracle that knows them would achieve.
#pragma once

#include <cstdint>

#include "bench/policy/simulated_host.h"

namespace tidepool::simulator {

// Zipf(theta) over all pages; hot pages beside each other, or scattered.
NextPage zipf(std::uint64_t pages, double theta, bool clustered);
// Nine of ten accesses go to a tenth of the memory, which moves on every `phase` seconds.
NextPage phase_shift(std::uint64_t pages, double phase);
// One of ten accesses scans everything, in order; the rest goes evenly to the first `hot` of it, a share.
NextPage scan_with_core(std::uint64_t pages, double hot);
// Evenly over a part of the memory that grows from `low` to `high` of it and back within `day` seconds; one in a
// thousand accesses goes anywhere.
NextPage diurnal(std::uint64_t pages, double low, double high, double day);
NextPage uniform(std::uint64_t first, std::uint64_t pages);

// Misses per access of an oracle that keeps the `local` most used of `pages` pages of zipf(theta).
double oracle_of_zipf(std::uint64_t pages, double theta, std::uint64_t local);

}  // namespace tidepool::simulator
