// Goal: whatever frames a client sends, a session keeps its bounds and shows nobody what belongs to another holder.
#include "pool/server/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>

#include "tests/unit/pool/server/slices_kit.h"

namespace tidepool::pool::server {
namespace {

using namespace testing;
using protocol::Buffer;

constexpr std::uint32_t kCredit = 128;
constexpr std::uint8_t kSecret = 0x5c;  // what the other holder's pages are full of

class Peer {
 public:
  explicit Peer(ServerState& state) : state_(state) { begin(); }

  // A new connection that has attached its own slice.
  void begin() {
    while (state_.store->scrub(8)) {
    }
    session_ = std::make_unique<Session>(state_, counters_, PeerRules{.must_authenticate = false});
    out_ = std::make_unique<Outbox>(kCredit);
    Buffer hello;
    protocol::append_hello(hello, 1, {});
    ASSERT_EQ(say(hello), Session::Next::kGoOn);
    const auto welcome = out_->next();
    const auto transcript = protocol::transcript_digest(hello, welcome);
    take();
    ASSERT_EQ(say(attach_frame(claims(2, 2), transcript)), Session::Next::kGoOn);
    ASSERT_TRUE(session_->admitted());
    take();
  }

  Buffer attach_frame(const Claims& of, const protocol::TranscriptDigest& transcript) const {
    Buffer frame;
    const auto secret = protocol::lease_secret(state_.key(), of);
    protocol::append_attach(frame, 2, {of, protocol::attach_proof(secret, transcript, of)});
    return frame;
  }

  Session::Next say(const Buffer& bytes) {
    reader_.clear();
    const auto room = reader_.room();
    std::copy(bytes.begin(), bytes.end(), room.begin());
    reader_.received(bytes.size());
    protocol::Frame frame;
    Session::Next next = Session::Next::kGoOn;
    while (next == Session::Next::kGoOn) {
      const auto got = reader_.next(frame);
      if (got == protocol::FrameReader::Got::kMore) break;
      if (got == protocol::FrameReader::Got::kBad) return session_->malformed(*out_);
      if (out_->room().size() < session_->room_for_answer(frame.header, *out_)) take();
      const std::size_t before = out_->room().size();
      const std::size_t promised = session_->room_for_answer(frame.header, *out_);
      next = session_->handle(frame, *out_);
      EXPECT_LE(before - out_->room().size(), promised) << "more room was taken than was asked for";
    }
    return next;
  }

  // Takes what was answered; true when it shows the other's pages.
  bool take() {
    bool shown = false;
    while (!out_->empty()) {
      const auto bytes = out_->next();
      const std::vector<std::byte> secret(16, std::byte{kSecret});
      shown = shown || std::search(bytes.begin(), bytes.end(), secret.begin(), secret.end()) != bytes.end();
      out_->sent(bytes.size());
    }
    return shown;
  }

 private:
  ServerState& state_;
  LoopCounters counters_;
  protocol::FrameReader reader_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Outbox> out_;
};

class Sessions : public ::testing::Test {
 protected:
  Sessions() : state_(make_store(clock_, 8), "s", protocol::BootId{1}, protocol::ServerKey{9}, kCredit) {
    const auto other = state_.store->attach(claims(1, 1), true).slice;
    for (std::uint32_t slot = 0; slot < other->slots(); ++slot)
      EXPECT_EQ(put(*other, slot, 1, kSecret), ErrorCode::kOk);
  }

  // A request that could be right, of any type, for the own slice or the other one.
  Buffer any_request(std::mt19937_64& random) const {
    const protocol::Scope scope{SliceId{1 + random() % 3}, LeaseEpoch{random() % 3},
                                random() % 8 == 0 ? protocol::BootId{} : state_.boot};
    const auto count = 1 + random() % protocol::kMaxPagesPerFrame;
    Buffer frame;
    switch (random() % 6) {
      case 0: {
        std::vector<protocol::ReadEntry> entries(count);
        for (auto& each : entries) each.slot = static_cast<std::uint32_t>(random() % 70);
        protocol::append_read(frame, random(), scope, entries);
        break;
      }
      case 1: {
        std::vector<protocol::WriteEntry> entries(count);
        std::size_t payload = 0;
        for (auto& each : entries) {
          each.slot = static_cast<std::uint32_t>(random() % 70);
          each.version = random() % 1000;
          each.length = static_cast<std::uint16_t>(random() % 4097);
          payload += each.length;
        }
        protocol::append_write(frame, random(), scope, entries);
        frame.resize(frame.size() + payload, std::byte{0x11});
        break;
      }
      case 2: {
        std::vector<protocol::DiscardEntry> entries(count);
        for (auto& each : entries) each = {static_cast<std::uint32_t>(random() % 70), random() % 1000};
        protocol::append_discard(frame, random(), scope, entries);
        break;
      }
      case 3:
        if (random() % 16 == 0) protocol::append_release(frame, random(), scope);
        break;
      case 4: {
        protocol::Attach attach;
        attach.claims = claims(1 + random() % 3, static_cast<std::uint8_t>(random() % 3), random() % 4);
        protocol::append_attach(frame, random(), attach);
        break;
      }
      default:
        protocol::append_ping(frame, random());
    }
    return frame;
  }

  const ManualClock clock_;
  ServerState state_;
};

TEST_F(Sessions, ShowNobodyAnothersPagesWhateverTheyAreSent) {
  Peer peer(state_);
  for (std::uint64_t seed = 1; seed <= 4000; ++seed) {
    std::mt19937_64 random(seed);
    Buffer frame = any_request(random);
    const std::size_t hits = random() % 4;
    for (std::size_t i = 0; i < hits && !frame.empty(); ++i) {
      // The head of a frame is where it matters.
      const std::size_t at = random() % (random() % 2 == 0 ? std::min<std::size_t>(frame.size(), 80) : frame.size());
      frame[at] ^= static_cast<std::byte>(1u << (random() % 8));
    }
    if (random() % 8 == 0) frame.resize(frame.size() / 2);
    const Session::Next next = peer.say(frame);
    ASSERT_FALSE(peer.take()) << "seed " << seed;
    if (next != Session::Next::kGoOn) peer.begin();
    if (HasFatalFailure()) FAIL() << "seed " << seed;
  }
  // And nobody but its holder changed them.
  const auto other = state_.store->attach(claims(1, 1), false).slice;
  PageBytes page;
  for (std::uint32_t slot = 0; slot < other->slots(); ++slot) {
    ASSERT_EQ(get(*other, slot, page).status, ErrorCode::kOk);
    ASSERT_EQ(page, page_of(kSecret));
  }
}

}  // namespace
}  // namespace tidepool::pool::server
