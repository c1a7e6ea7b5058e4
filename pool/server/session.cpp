#include "pool/server/session.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace tidepool::pool::server {

using protocol::ErrorCode;
using protocol::Frame;
using protocol::MessageType;

namespace {

// Guessing proofs is hopeless, and not for free.
constexpr unsigned kMostBadTokens = 8;
// In one message; the kernel takes 253.
constexpr std::size_t kMostWaitingFiles = protocol::kMaxUncreditedRequests;

std::size_t index_of(MessageType type) {
  const auto number = static_cast<std::size_t>(type);
  return number < LoopCounters::kTypes ? number : 0;
}

}  // namespace

Session::Session(ServerState& state, LoopCounters& counters, const PeerRules& rules)
    : state_(state), counters_(counters), rules_(rules), credit_(state.credit.load()), announced_credit_(credit_) {}

std::size_t Session::room_for_answer(const protocol::Header& header, const Outbox& out) const {
  constexpr std::size_t kBefore = protocol::kScopeBytes + protocol::kCountBytes;
  if (header.type != MessageType::kRead || header.body_bytes < kBefore) return kSmallAnswer;
  const std::size_t pages =
      std::min<std::size_t>((header.body_bytes - kBefore) / protocol::kReadEntryBytes, protocol::kMaxPagesPerFrame);
  // Beyond the credit it is refused, and does not have to wait for that.
  if (out.waiting_pages() + pages > credit_) return kSmallAnswer;
  return kSmallAnswer + pages * (protocol::kReadAnswerBytes + protocol::kSlotBytes);
}

Session::Next Session::handle(const Frame& frame, Outbox& out) {
  count(counters_.requests[index_of(frame.header.type)]);
  if (from_client_) {
    // Whatever stands in such a frame, it is nothing that this client said.
    if (!protocol::has_tag(frame.header) || !from_client_->check(frame.head, frame.body, frame.tag)) {
      count(counters_.bad_frames);
      return Next::kCut;
    }
  } else if (protocol::has_tag(frame.header)) {
    return refuse_malformed(frame, out);
  }
  if (protocol::is_answer(frame.header)) return refuse_malformed(frame, out);
  return dispatch(frame, out);
}

Session::Next Session::dispatch(const Frame& frame, Outbox& out) {
  if (!welcomed_)
    return frame.header.type == MessageType::kHello ? take_hello(frame, out) : refuse_malformed(frame, out);
  switch (frame.header.type) {
    case MessageType::kAttach:
      return take_attach(frame, out);
    case MessageType::kHello:
    case MessageType::kWelcome:
    case MessageType::kCredit:
    case MessageType::kDraining:
      return refuse_malformed(frame, out);
    default:
      break;
  }
  if (!admitted_) return refuse(frame, ErrorCode::kDenied, out);
  switch (frame.header.type) {
    case MessageType::kRead:
      return take_read(frame, out);
    case MessageType::kWrite:
      return take_write(frame, out);
    case MessageType::kDiscard:
      return take_discard(frame, out);
    case MessageType::kRelease:
      return take_release(frame, out);
    case MessageType::kPing:
      return refuse(frame, ErrorCode::kOk, out);
    default:
      return refuse(frame, ErrorCode::kUnsupported, out);
  }
}

Session::Next Session::take_hello(const Frame& frame, Outbox& out) {
  const auto hello = protocol::parse_hello(frame.body);
  if (!hello) return refuse_malformed(frame, out);
  const auto version = protocol::common_version(*hello);
  tags_ = (hello->features & protocol::kFeatureAuthenticatedFrames) != 0;
  const auto random = protocol::fresh_random();
  if (!version || !random || (rules_.must_authenticate && !tags_)) {
    (void)refuse(frame, version ? ErrorCode::kDenied : ErrorCode::kNoVersion, out);
    return Next::kClose;
  }
  client_random_ = hello->random;
  server_random_ = *random;
  protocol::Welcome welcome;
  welcome.version = *version;
  files_ = rules_.takes_files && (hello->features & protocol::kFeatureSharedMemory) != 0;
  welcome.features =
      (tags_ ? protocol::kFeatureAuthenticatedFrames : 0) | (files_ ? protocol::kFeatureSharedMemory : 0);
  welcome.random = server_random_;
  welcome.boot = state_.boot;
  welcome.credit_pages = credit_;
  welcome.name = state_.name;
  head_.clear();
  protocol::append_welcome(head_, frame.header.id, welcome);
  transcript_ = protocol::transcript_digest({frame.head.data(), frame.head.size() + frame.body.size()}, head_);
  welcomed_ = true;
  return reply(out);
}

Session::Next Session::take_attach(const Frame& frame, Outbox& out) {
  const auto request = protocol::parse_attach(frame.body);
  if (!request) return refuse_malformed(frame, out);
  const protocol::LeaseSecret secret = protocol::lease_secret(state_.key(), request->claims);
  if (!protocol::proves(request->proof, secret, transcript_, request->claims)) {
    count(counters_.bad_tokens);
    const Next next = refuse(frame, ErrorCode::kDenied, out);
    return ++bad_tokens_ < kMostBadTokens ? next : Next::kClose;
  }
  if (tags_ && !from_client_ && !begin_tags(secret)) return Next::kCut;
  admitted_ = true;
  return attach(*request, frame.header.id, out);
}

bool Session::begin_tags(const protocol::LeaseSecret& secret) {
  const protocol::FrameKeys keys = protocol::frame_keys(secret, client_random_, server_random_, transcript_);
  auto from = protocol::FrameGuard::make(keys.to_server);
  auto to = protocol::FrameGuard::make(keys.to_client);
  if (!from || !to) return false;
  from_client_ = std::move(*from);
  to_client_ = std::move(*to);
  return true;
}

Session::Next Session::attach(const protocol::Attach& request, std::uint64_t id, Outbox& out) {
  const protocol::Claims& claims = request.claims;
  const auto key = static_cast<std::uint64_t>(claims.slice);
  const bool room = attached_.contains(key) || attached_.size() < state_.slices_per_connection.load();
  AttachResult result;
  result.status = ErrorCode::kFull;
  if (room) result = state_.store->attach(claims, !state_.draining.load());
  head_.clear();
  if (result.status == ErrorCode::kOk) {
    UniqueFd file;
    // Once: who renews a lease has it already.
    const auto known = attached_.find(key);
    const bool has_it = known != attached_.end() && known->second.slice == result.slice;
    if (files_ && !has_it && (claims.rights & protocol::kRightRead) != 0 &&
        out.waiting_descriptors() < kMostWaitingFiles)
      file = result.slice->for_reading();
    protocol::append_attached(head_, id,
                              {claims.slice, claims.epoch, result.slice->slots(), result.created, file.valid()});
    if (file.valid()) out.add_descriptor(std::move(file));
    attached_[key] = {std::move(result.slice), claims.epoch, claims.rights};
  } else {
    count(counters_.answers[static_cast<std::size_t>(result.status)]);
    protocol::append_answer(head_, MessageType::kAttach, id, result.status);
  }
  return reply(out);
}

Session::Reached Session::reach(const protocol::Scope& scope, std::uint32_t right) {
  if (scope.boot != state_.boot) return {ErrorCode::kWrongBoot, nullptr};
  const auto found = attached_.find(static_cast<std::uint64_t>(scope.slice));
  if (found == attached_.end()) return {ErrorCode::kNoSuchSlice, nullptr};
  const Attachment& attachment = found->second;
  if (scope.epoch != attachment.epoch) return {ErrorCode::kStaleEpoch, nullptr};
  if ((attachment.rights & right) == 0) return {ErrorCode::kDenied, nullptr};
  const ErrorCode status = attachment.slice->check(scope.epoch, right == protocol::kRightWrite);
  if (status == ErrorCode::kNoSuchSlice) {  // released, on this connection or another one
    attached_.erase(found);
    return {status, nullptr};
  }
  return {status, attachment.slice.get()};
}

Session::Next Session::announce(Outbox& out) {
  if (!admitted_) return Next::kGoOn;
  const bool draining = state_.draining.load();
  const std::uint32_t credit = std::min(state_.credit.load(), credit_);
  Next next = Next::kGoOn;
  if (credit != announced_credit_) {
    announced_credit_ = credit;
    head_.clear();
    protocol::append_credit(head_, {credit});
    next = reply(out);
  }
  if (next == Next::kGoOn && draining && !announced_draining_) {
    announced_draining_ = true;
    head_.clear();
    protocol::append_draining(head_);
    next = reply(out);
  }
  return next;
}

Session::Next Session::malformed(Outbox& out) {
  count(counters_.bad_frames);
  head_.clear();
  protocol::append_answer(head_, MessageType::kPing, 0, ErrorCode::kMalformed);
  return reply(out) == Next::kCut ? Next::kCut : Next::kClose;
}

Session::Next Session::refuse_malformed(const Frame& frame, Outbox& out) {
  count(counters_.bad_frames);
  return refuse(frame, ErrorCode::kMalformed, out) == Next::kCut ? Next::kCut : Next::kClose;
}

Session::Next Session::refuse(const Frame& frame, ErrorCode why, Outbox& out) {
  if (why != ErrorCode::kOk) count(counters_.answers[static_cast<std::size_t>(why)]);
  head_.clear();
  protocol::append_answer(head_, frame.header.type, frame.header.id, why);
  return reply(out);
}

Session::Next Session::reply(Outbox& out) {
  const std::span<std::byte> room = out.room();
  if (room.size() < head_.size() + protocol::kTagBytes) return Next::kCut;
  std::memcpy(room.data(), head_.data(), head_.size());
  return finish(out, head_.size(), 0);
}

Session::Next Session::finish(Outbox& out, std::size_t bytes, std::uint32_t pages) {
  if (to_client_) {
    const std::span<std::byte> room = out.room();
    protocol::Tag tag{};
    if (!to_client_->seal(room.first(bytes), tag)) return Next::kCut;
    std::memcpy(room.data() + bytes, tag.data(), tag.size());
    bytes += tag.size();
  }
  out.add(bytes, pages);
  return Next::kGoOn;
}

}  // namespace tidepool::pool::server
