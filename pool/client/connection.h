// One connection of a link to a memory server, from WELCOME until it breaks: sends requests within the server's credit,
// receives and checks answers, and knows what is under way.
//
// Two locks. `receiving_` is held by the one thread that takes bytes from the socket; `mutex_` by whoever sends or
// looks into the table. Neither is held while a request is being told to its owner. A request is either in the queue,
// in the table, or in the hands of one thread that took it out of there and ends it: so nobody writes to the memory of
// a request that ended. Payloads are copied to it only when their whole frame has come, has passed the guard and fits
// what was asked.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "pool/client/greeting.h"
#include "pool/client/link.h"
#include "pool/client/recent_latencies.h"
#include "pool/client/request_queue.h"
#include "pool/client/request_table.h"
#include "pool/client/unsent.h"
#include "pool/protocol/frame_guard.h"
#include "pool/protocol/frame_reader.h"

namespace tidepool::pool {

inline MonoTime monotonic_now() {
  return SystemClock().now();
}

struct LinkCounters {
  std::atomic<std::uint64_t> requests{0};
  std::atomic<std::uint64_t> lost{0};
  std::atomic<std::uint64_t> late{0};
  std::atomic<std::uint64_t> refused{0};
  std::atomic<std::uint64_t> bad_frames{0};
  std::atomic<std::uint64_t> from_files{0};  // of `requests`
  std::atomic<std::uint64_t> bytes_sent{0};
  std::atomic<std::uint64_t> bytes_received{0};
  RecentLatencies demand_reads;
};

// Requests that ended, to be told to their owners when no lock is held.
class Endings {
 public:
  void add(LinkRequest& request, LinkOutcome outcome) { ended_.push_back({&request, outcome}); }
  std::size_t size() const { return ended_.size(); }
  void tell(LinkCounters& counters);  // and forgets them

 private:
  struct Ending {
    LinkRequest* request;
    LinkOutcome outcome;
  };
  std::vector<Ending> ended_;
};

struct AttachAnswer {
  RequestTable::Id id = 0;
  protocol::ErrorCode status = protocol::ErrorCode::kOk;
  bool believed = false;  // it has a tag, or needs none here
  protocol::Attached attached;
  UniqueFd file;  // to read the slice from; invalid: none came
};

struct ConnectionLimits {
  Nanoseconds patience{0};  // for an answer, and for a place in the queue
  Nanoseconds silence{0};   // without a byte while answers are due: the connection is cut
  Nanoseconds idle{0};      // without a byte while none are: PING
};

class Connection {
 public:
  // `wake_fd` (eventfd) is written when the link's thread has something to do here.
  Connection(const ConnectionLimits& limits, LinkCounters& counters, int wake_fd)
      : limits_(limits), counters_(counters), wake_fd_(wake_fd) {}

  // --- the link's thread

  // `epoll`: gets the socket with `events` (and EPOLLOUT when there is something to send), and `key` as data.
  Result<> open(UniqueFd socket, Greeting greeting, int epoll, std::uint32_t events, std::uint64_t key);
  // From now on requests are taken. `answers_epoll`, if there is one, is readable when answers may be there.
  void serve(int answers_epoll);
  // Everything that waits or is under way ends as lost; the socket is closed.
  void close(Endings& endings);
  // Why it has to be closed; nothing: it works.
  std::optional<std::string> broken() const;
  void fail(const std::string& why);

  // Whether frames have tags, or need none.
  bool ready() const;
  // Nothing when the ATTACH before has to be answered first.
  std::optional<RequestTable::Id> send_attach(const Lease& lease);
  std::vector<AttachAnswer> take_attach_answers();
  void allow(protocol::SliceId slice, protocol::LeaseEpoch epoch);
  void forbid(protocol::SliceId slice);
  void send_release(protocol::SliceId slice);  // and forbids it
  void send_what_waits();                      // the socket takes more
  void watch_time(MonoTime now, Endings& endings);

  // --- any thread

  // While it lives, requests without payloads that its thread submits are kept back and go out together: for whoever
  // tells many owners that their requests ended, and is given new ones.
  class Together {
   public:
    explicit Together(Connection& connection);
    ~Together();
    Together(const Together&) = delete;
    Together& operator=(const Together&) = delete;

   private:
    friend class Connection;
    Connection& connection_;
    Together* const outer_;  // of this thread
    bool kept_ = false;
    static thread_local Together* innermost_;
  };

  void submit(LinkRequest& request);
  bool cancel(LinkRequest& request);  // the caller tells the owner
  // Takes what has come, up to a number of answers: true when there may be more. False at once when another thread is
  // at it.
  bool receive(Endings& endings);
  std::size_t under_way() const;  // requests sent or waiting
  std::uint64_t pages_under_way() const;
  bool draining() const { return draining_.load(std::memory_order_relaxed); }

 private:
  // With mutex_.
  bool may_send(const LinkRequest& request) const;
  void send(LinkRequest& request);
  void send_from_queue();
  // scratch_ is the head; `owner` is who wants the payloads back some day.
  void transmit(std::span<const protocol::Piece> payloads, const LinkRequest* owner);
  bool keep_back() const;  // this thread does
  // The request is about to end: what was not sent of it is copied.
  void take_leave(const LinkRequest* request);
  std::optional<std::size_t> put(std::span<iovec> parts);
  void flush();
  void arm();
  void broke(const std::string& why);
  RequestTable::Id enter(const SentRequest& sent);
  // With receiving_.
  bool take_frame(const protocol::Frame& frame, Endings& endings);
  ssize_t take_bytes(std::span<std::byte> room);
  bool passes(const protocol::Frame& frame);
  bool take_unasked(const protocol::Frame& frame);
  bool take_answer(const protocol::Frame& frame, Endings& endings);
  bool bad(const std::string& why);

  const ConnectionLimits limits_;
  LinkCounters& counters_;
  const int wake_fd_;

  std::mutex receiving_;
  protocol::FrameReader reader_;
  std::optional<protocol::FrameGuard> incoming_;
  std::deque<UniqueFd> files_;  // that have come before what says whose they are

  mutable std::mutex mutex_;
  UniqueFd socket_;
  int epoll_ = -1;
  int answers_epoll_ = -1;
  std::uint32_t events_ = 0;
  std::uint32_t armed_ = 0;
  std::uint64_t key_ = 0;
  Greeting greeting_;
  std::optional<protocol::FrameGuard> outgoing_;
  RequestTable::Id keying_ = 0;  // the ATTACH that may key the connection
  bool serving_ = false;
  std::string why_;
  std::uint32_t credit_ = 0;
  RequestTable table_;
  RequestQueue queue_;
  std::unordered_map<protocol::SliceId, protocol::LeaseEpoch> slices_;
  std::vector<AttachAnswer> attach_answers_;
  protocol::Buffer scratch_;
  Unsent unsent_;              // the rest of a frame that the socket did not take, and the link's own frames behind it
  std::size_t kept_back_ = 0;  // frames; then they are all that is unsent, and the socket was not tried
  MonoTime due_since_{};       // since when any answer has been due

  // Written with both locks, so that either is enough to read them.
  bool open_ = false;
  bool keyed_ = false;
  std::atomic<bool> broken_{false};
  std::atomic<bool> draining_{false};
  std::atomic<Nanoseconds::rep> last_received_{0};
};

}  // namespace tidepool::pool
