// What a socket did not take yet, in order: the rest of one frame whose payloads are still where their owner has them,
// and small frames behind it. Payloads are copied only when their owner wants them back before they are sent. Not
// thread-safe.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "pool/protocol/aes_gcm.h"
#include "pool/protocol/codec.h"

namespace tidepool::pool {

class Unsent {
 public:
  static constexpr std::size_t kMostParts = protocol::kMaxPagesPerFrame + 2;

  bool empty() const { return head_.size() == head_sent_ && next_ == lent_.size() && tail_.size() == tail_sent_; }
  // Whose payloads are lent; null: nobody's.
  const void* owner() const { return next_ == lent_.size() ? nullptr : owner_; }

  // A frame of which the socket has taken `sent` bytes. Nothing else may be lent by anybody.
  void hold(std::span<const std::byte> head, std::span<const protocol::Piece> payloads, std::span<const std::byte> tail,
            std::size_t sent, const void* owner) {
    if (empty()) clear();
    if (!payloads.empty() && empty()) {
      keep(head_, head, sent);
      for (const protocol::Piece payload : payloads) {
        const protocol::Piece left = payload.subspan(std::min(sent, payload.size()));
        sent -= payload.size() - left.size();
        if (!left.empty()) lent_.push_back(left);
      }
      owner_ = owner;
    } else {
      keep(tail_, head, sent);
      for (const protocol::Piece payload : payloads) keep(tail_, payload, sent);
    }
    keep(tail_, tail, sent);
  }

  // The owner's memory is no longer to be looked at.
  void give_back() {
    protocol::Buffer kept;
    for (std::size_t i = next_; i < lent_.size(); ++i) kept.insert(kept.end(), lent_[i].begin(), lent_[i].end());
    lent_.clear();
    next_ = 0;
    owner_ = nullptr;
    tail_.erase(tail_.begin(), tail_.begin() + static_cast<std::ptrdiff_t>(tail_sent_));
    tail_sent_ = 0;
    tail_.insert(tail_.begin(), kept.begin(), kept.end());
  }

  // What to send next; how many parts that is.
  std::size_t parts(std::span<iovec, kMostParts> parts) const {
    std::size_t count = 0;
    const auto add = [&](std::span<const std::byte> bytes) {
      if (!bytes.empty()) parts[count++] = {const_cast<std::byte*>(bytes.data()), bytes.size()};
    };
    add(std::span(head_).subspan(head_sent_));
    for (std::size_t i = next_; i < lent_.size(); ++i) add(lent_[i]);
    add(std::span(tail_).subspan(tail_sent_));
    return count;
  }
  void sent(std::size_t bytes) {
    advance(head_sent_, head_.size(), bytes);
    while (bytes > 0 && next_ < lent_.size()) {
      protocol::Piece& first = lent_[next_];
      const std::size_t part = std::min(bytes, first.size());
      first = first.subspan(part);
      bytes -= part;
      if (first.empty()) ++next_;
    }
    advance(tail_sent_, tail_.size(), bytes);
    if (empty()) clear();
  }
  void clear() {
    head_.clear();
    lent_.clear();
    tail_.clear();
    head_sent_ = next_ = tail_sent_ = 0;
    owner_ = nullptr;
  }

 private:
  // What of `bytes` is behind the first `sent` ones, which are counted down.
  static void keep(protocol::Buffer& in, std::span<const std::byte> bytes, std::size_t& sent) {
    const std::size_t skipped = std::min(sent, bytes.size());
    sent -= skipped;
    in.insert(in.end(), bytes.begin() + static_cast<std::ptrdiff_t>(skipped), bytes.end());
  }
  static void advance(std::size_t& at, std::size_t end, std::size_t& bytes) {
    const std::size_t part = std::min(bytes, end - at);
    at += part;
    bytes -= part;
  }

  protocol::Buffer head_;              // in front of what is lent
  std::vector<protocol::Piece> lent_;  // from next_ on
  protocol::Buffer tail_;
  std::size_t head_sent_ = 0;
  std::size_t next_ = 0;
  std::size_t tail_sent_ = 0;
  const void* owner_ = nullptr;
};

}  // namespace tidepool::pool
