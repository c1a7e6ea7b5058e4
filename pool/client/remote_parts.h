// What the remote store is made of; included by its own sources only.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pool/client/link.h"
#include "pool/client/remote_store.h"
#include "pool/client/slice_table.h"
#include "pool/client/stored_form.h"
#include "pool/store/batch_state.h"
#include "pool/store/slot_word.h"

namespace tidepool::pool::remote {

inline constexpr std::size_t kFramePages = protocol::kMaxPagesPerFrame;
inline constexpr std::size_t kFrameBytes = kFramePages * kPageSize;
inline constexpr std::size_t kCopyFrames = 2;

inline constexpr std::uint32_t kOwnRights = protocol::kRightRead | protocol::kRightWrite | protocol::kRightRelease;

// A set of a slice's replicas, by their index in it.
using ReplicaMask = std::uint8_t;
constexpr ReplicaMask bit(unsigned replica) {
  return static_cast<ReplicaMask>(1u << replica);
}
constexpr unsigned first_of(ReplicaMask mask) {
  return static_cast<unsigned>(std::countr_zero(mask));
}

struct Server {
  std::string name;              // empty: no such server
  std::unique_ptr<Link> link{};  // null: known from a predecessor's time only
  double weight = 1;
  int domain = 0;
  std::uint64_t most_slices = 0;
  bool up = false;
  MonoTime down_since{};  // not up
  bool seen = false;      // has been up in this store's life
  bool draining = false;
  bool last_resort = false;
  bool full = false;         // why it refused a slice
  MonoTime refused_until{};  // no new slice before
  std::string why{};
  std::uint64_t slices = 0;
  std::uint32_t reads_under_way = 0;
  Nanoseconds typical_read{0};  // as of the last work()
  Nanoseconds slow_read{0};
  std::uint64_t wrong_answers = 0;
  std::uint64_t hedges = 0;
  std::uint64_t boots = 0;
};

struct Replica {
  ReplicaEntry entry{};
  std::uint64_t use = 0;   // never twice: what is said of the place's former replica is not said of this one
  bool attached = false;   // the lease is in place in this store's life
  bool attaching = false;  // was asked for
  bool fresh = false;      // filling from nothing, not only for what it missed
  MonoTime expires{};      // attached: writes may be sent until then; MonoTime{}: it does not end
  MonoTime renew_at{};
  // While it is filling: a bit per slot whose page it lacks, how many there are, and where to look for the next.
  std::vector<std::uint64_t> owed{};
  std::uint64_t owing = 0;
  std::size_t next_slot = 0;
  std::uint64_t rounds = 0;  // over all that it lacks

  bool owes(std::uint32_t slot) const { return !owed.empty() && (owed[slot / 64] >> slot % 64 & 1) != 0; }
};

// kOffered: by a controller, not yet confirmed.
enum class SliceState : std::uint8_t { kNone, kLeasing, kOffered, kReady };

struct Slice {
  SliceState state = SliceState::kNone;
  protocol::SliceId id{};
  std::array<Replica, kReplicaPlaces> replicas{};
  std::uint64_t used = 0;             // slots that are staged, live or bad
  std::uint64_t hint = 0;             // no free slot in words before
  std::vector<std::uint64_t> free{};  // a bit per slot
  std::uint64_t tried = 0;            // servers that were asked for this slice
  unsigned awaited = 0;               // answers to that
  MonoTime refused_until{};           // a server took no writes: none before
  MonoTime fill_at{};                 // no replica is made anew before
  bool closing = false;               // takes no pages
  bool refused = false;               // offered, and not attached everywhere
  bool apart = true;                  // replicas are in different failure domains
};

using WriteState = BatchState<WriteBatch>;
using ReadState = BatchState<ReadBatch>;

// Up to 64 pages of one slice on their way to its replicas.
struct WriteFrame {
  struct Item {
    WriteState* state = nullptr;
    WriteItem* item = nullptr;
    std::uint32_t slot = 0;
    std::uint64_t version = 0;
    StoredForm form{};
    protocol::Tag tag{};
    ReplicaMask acknowledged = 0;
    // Not kPending: somebody was not sent it, or had no time, and nobody goes out of force for that. What the page
    // gets.
    PageStatus withdrawn = PageStatus::kPending;
    bool sealed = false;
  };
  struct Sending {
    LinkRequest request;
    std::array<LinkItem, kFramePages> items;
    std::array<std::uint8_t, kFramePages> of{};  // which item of the frame
    bool under_way = false;
  };
  std::array<Item, kFramePages> items;
  std::array<Sending, kReplicaPlaces> sendings;
  std::size_t count = 0;
  std::size_t slice = 0;
  protocol::SliceId id{};
  ReplicaMask asked = 0;
  std::array<std::uint8_t, kReplicaPlaces> servers{};
  std::array<std::uint64_t, kReplicaPlaces> uses{};
  unsigned outstanding = 0;
  unsigned pins = 0;  // somebody cancels: must not be used anew
  bool ended = false;
  std::byte* buffer = nullptr;
  std::uint32_t number = 0;
  std::size_t touched = 0;  // pages of the buffer
  WriteFrame* following = nullptr;
};

struct ReadJob;

// One READ to one server, with room of its own for the answer: one that was overtaken touches nothing of the caller's.
struct ReadRequest {
  LinkRequest request;
  std::array<LinkItem, kFramePages> items;
  std::array<std::uint8_t, kFramePages> of{};  // which item of the job
  std::array<bool, kFramePages> mine{};        // whose answer is the one that counts
  std::byte* buffer = nullptr;
  ReadJob* job = nullptr;  // null: nobody waits for it any more
  unsigned replica = 0;
  std::uint64_t use = 0;  // of the replica's place
  std::uint8_t server = 0;
  bool hedge = false;
  std::size_t touched = 0;  // pages of the buffer
  ReadRequest* following = nullptr;
};

// Up to 64 pages of one slice that a batch wants.
struct ReadJob {
  struct Item {
    ReadItem* item = nullptr;
    std::uint32_t slot = 0;
    std::uint64_t version = 0;
    StoredForm form{};
    ReplicaMask asked = 0;  // under way
    ReplicaMask wrong = 0;  // answered, and not with the page
    ReplicaMask mute = 0;   // could not answer
    bool settled = false;   // has its status, or is about to
  };
  std::array<Item, kFramePages> items;
  std::size_t count = 0;
  std::size_t open = 0;  // items that are not settled
  unsigned busy = 0;     // threads that work on an answer
  bool waiting = false;  // for a free request
  ReadState* state = nullptr;
  std::size_t slice = 0;
  Priority priority = Priority::kDemand;
  MonoTime asked_at{};                                   // the last time
  std::array<std::uint64_t, kReplicaPlaces> uses{};      // of the places that the items' masks are about
  std::array<ReadRequest*, kReplicaPlaces> under_way{};  // at most one to each replica
  ReadJob* following = nullptr;
  ReadJob* newer = nullptr;  // of those at work
  ReadJob* older = nullptr;
};

struct Discard {
  std::size_t slice = 0;
  protocol::SliceId id{};
  std::uint32_t slot = 0;
  std::uint64_t version = 0;
};

struct DiscardFrame {
  std::array<LinkRequest, kReplicaPlaces> requests;
  std::array<std::array<LinkItem, kFramePages>, kReplicaPlaces> items;
  unsigned outstanding = 0;
};

// Up to 64 pages on their way from one replica to another, as they are sealed.
struct CopyFrame {
  enum class Phase : std::uint8_t { kIdle, kReading, kRead, kChecking, kWriting, kWritten };
  struct Item {
    std::uint32_t slot = 0;
    std::uint64_t version = 0;
    StoredForm form{};
  };
  Phase phase = Phase::kIdle;
  LinkOutcome outcome = LinkOutcome::kLost;
  LinkRequest request;
  std::array<LinkItem, kFramePages> items;
  std::array<Item, kFramePages> wanted;
  std::size_t count = 0;
  std::size_t slice = 0;
  protocol::SliceId id{};
  unsigned from = 0;
  unsigned to = 0;
  std::uint64_t from_use = 0;
  std::uint64_t to_use = 0;
  std::byte* buffer = nullptr;
};

struct AttachCall {
  std::uint8_t server = 0;
  std::size_t slice = 0;
  unsigned replica = 0;
  std::uint64_t use = 0;
  protocol::Claims claims{};
  bool renewal = false;
  std::shared_ptr<const Lease> lease{};  // the token is there already
};

// An ATTACH that was sent: the lease counts from then.
struct Attempt {
  MonoTime sent{};
  std::uint64_t epoch = 0;
  std::uint64_t lease_ms = 0;
};

// What is to be done once the store's lock is let go: calls of links, and of the caller's own functions.
struct Outbox {
  Chain<WriteFrame> frames;
  Chain<ReadRequest> reads;
  Chain<WriteState> written;
  Chain<ReadState> read;
  std::vector<AttachCall> attaches;
  std::vector<std::pair<std::uint8_t, protocol::SliceId>> releases;
  std::vector<std::pair<std::uint8_t, LinkRequest*>> requests;  // discards and copies

  bool empty() const {
    return frames.empty() && reads.empty() && written.empty() && read.empty() && attaches.empty() && releases.empty() &&
           requests.empty();
  }
};

}  // namespace tidepool::pool::remote
