// Connection: the way in.
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "kmod-interfaces/fd_passing.h"
#include "pool/client/connection.h"

namespace tidepool::pool {
namespace {

using protocol::ErrorCode;
using protocol::MessageType;

// How many requests end in one turn.
constexpr std::size_t kTurn = 64;
// Descriptors that wait: one for each ATTACH that can be under way.
constexpr std::size_t kMostFiles = protocol::kMaxUncreditedRequests;

// Whether the entries are for what was asked, in its order.
template <class Entries>
bool answers(const Entries& entries, std::span<const LinkItem> items) {
  if (entries.size() != items.size()) return false;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (entries[i].slot != items[i].slot) return false;
  }
  return true;
}

bool take_pages(std::span<const std::byte> body, LinkRequest* request) {
  const auto pages = protocol::parse_read_answer(body);
  if (!pages) return false;
  if (request == nullptr) return true;
  if (!answers(pages->entries(), request->items)) return false;
  std::size_t index = 0;
  for (auto walk = pages->walk(); walk.next(); ++index) {
    LinkItem& item = request->items[index];
    item.status = walk.entry().status;
    item.version = walk.entry().version;
    item.length = walk.entry().length;
    item.tag = walk.entry().tag;
    if (item.length > 0) std::memcpy(item.payload, walk.payload().data(), item.length);
  }
  return true;
}

bool take_statuses(std::span<const std::byte> body, LinkRequest* request) {
  const auto statuses = protocol::parse_item_statuses(body);
  if (!statuses) return false;
  if (request == nullptr) return true;
  if (!answers(*statuses, request->items)) return false;
  for (std::size_t i = 0; i < request->items.size(); ++i) request->items[i].status = (*statuses)[i].status;
  return true;
}

}  // namespace

bool Connection::receive(Endings& endings) {
  const std::unique_lock receiving(receiving_, std::try_to_lock);
  if (!receiving || !open_ || broken_) return false;
  for (bool drained = false;;) {
    protocol::Frame frame;
    protocol::FrameReader::Got got = protocol::FrameReader::Got::kMore;
    while (endings.size() < kTurn && (got = reader_.next(frame)) == protocol::FrameReader::Got::kFrame) {
      if (!take_frame(frame, endings)) return false;
    }
    if (endings.size() >= kTurn) return true;
    if (got == protocol::FrameReader::Got::kBad) return bad("what it sends is no frame");
    if (drained) break;
    const std::span<std::byte> room = reader_.room();
    const ssize_t bytes = take_bytes(room);
    if (bytes > 0) {
      if (broken_) return false;
      reader_.received(static_cast<std::size_t>(bytes));
      counters_.bytes_received += static_cast<std::uint64_t>(bytes);
      last_received_ = monotonic_now().since_boot.count();
      // It gave less than it could have: there was no more.
      drained = static_cast<std::size_t>(bytes) < room.size();
    } else if (bytes == 0) {
      fail("it closed the connection");
      return false;
    } else if (errno == EAGAIN) {
      break;
    } else if (errno != EINTR) {
      fail(std::string("cannot receive: ") + std::strerror(errno));
      return false;
    }
  }
  const std::lock_guard lock(mutex_);
  send_from_queue();
  return false;
}

// As recv, but for what comes along.
ssize_t Connection::take_bytes(std::span<std::byte> room) {
  if (!greeting_.shares_memory()) return ::recv(socket_.get(), room.data(), room.size(), MSG_DONTWAIT);
  iovec bytes{room.data(), room.size()};
  alignas(cmsghdr) std::array<std::byte, kernel::control_bytes(kMostFiles)> control;
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t received = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (received < 0) return received;
  std::vector<UniqueFd> came;
  kernel::take_descriptors(message, came);
  for (UniqueFd& each : came) files_.push_back(std::move(each));
  // They take this process's descriptors.
  if (files_.size() > kMostFiles || (message.msg_flags & MSG_CTRUNC) != 0) {
    files_.clear();
    bad("it hands over more than was asked for");
  }
  return received;
}

bool Connection::bad(const std::string& why) {
  ++counters_.bad_frames;
  fail(why);
  return false;
}

bool Connection::take_frame(const protocol::Frame& frame, Endings& endings) {
  if (!passes(frame)) return false;
  return protocol::is_answer(frame.header) ? take_answer(frame, endings) : take_unasked(frame);
}

bool Connection::passes(const protocol::Frame& frame) {
  const bool tagged = protocol::has_tag(frame.header);
  if (!greeting_.authenticated()) return tagged ? bad("it sends a tag that was not agreed on") : true;
  if (keyed_) {
    return incoming_->check(frame.head, frame.body, frame.tag) ||
           bad("a frame was not written by it: somebody on the way changes, repeats or drops them");
  }
  const bool answers_keying = protocol::is_answer(frame.header) && keying_ != 0 && frame.header.id == keying_;
  if (tagged) {
    if (!answers_keying || !incoming_->check(frame.head, frame.body, frame.tag))
      return bad("its first tag is wrong: it does not know the lease's secret, or somebody on the way does not let it");
    const std::lock_guard lock(mutex_);
    keyed_ = true;
    keying_ = 0;
    return true;
  }
  // Before there is a key, anybody can have written it.
  if (protocol::is_answer(frame.header) && (!answers_keying || frame.header.status == ErrorCode::kOk))
    return bad("it does not prove who it is");
  return true;
}

bool Connection::take_unasked(const protocol::Frame& frame) {
  if (frame.header.id != 0) return bad("it asks, where it has to answer");
  if (frame.header.type == MessageType::kCredit) {
    const auto credit = protocol::parse_credit(frame.body);
    if (!credit) return bad("its credit makes no sense");
    const std::lock_guard lock(mutex_);
    credit_ = credit->credit_pages;
  } else if (frame.header.type == MessageType::kDraining && !draining_.exchange(true)) {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(wake_fd_, &one, sizeof one));
  }
  return true;
}

bool Connection::take_answer(const protocol::Frame& frame, Endings& endings) {
  const protocol::Header& header = frame.header;
  SentRequest sent;
  bool keyed_by = false;
  {
    const std::lock_guard lock(mutex_);
    auto found = table_.take(header.id);
    if (found) sent = *found;
    // A server may refuse what it has seen the beginning of.
    take_leave(sent.request);
    if (found && header.id == keying_) keying_ = 0;
    keyed_by = keyed_ || !greeting_.authenticated();
    if (!found) sent.type = MessageType{};
  }
  if (sent.type == MessageType{}) return bad("it answers what was not asked, or was answered before");
  LinkRequest* const request = sent.request;
  const auto end = [&](LinkOutcome outcome) {
    if (request != nullptr) endings.add(*request, outcome);
  };
  const auto nonsense = [&](const std::string& why) {
    end(LinkOutcome::kLost);
    return bad(why);
  };
  if (header.type != sent.type) return nonsense("it answers something else than was asked");
  if (sent.type == MessageType::kAttach) {
    AttachAnswer answer{.id = header.id, .status = header.status, .believed = keyed_by, .attached = {}, .file = {}};
    if (header.status == ErrorCode::kOk) {
      const auto attached = protocol::parse_attached(frame.body);
      if (!attached) return nonsense("its answer to ATTACH makes no sense");
      answer.attached = *attached;
      if (attached->with_file) {
        if (files_.empty()) return nonsense("it says that a descriptor came along, and none did");
        answer.file = std::move(files_.front());
        files_.pop_front();
      }
    }
    const std::lock_guard lock(mutex_);
    attach_answers_.push_back(std::move(answer));
    const std::uint64_t one = 1;
    static_cast<void>(!::write(wake_fd_, &one, sizeof one));
    return true;
  }
  if (sent.type == MessageType::kPing || sent.type == MessageType::kRelease) return true;
  if (header.status != ErrorCode::kOk) {
    if (request != nullptr) request->refusal = header.status;
    end(LinkOutcome::kRefused);
    return true;
  }
  const bool taken =
      sent.type == MessageType::kRead ? take_pages(frame.body, request) : take_statuses(frame.body, request);
  if (!taken) return nonsense("its answer does not fit what was asked");
  if (request != nullptr && request->op == LinkOp::kRead && request->priority == Priority::kDemand)
    counters_.demand_reads.record(monotonic_now() - sent.sent_at);
  end(LinkOutcome::kAnswered);
  return true;
}

}  // namespace tidepool::pool
