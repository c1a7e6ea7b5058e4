// What programs of ours say to each other and leave behind: keeper packets, the adoption helper's messages, the table
// of a page store.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "daemon/vm/adopt_helper_protocol.h"
#include "pool/keeper/keeper_protocol.h"
#include "pool/store/crc32c.h"
#include "pool/store/slot_table.h"
#include "tests/fuzz/fuzz_driver.h"

namespace tidepool {
namespace {

using fuzz::Corpus;
using fuzz::Mutator;

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

TEST(FuzzProtocols, KeeperPackets) {
  using namespace pool;
  const Corpus corpus{
      .inputs = {text_of(encode(KeeperRequest{KeeperCommand::kHello, 0, 1, ""})),
                 text_of(encode(KeeperRequest{KeeperCommand::kStore, 0, 2, "web-3/userfaultfd"})),
                 text_of(encode(KeeperRequest{KeeperCommand::kNext, kWithDescriptor, 3, "a"})),
                 text_of(encode(KeeperReply{1, 0, 7, "web-3/map"})), text_of(encode(KeeperReply{2, 2, 7, "none"}))},
      .tokens = {std::string(1, '\0'), "TDKP", "/"},
      .longest = 2 * kMaxKeeperPacket};
  std::size_t accepted = 0;
  fuzz::fuzz(corpus, 30000, [&](std::string_view input, Mutator&) {
    // What is understood is what would be said.
    if (const auto request = parse_keeper_request(bytes_of(input))) {
      ++accepted;
      ASSERT_EQ(text_of(encode(*request)), input);
    }
    if (const auto reply = parse_keeper_reply(bytes_of(input))) {
      ++accepted;
      const auto again = parse_keeper_reply(encode(*reply));
      ASSERT_TRUE(again);
      ASSERT_EQ(again->name, reply->name);
      ASSERT_EQ(again->error, reply->error);
    }
  });
  EXPECT_GT(accepted, 100u);
}

TEST(FuzzProtocols, TheAdoptionHelpers) {
  using namespace daemon;
  TakeOrder take;
  take.id = {4711, 99};
  take.ring_entries = 64;
  take.limits = {std::chrono::milliseconds(100), std::chrono::milliseconds(50)};
  LetGoOrder let_go;
  let_go.id = {4711, 99};
  let_go.numbers = {7, 9};
  let_go.limits = take.limits;
  HelperReport failed;
  failed.error = Error{std::make_error_code(std::errc::no_such_process), "stop", "process 4711", "it ended"};
  HelperReport done;
  done.thread = 4711;
  done.stopped = std::chrono::microseconds(80);
  done.userfaultfd_numbers = {7, 8};
  const Corpus corpus{
      .inputs = {text_of(encode_order(take)), text_of(encode_order(let_go)), text_of(encode_order(Acknowledgement{})),
                 text_of(encode_report(failed)), text_of(encode_report(done))},
      .tokens = {std::string(4, '\0'), std::string(4, '\xff')},
      .longest = 2 * kMaxHelperMessage};
  std::size_t accepted = 0;
  fuzz::fuzz(corpus, 30000, [&](std::string_view input, Mutator&) {
    if (const auto order = parse_order(bytes_of(input))) {
      ++accepted;
      ASSERT_TRUE(parse_order(encode_order(*order)));
      if (const auto* letting_go = std::get_if<LetGoOrder>(&*order)) {
        ASSERT_LE(letting_go->numbers.size(), kMaxPlacedDescriptors);
      }
    }
    if (const auto report = parse_report(bytes_of(input))) {
      ++accepted;
      ASSERT_TRUE(parse_report(encode_report(*report)));
    }
  });
  EXPECT_GT(accepted, 100u);
}

// Headers with a right checksum, so that what stands behind it is looked at.
TEST(FuzzProtocols, TheTableOfAStore) {
  using namespace pool;
  const UniqueFd data{::memfd_create("data", MFD_CLOEXEC)};
  ASSERT_EQ(::ftruncate(data.get(), 64 * kPageSize), 0);
  const auto table = SlotTable::create(
      {.kind = StoreLayoutKind::kMapped, .slots = 64, .data_bytes = Bytes{64 * kPageSize}}, data.get());
  ASSERT_TRUE(table) << table.error().message();
  std::string header(sizeof(StoreHeader), '\0');
  ASSERT_EQ(::pread(table->fd(), header.data(), header.size(), 0), static_cast<ssize_t>(header.size()));
  const Corpus corpus{.inputs = {header}, .tokens = {}, .longest = sizeof(StoreHeader)};
  std::size_t accepted = 0;
  fuzz::fuzz(corpus, 4000, [&](std::string_view input, Mutator& mutator) {
    std::string changed(input);
    changed.resize(sizeof(StoreHeader), '\0');
    if (mutator.number(8) != 0) {
      const std::size_t checked = offsetof(StoreHeader, header_crc);
      const std::uint32_t crc = crc32c(std::as_bytes(std::span(changed.data(), checked)));
      std::memcpy(changed.data() + checked, &crc, sizeof crc);
    }
    ASSERT_EQ(::pwrite(table->fd(), changed.data(), changed.size(), 0), static_cast<ssize_t>(changed.size()));
    auto opened = SlotTable::open(StoreLayoutKind::kMapped, UniqueFd{::dup(table->fd())}, data.get());
    if (!opened) return;
    ++accepted;
    for (std::uint64_t slot = 0; slot < opened->slots(); ++slot) static_cast<void>(opened->load(slot));
    std::uint64_t touched = 0;
    opened->for_each_touched([&](std::uint64_t first, std::uint64_t end) { touched += end - first; });
    ASSERT_LE(touched, opened->slots());
  });
  EXPECT_GT(accepted, 0u);
}

}  // namespace
}  // namespace tidepool
