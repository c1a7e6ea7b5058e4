// CRC32C (Castagnoli, as in iSCSI and ext4): the checksum of every stored page.
//
// Thread-safe, allocates nothing. With SSE4.2 three streams run side by side, because the crc32 instruction takes one
// new operand per cycle but three cycles to finish (Intel's "Fast CRC Computation for iSCSI Polynomial", 2011); without
// it, eight tables. Both give the same value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tidepool::pool {

// `seed` is the checksum of what came before, so that crc32c(b, crc32c(a)) == crc32c(a followed by b). Any other seed
// is a way to bind the checksum to something that is known but not stored, such as a slot's number.
std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t seed = 0);

// Asks the processor for memory that is about to be looked at, line after line: three lanes of a page that is in no
// cache would ask for it two to three times more slowly, because its own prefetching follows one stream better than
// three short ones. Harmless where nothing is mapped.
void prefetch(std::span<const std::byte> data);

// The two implementations, for tests and benchmarks. The hardware one must be called only where crc32c_has_hardware()
// says so.
bool crc32c_has_hardware();
std::uint32_t crc32c_hardware(std::span<const std::byte> data, std::uint32_t seed = 0);
std::uint32_t crc32c_software(std::span<const std::byte> data, std::uint32_t seed = 0);

}  // namespace tidepool::pool
