// A page store whose pages lie at memory servers: sealed on this host, on one to three servers each. One per VM.
//
// A write is kOk when every replica in force has acknowledged it. A replica that missed one is out of force until it
// has that page too; one that is gone is replaced: another server gets every live page of the slice, copied as it is
// sealed, and is in force when it has acknowledged all of them. Pages are lost only when the last replica that has them
// is. A read asks the replica that promises to be fastest, another one when that is late, gone or wrong; nothing is
// handed out that was not sealed here for that place and version. kUnavailable: nobody who has the page answers now.
// kCorrupt: everybody who should have it answered wrongly, or lost it.
//
// A location is set as soon as a page has a slot; until the write has ended, reads of it are answered from the writer's
// buffer. All methods are thread-safe, also from `done` of a batch.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/byte_budget.h"
#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "pool/client/link.h"
#include "pool/client/vm_secret.h"
#include "pool/store/codec.h"
#include "pool/store/page_store.h"

namespace tidepool::pool {

struct RemoteServer {
  std::unique_ptr<Link> link;
  double weight = 1;     // above 0: how much of the pages, beside the others
  std::string domain{};  // what fails together; empty: it fails alone
  Bytes capacity{};      // most that is leased of it; zero: as much as it gives
  // Has replicas only while there are not enough others, and gives them up when there are.
  bool last_resort = false;
};

struct LeaseWish {
  std::string server;
  protocol::Claims claims;  // lease_ms and rights are wishes
  bool renewal = false;     // of the lease in this epoch, which is in place
};
using LeaseAnswer = std::function<void(Result<Lease>)>;
// Asked for the token. Answers once: at once or later, on any thread, perhaps when the store is no more. Any thread;
// must not block.
using LeaseSource = std::function<void(const LeaseWish&, LeaseAnswer)>;

// A slice as a controller gives it, with the token for each of its replicas.
struct GrantedReplica {
  std::string server;
  std::string address;
  std::string domain;
  Lease lease;
};
struct GrantedSlice {
  protocol::SliceId slice{};
  std::vector<GrantedReplica> replicas;
};
// The link to a server that the store has none to yet.
using LinkMaker = std::function<Result<RemoteServer>(const GrantedReplica&)>;

// What became of it.
struct SliceReport {
  enum class State : std::uint8_t {
    kOffered,   // being attached
    kAttached,  // at every server: to be confirmed
    kRefused,   // not at every server: to be withdrawn
    kReady,     // takes pages, and has some
    kClosing,   // takes no more
  };
  struct Replica {
    std::string server;
    std::uint64_t epoch = 0;
    bool in_force = false;
    bool filling = false;  // neither: it is lost
  };
  protocol::SliceId slice{};
  State state = State::kOffered;
  std::uint64_t pages = 0;
  std::vector<Replica> replicas;
};

enum class Sealing : std::uint8_t { kNone, kAes256Gcm };

struct RemoteStoreOptions {
  Bytes capacity{};                       // most that pages may take at each replica
  Bytes slice{64ull << 20};               // 2 MiB to 1 GiB, whole pages
  unsigned replicas = 2;                  // 1 to 3
  Sealing sealing = Sealing::kAes256Gcm;  // nothing else is accepted: a server is somebody else's memory
  std::optional<CodecKind> codec{};       // before sealing
  int level = 0;
  Bytes most_in_flight{4ull << 20};  // of pages being written; 256 KiB to 1 GiB
  unsigned most_reads = 128;         // requests under way; 8 to 4096. A quarter of them is for demand only
  // A demand read is asked for a second time when it is later than 19 of 20 are, of this server's or of the other
  // one's, but not before `hedge_least`; where nothing is known yet, after `hedge_unknown`.
  Nanoseconds hedge_least{std::chrono::microseconds(500)};
  Nanoseconds hedge_unknown{std::chrono::milliseconds(5)};
  Nanoseconds refused_pause{std::chrono::seconds(5)};  // a server that refused a slice is left alone for so long
  // How long a lease lasts, and writes with it; renewed at a third of that. Zero: until the slice is released.
  std::chrono::milliseconds lease{0};
  Nanoseconds lost_after{std::chrono::seconds(60)};  // a server that is away for so long is replaced
  std::shared_ptr<ByteBudget> copying{};             // for copies of slices; null: no bound
  std::uint64_t seed = 0;                            // of the draws of placement
  // False: nobody but the caller calls work().
  bool own_thread = true;
  // Given: a controller says which slices there are, and where (see RemoteStore). Any thread of the caller's.
  LinkMaker placed{};
  const Clock* clock = nullptr;  // null: the system's
};

struct RemoteServerFigures {
  std::string server;
  LinkFigures link;
  bool up = false;
  bool draining = false;
  std::string why{};                // not up, or not given a slice: the last reason
  std::uint64_t slices = 0;         // leased of it, in force
  std::uint64_t wrong_answers = 0;  // that did not open, were of another version, or not there
  std::uint64_t hedges = 0;         // reads that it was asked because another server was late
  std::uint64_t boots = 0;          // how often it came back without its pages
  std::uint64_t filling = 0;        // slices that are being copied to it
};

struct RemoteFigures {
  std::vector<RemoteServerFigures> servers;
  std::uint64_t slices = 0;
  std::uint64_t degraded_slices = 0;  // of them, with fewer replicas in force than wanted
  std::uint64_t close_slices = 0;     // of them, with replicas in one failure domain
  std::uint64_t lost_slices = 0;      // of them, with none
  std::uint64_t filling_slices = 0;   // of them, with a replica that does not have every page yet
  std::uint64_t expired_slices = 0;   // of them, that take no writes because a lease has run out
  Bytes rebuild_remaining;            // of pages that replicas lack
  std::uint64_t queued_pages = 0;     // handed over for writing, no slot yet
  std::uint64_t under_way_pages = 0;  // being written
  std::uint64_t closing_slices = 0;   // of them, that are to become empty
  Bytes closing;                      // of pages in those
  // Since start:
  std::uint64_t hedges = 0;
  std::uint64_t hedges_won = 0;
  std::uint64_t steals = 0;            // reads answered from a write that had not ended
  std::uint64_t replicas_dropped = 0;  // taken out of force
  std::uint64_t replicas_rebuilt = 0;  // put in force when they had every page
  std::uint64_t rebuilds_failed = 0;   // given up: the server went, or refused
  std::uint64_t rebuilt_pages = 0;     // copied from one server to another
  std::uint64_t lost_pages = 0;        // live when the last replica in force of their slice went
  std::uint64_t unavailable_reads = 0;
  std::uint64_t corrupt_reads = 0;
  std::uint64_t stale_reads = 0;  // of locations that are not live
  std::uint64_t refused_writes = 0;
  std::uint64_t full_writes = 0;  // pages turned away because no slice had room
  std::uint64_t refused_releases = 0;
  std::uint64_t bad_entries = 0;  // found when the store was re-opened, and set aside
};

class RemoteStore : public PageStore {
 public:
  // What must be kept for a successor: "table", "slices" and "secret". The descriptors stay the store's.
  virtual std::vector<std::pair<std::string, int>> held_descriptors() const = 0;
  // Every live page and how many owners it has. Not a snapshot: call it before others use the store.
  virtual void for_each_live(const std::function<void(Location, std::uint32_t references)>& visit) const = 0;
  virtual RemoteFigures figures() const = 0;
  // Whom tokens name as the one who holds the slices.
  virtual protocol::HolderId holder() const = 0;

  // ---- Where slices come from a controller: RemoteStoreOptions::placed. One thread at a time. ----
  // Attaches at every server. No page goes there before confirm().
  virtual Result<> offer(const GrantedSlice& granted) = 0;
  virtual void confirm(protocol::SliceId slice) = 0;
  // Of one that is not confirmed: as if it had never been.
  virtual void withdraw(protocol::SliceId slice) = 0;
  // All of them, in no order.
  virtual std::vector<SliceReport> slices() const = 0;
  // From now on at most so many take pages; the emptiest others are to become empty.
  virtual void keep_slices(std::size_t most) = 0;
  // Empty ones, except `spare` of those that still take pages: their servers have them back, and the store knows
  // nothing of them any more.
  virtual std::vector<protocol::SliceId> give_back_empty(std::size_t spare) = 0;
  // A replica more, that is in force when it has every page. Again: nothing new. Errors: there is no such slice, or no
  // place for it.
  virtual Result<> add_replica(protocol::SliceId slice, const GrantedReplica& granted) = 0;
  // The server is of that boot now, and reached there: what another one had is gone as soon as it answers. Errors: that
  // is no address; then it is looked for where it was.
  virtual Result<> expect_boot(const std::string& server, const protocol::BootId& boot, const std::string& address) = 0;
  // A replica less, unless it is the last one in force. False: it is still there.
  virtual bool drop_replica(protocol::SliceId slice, const std::string& server) = 0;

  // The VM is over: every slice goes back to its servers, as far as they can be reached now, and with it every page.
  // Nothing may be under way; nothing can be read any more.
  virtual void give_back_all() = 0;
  // What waits for its time: hedges, discards, slices to lease or to give back. Bounded; never blocks.
  virtual void work() = 0;
};

struct RemoteHeld {
  UniqueFd table;
  UniqueFd slices;
};

// `secret` has not advanced yet, or is shared with another store of the same VM that has advanced it. The links belong
// to the store from now on, and end with it.
Result<std::unique_ptr<RemoteStore>> create_remote_store(std::vector<RemoteServer> servers, LeaseSource leases,
                                                         std::shared_ptr<VmSecret> secret,
                                                         const RemoteStoreOptions& options);
// Takes over what another process left. A damaged header, an unknown layout or tables that do not belong together are
// refused; an entry that makes no sense costs its own page only. Capacity and slice size are the predecessor's. Pages
// at servers that are not among `servers` are unavailable. The predecessor must be gone: its leases end.
Result<std::unique_ptr<RemoteStore>> open_remote_store(RemoteHeld held, std::vector<RemoteServer> servers,
                                                       LeaseSource leases, std::shared_ptr<VmSecret> secret,
                                                       const RemoteStoreOptions& options);

}  // namespace tidepool::pool
