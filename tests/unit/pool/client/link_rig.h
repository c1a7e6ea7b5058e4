// A link to a scripted server, and what its owner sees of it.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "pool/client/server_link.h"
#include "tests/unit/pool/client/scripted_server.h"

namespace tidepool::pool {

inline constexpr std::chrono::seconds kLongEnough{30};

inline bool eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + kLongEnough;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

// A request with memory of its own, which knows how often it was answered, and whether that memory stayed as it was
// since.
class Asked {
 public:
  Asked(LinkOp op, protocol::SliceId slice, std::vector<std::uint32_t> slots, Priority priority = Priority::kDemand)
      : pages_(slots.size()), items_(slots.size()) {
    for (std::size_t i = 0; i < slots.size(); ++i) {
      pages_[i].fill(std::byte{0xcc});
      items_[i].slot = slots[i];
      items_[i].payload = pages_[i].data();
    }
    request_.op = op;
    request_.slice = slice;
    request_.items = items_;
    request_.priority = priority;
    request_.done = [this](LinkRequest&, LinkOutcome outcome) {
      const std::lock_guard lock(mutex_);
      ++times_;
      outcome_ = outcome;
      at_end_ = pages_;
      changed_.notify_all();
    };
  }
  Asked(const Asked&) = delete;
  Asked& operator=(const Asked&) = delete;

  // Content to write: `length` bytes that begin with `first`.
  Asked& fill(std::uint8_t first, std::uint64_t version, std::uint16_t length = 4096) {
    for (std::size_t i = 0; i < items_.size(); ++i) {
      for (std::size_t at = 0; at < length; ++at) pages_[i][at] = content(first, i, at);
      items_[i].length = length;
      items_[i].version = version;
      items_[i].tag.fill(first);
    }
    return *this;
  }
  bool holds(std::size_t item, std::uint8_t first, std::size_t length = 4096) const {
    for (std::size_t at = 0; at < length; ++at) {
      if (pages_[item][at] != content(first, item, at)) return false;
    }
    return items_[item].length == length;
  }
  static std::byte content(std::uint8_t first, std::size_t item, std::size_t at) {
    return static_cast<std::byte>(first + item * 31 + at * 7);
  }

  // Nothing: not answered in a long time.
  std::optional<LinkOutcome> wait() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kLongEnough, [&] { return times_ > 0; })) return std::nullopt;
    return outcome_;
  }
  int times() const {
    const std::lock_guard lock(mutex_);
    return times_;
  }
  bool untouched_since_end() const {
    const std::lock_guard lock(mutex_);
    return times_ > 0 && pages_ == at_end_;
  }
  LinkRequest& request() { return request_; }
  LinkItem& item(std::size_t index) { return items_[index]; }

 private:
  std::vector<std::array<std::byte, 4096>> pages_;
  std::vector<std::array<std::byte, 4096>> at_end_;
  std::vector<LinkItem> items_;
  LinkRequest request_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int times_ = 0;
  LinkOutcome outcome_ = LinkOutcome::kCancelled;
};

class LinkRig {
 public:
  explicit LinkRig(ServerSettings settings = {}, const std::function<void(ServerLinkOptions&)>& change = {})
      : settings_(with_key(std::move(settings))), server_(settings_) {
    ServerLinkOptions options{.name = "a", .address = server_.address()};
    options.authenticate_unix = true;
    options.shortest_retry = std::chrono::milliseconds(5);
    options.longest_retry = std::chrono::milliseconds(50);
    // Long, so that only those tests end by time that want it.
    options.demand_patience = options.bulk_patience = options.silence = options.attach_patience = kLongEnough;
    if (change) change(options);
    auto made = make_server_link(options);
    EXPECT_TRUE(made) << made.error().message();
    link_ = std::move(*made);
    link_->listen({.up =
                       [this](bool same) {
                         const std::lock_guard lock(mutex_);
                         ups_.push_back(same);
                       },
                   .down =
                       [this](const std::string& why) {
                         const std::lock_guard lock(mutex_);
                         downs_.push_back(why);
                       },
                   .draining = [this] { ++drainings_; }});
  }

  ScriptedServer& server() { return server_; }
  const ServerSettings& settings() const { return settings_; }
  Link& link() { return *link_; }
  void close() { link_.reset(); }

  Lease lease(std::uint64_t slice, std::uint64_t epoch = 1) const {
    Lease lease;
    lease.claims = {
        .slice = protocol::SliceId{slice},
        .holder = {7},
        .epoch = protocol::LeaseEpoch{epoch},
        .slots = 1000,
        .rights = protocol::kRightRead | protocol::kRightWrite | protocol::kRightCreate | protocol::kRightRelease};
    lease.secret = protocol::lease_secret(settings_.key, lease.claims);
    return lease;
  }
  struct Attached {
    AttachOutcome outcome = AttachOutcome::kLost;
    protocol::ErrorCode why = protocol::ErrorCode::kOk;
    bool operator==(const Attached&) const = default;
  };
  Attached attach(const Lease& lease) {
    struct Answer {
      std::mutex mutex;
      std::optional<Attached> attached;
    };
    const auto answer = std::make_shared<Answer>();
    link_->attach(lease, [answer](AttachOutcome outcome, protocol::ErrorCode why) {
      const std::lock_guard lock(answer->mutex);
      EXPECT_FALSE(answer->attached) << "answered twice";
      answer->attached = {outcome, why};
    });
    EXPECT_TRUE(eventually([&] {
      const std::lock_guard lock(answer->mutex);
      return answer->attached.has_value();
    }));
    const std::lock_guard lock(answer->mutex);
    return answer->attached.value_or(Attached{});
  }
  Attached attach(std::uint64_t slice) { return attach(lease(slice)); }

  std::optional<LinkOutcome> ask(Asked& asked) {
    link_->submit(asked.request());
    return asked.wait();
  }
  bool write(std::uint32_t slot, std::uint8_t first, std::uint64_t version) {
    Asked asked(LinkOp::kWrite, protocol::SliceId{1}, {slot}, Priority::kWriteBack);
    asked.fill(first, version);
    return ask(asked) == LinkOutcome::kAnswered && asked.item(0).status == protocol::ErrorCode::kOk;
  }
  bool reads(std::uint32_t slot, std::uint8_t first, Priority priority = Priority::kDemand) {
    Asked asked(LinkOp::kRead, protocol::SliceId{1}, {slot}, priority);
    return ask(asked) == LinkOutcome::kAnswered && asked.item(0).status == protocol::ErrorCode::kOk &&
           asked.holds(0, first);
  }

  bool is_up() const { return link_->figures().state == LinkState::kUp; }
  std::vector<bool> ups() const {
    const std::lock_guard lock(mutex_);
    return ups_;
  }
  std::vector<std::string> downs() const {
    const std::lock_guard lock(mutex_);
    return downs_;
  }
  bool up_times(std::size_t times) const {
    return eventually([&] { return ups().size() >= times; });
  }
  int drainings() const { return drainings_; }

 private:
  static ServerSettings with_key(ServerSettings settings) {
    settings.key.fill(0x42);
    return settings;
  }

  const ServerSettings settings_;
  ScriptedServer server_;
  mutable std::mutex mutex_;
  std::vector<bool> ups_;
  std::vector<std::string> downs_;
  std::atomic<int> drainings_{0};
  std::unique_ptr<Link> link_;
};

}  // namespace tidepool::pool
