// What guarding a page costs one core: sealing and opening it, its checksum, and the tag of the frame that carries it.
#include <benchmark/benchmark.h>

#include <array>
#include <cstring>
#include <vector>

#include "pool/client/sealer.h"
#include "pool/protocol/aes_gcm.h"
#include "pool/protocol/frame_guard.h"
#include "pool/store/crc32c.h"

namespace tidepool::bench {
namespace {

std::vector<std::byte> some_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 251);
  return bytes;
}

void seal(benchmark::State& state) {
  const auto sealer = pool::make_sealer({1});
  if (!sealer) return state.SkipWithError("no cipher");
  const auto page = some_bytes(protocol::kSlotBytes);
  std::vector<std::byte> sealed(page.size());
  protocol::Tag tag{};
  pool::SealPlace place{protocol::SliceId{1}, 0, 0};
  for ([[maybe_unused]] auto _ : state) {
    ++place.version;
    if (!(*sealer)->seal(place, page, sealed.data(), tag)) return state.SkipWithError("not sealed");
    benchmark::DoNotOptimize(sealed.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(page.size()));
  state.SetLabel(protocol::aes_gcm_by());
}
BENCHMARK(seal);

void open(benchmark::State& state) {
  const auto sealer = pool::make_sealer({1});
  if (!sealer) return state.SkipWithError("no cipher");
  const auto page = some_bytes(protocol::kSlotBytes);
  std::vector<std::byte> sealed(page.size()), opened(page.size());
  protocol::Tag tag{};
  const pool::SealPlace place{protocol::SliceId{1}, 0, 1};
  if (!(*sealer)->seal(place, page, sealed.data(), tag)) return state.SkipWithError("not sealed");
  for ([[maybe_unused]] auto _ : state) {
    if (!(*sealer)->open(place, sealed, tag, opened.data())) return state.SkipWithError("not opened");
    benchmark::DoNotOptimize(opened.data());
  }
  if (opened != page) return state.SkipWithError("another page");
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(page.size()));
}
BENCHMARK(open);

void checksum(benchmark::State& state) {
  const auto page = some_bytes(protocol::kSlotBytes);
  std::uint32_t sum = 0;
  for ([[maybe_unused]] auto _ : state) benchmark::DoNotOptimize(sum = pool::crc32c(page, sum));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(page.size()));
}
BENCHMARK(checksum);

// Argument: pages of the frame.
void frame_tag(benchmark::State& state) {
  auto guard = protocol::FrameGuard::make({1});
  if (!guard) return state.SkipWithError("no cipher");
  std::array<std::byte, 128> head{};
  const auto body = some_bytes(static_cast<std::size_t>(state.range(0)) * protocol::kSlotBytes);
  const std::array<protocol::Piece, 1> rest{body};
  protocol::Tag tag{};
  for ([[maybe_unused]] auto _ : state) {
    if (!guard->seal(head, rest, tag)) return state.SkipWithError("no tag");
    benchmark::DoNotOptimize(tag);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(body.size()));
}
BENCHMARK(frame_tag)->ArgName("pages")->Arg(1)->Arg(8)->Arg(64);

}  // namespace
}  // namespace tidepool::bench
