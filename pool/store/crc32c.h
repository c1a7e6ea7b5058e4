// CRC32C (Castagnoli, as in iSCSI and ext4): the checksum of every stored page. Computed by ISA-L, which picks what
// this processor does fastest; every way gives the same value.
//
// Thread-safe, allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tidepool::pool {

// `seed` is the checksum of what came before, so that crc32c(b, crc32c(a)) == crc32c(a followed by b). Any other seed
// is a way to bind the checksum to something that is known but not stored, such as a slot's number.
std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t seed = 0);

// Asks the processor for memory that is about to be looked at, line after line: its own prefetching takes a while to
// follow a page that is in no cache. Harmless where nothing is mapped.
void prefetch(std::span<const std::byte> data);

}  // namespace tidepool::pool
