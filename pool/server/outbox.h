// Answers of one connection on their way out: one part is being sent while the next is filled. Bounded; memory that was
// never used is not touched. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "pool/protocol/codec.h"

namespace tidepool::pool::server {

class Outbox {
 public:
  // Room for the answers to READs of `credit_pages`, and for some small ones.
  explicit Outbox(std::uint32_t credit_pages)
      : capacity_(bytes_for(credit_pages)), filling_(new std::byte[capacity_]), sending_(new std::byte[capacity_]) {}

  // What one connection's outbox can take of the host at most.
  static constexpr std::size_t most_bytes(std::uint32_t credit_pages) { return 2 * bytes_for(credit_pages); }

  // Where the next answer goes.
  std::span<std::byte> room() { return {filling_.get() + filled_, capacity_ - filled_}; }
  void add(std::size_t bytes, std::uint32_t pages) {
    filled_ += bytes;
    waiting_pages_ += pages;
  }
  // Goes with the next bytes, not later than those that were added before it.
  void add_descriptor(UniqueFd descriptor) { filling_descriptors_.push_back(std::move(descriptor)); }
  std::size_t waiting_descriptors() const { return filling_descriptors_.size(); }
  // In answers that no send has begun with: their client cannot have seen any of them.
  std::uint32_t waiting_pages() const { return waiting_pages_; }
  bool empty() const { return filled_ == 0 && sent_ == to_send_; }

  // What to send next; it stays where it is until sent() has been told of all of it.
  std::span<const std::byte> next() {
    if (sent_ == to_send_) {
      std::swap(filling_, sending_);
      to_send_ = std::exchange(filled_, 0);
      sent_ = 0;
      waiting_pages_ = 0;
      descriptors_ = std::exchange(filling_descriptors_, {});
    }
    return {sending_.get() + sent_, to_send_ - sent_};
  }
  // What is to be sent along with next().
  const std::vector<UniqueFd>& descriptors() const { return descriptors_; }
  void sent(std::size_t bytes) {
    sent_ += bytes;
    descriptors_.clear();
  }

 private:
  static constexpr std::size_t kSmallAnswers = 64u << 10;
  static constexpr std::size_t bytes_for(std::uint32_t credit_pages) {
    return std::size_t{credit_pages} * (protocol::kSlotBytes + protocol::kReadAnswerBytes) + kSmallAnswers;
  }

  std::size_t capacity_;
  std::unique_ptr<std::byte[]> filling_;
  std::unique_ptr<std::byte[]> sending_;
  std::size_t filled_ = 0;
  std::size_t to_send_ = 0;
  std::size_t sent_ = 0;
  std::uint32_t waiting_pages_ = 0;
  std::vector<UniqueFd> filling_descriptors_;
  std::vector<UniqueFd> descriptors_;
};

}  // namespace tidepool::pool::server
