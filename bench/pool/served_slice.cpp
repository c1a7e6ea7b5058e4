#include "bench/pool/served_slice.h"

#include <array>
#include <atomic>
#include <functional>
#include <stdexcept>
#include <thread>
#include <vector>

namespace tidepool::bench {
namespace {

using protocol::kMaxPagesPerFrame;

constexpr int kPort = 17391;

void await(const std::function<bool()>& condition, const char* what) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) throw std::runtime_error(what);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace

ServedSlice::ServedSlice(bool tcp) : server_(tcp ? kPort : 0, Bytes{64u << 20}, false) {
  auto made = pool::make_server_link({.name = "bench", .address = server_.address()});
  if (!made) throw std::runtime_error(made.error().message());
  link_ = std::move(*made);
  link_->listen({});
  fill();
}

void ServedSlice::fill() {
  pool::Lease lease;
  lease.claims = {.slice = kSlice,
                  .holder = {1},
                  .epoch = protocol::LeaseEpoch{1},
                  .slots = kSlots,
                  .rights = protocol::kRightRead | protocol::kRightWrite | protocol::kRightCreate};
  lease.secret = protocol::lease_secret(MemdProcess::key(), lease.claims);
  std::atomic<bool> attached{false};
  for (int tries = 0; tries < 5 && !attached; ++tries) {
    std::atomic<bool> answered{false};
    link_->attach(lease, [&](pool::AttachOutcome outcome, protocol::ErrorCode) {
      attached = outcome == pool::AttachOutcome::kCreated;
      answered = true;
    });
    await([&] { return answered.load(); }, "the server does not answer");
  }
  if (!attached) throw std::runtime_error("the server gives no slice: " + link_->figures().why);
  std::vector<std::byte> page(protocol::kSlotBytes, std::byte{0x5a});
  for (std::uint32_t slot = 0; slot < kSlots; slot += kMaxPagesPerFrame) {
    std::array<pool::LinkItem, kMaxPagesPerFrame> items;
    for (std::uint32_t i = 0; i < kMaxPagesPerFrame; ++i) {
      items[i] = {.slot = slot + i, .version = 1, .length = protocol::kSlotBytes, .payload = page.data()};
    }
    std::atomic<int> outcome{-1};
    pool::LinkRequest request;
    request.op = pool::LinkOp::kWrite;
    request.slice = kSlice;
    request.items = items;
    request.priority = pool::Priority::kWriteBack;
    request.done = [&](pool::LinkRequest&, pool::LinkOutcome came) { outcome = static_cast<int>(came); };
    link_->submit(request);
    await([&] { return outcome >= 0; }, "a write is not answered");
    if (outcome != static_cast<int>(pool::LinkOutcome::kAnswered)) throw std::runtime_error("a write was not done");
  }
}

}  // namespace tidepool::bench
