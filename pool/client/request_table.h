// What was sent on a connection and not answered: by id. An id names a place and how often the place was used, so that
// an answer that comes twice, or was never asked for, finds nothing.
//
// A request that ended before its answer came (it was late) leaves its entry without the request: the answer is still
// due, and its credit taken, but there is nothing left that it could write to. Bounded; allocates once. Not
// thread-safe: its connection's lock guards it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "pool/client/link.h"
#include "pool/protocol/messages.h"

namespace tidepool::pool {

struct SentRequest {
  protocol::MessageType type{};
  LinkRequest* request = nullptr;  // null: it ended, or it is the link's own (ATTACH, RELEASE, PING)
  std::uint32_t credit_pages = 0;  // that it takes; 0: it is one of those without credit
  MonoTime sent_at{};
};

class RequestTable {
 public:
  static constexpr std::size_t kMost = 1024;
  using Id = std::uint64_t;

  RequestTable() : places_(kMost) { clear(); }

  bool full() const { return free_.empty(); }
  std::size_t size() const { return kMost - free_.size(); }
  std::uint32_t credit_pages() const { return credit_pages_; }  // of all in it
  std::size_t without_credit() const { return without_credit_; }

  // Not when full.
  Id add(const SentRequest& sent) {
    const std::size_t index = free_.back();
    free_.pop_back();
    Place& place = places_[index];
    place.used = true;
    place.sent = sent;
    count(sent, +1);
    return place.uses << kIndexBits | index;
  }
  std::optional<SentRequest> take(Id id) {
    Place& place = places_[id % kMost];
    if (!place.used || place.uses != id >> kIndexBits) return std::nullopt;
    free_up(id % kMost);
    return place.sent;
  }
  // Of all entries; `visit` may set request to null.
  template <class Visit>
  void for_each(Visit visit) {
    if (size() == 0) return;
    for (Place& place : places_) {
      if (place.used) visit(place.sent);
    }
  }
  // Ids go on from where they were: an answer of before means nothing after.
  void clear() {
    free_.clear();
    for (std::size_t index = kMost; index-- > 0;) {
      if (places_[index].used) ++places_[index].uses;
      places_[index].used = false;
      free_.push_back(index);
    }
    credit_pages_ = 0;
    without_credit_ = 0;
  }

 private:
  static constexpr unsigned kIndexBits = 10;
  static_assert(kMost == 1u << kIndexBits);

  struct Place {
    std::uint64_t uses = 1;  // from 1: no id is 0
    bool used = false;
    SentRequest sent;
  };

  void free_up(std::size_t index) {
    Place& place = places_[index];
    place.used = false;
    ++place.uses;
    count(place.sent, -1);
    free_.push_back(index);
  }
  void count(const SentRequest& sent, int by) {
    if (sent.credit_pages == 0) without_credit_ += static_cast<std::size_t>(by);
    credit_pages_ += static_cast<std::uint32_t>(by) * sent.credit_pages;
  }

  std::vector<Place> places_;
  std::vector<std::size_t> free_;
  std::uint32_t credit_pages_ = 0;
  std::size_t without_credit_ = 0;
};

}  // namespace tidepool::pool
