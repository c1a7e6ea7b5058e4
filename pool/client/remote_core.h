// The remote store itself; its parts are in remote_store.cpp (making, finding, the thread), remote_slices.cpp (servers,
// and what becomes of replicas), remote_lease.cpp (slices and tokens for them), remote_fill.cpp (which replicas are
// made anew, and where), remote_copy.cpp (how they get their pages), remote_write.cpp, remote_read.cpp,
// remote_release.cpp and remote_figures.cpp.
//
// One lock guards everything that is not marked otherwise. It is never held while a page is sealed, opened or copied,
// nor while a link or a function of the caller's is called: what is to be called is collected in an Outbox and done by
// post(). (A steal copies one page under it.)
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "base/mapping.h"
#include "pool/client/call_gate.h"
#include "pool/client/placement.h"
#include "pool/client/remote_parts.h"
#include "pool/client/sealer_pool.h"
#include "pool/client/slice_table.h"
#include "pool/store/slot_table.h"

namespace tidepool::pool::remote {

class Core final : public RemoteStore {
 public:
  Core(SlotTable table, SliceTable slices, LeaseSource leases, std::shared_ptr<VmSecret> secret,
       const RemoteStoreOptions& options);
  ~Core() override;

  // Second part of construction.
  Result<> prepare(std::vector<RemoteServer> servers);
  // Sorts out what another process left. After prepare, before start.
  Result<> recover();
  void start();

  std::string kind() const override { return "remote"; }
  StoreUsage usage() const override;
  bool uses_host_dram() const override { return false; }
  void stage(std::span<WriteItem>) override {}
  void unstage(std::span<WriteItem> items) override;
  void submit_write(WriteBatch& batch) override;
  void submit_read(ReadBatch& batch) override;
  void cancel(WriteBatch& batch) override;
  void cancel(ReadBatch& batch) override;
  Result<> retain(Location location) override { return table_.retain(location); }
  void release(std::span<const Location> locations) override;
  int answers_descriptor() const override { return answers_.get(); }
  void take_answers() override;

  std::vector<std::pair<std::string, int>> held_descriptors() const override {
    return {{"table", table_.fd()}, {"slices", slice_table_.fd()}, {"secret", secret_->fd()}};
  }
  void for_each_live(const std::function<void(Location, std::uint32_t)>& visit) const override;
  RemoteFigures figures() const override;
  void give_back_all() override;
  protocol::HolderId holder() const override { return slice_table_.spec().holder; }
  Result<> offer(const GrantedSlice& granted) override;
  void confirm(protocol::SliceId slice) override;
  void withdraw(protocol::SliceId slice) override;
  std::vector<SliceReport> slices() const override;
  void keep_slices(std::size_t most) override;
  std::function<bool(Location)> leaving() const override;
  std::optional<Bytes> leased_room() const override;
  std::vector<protocol::SliceId> give_back_empty(std::size_t spare) override;
  Result<> add_replica(protocol::SliceId slice, const GrantedReplica& granted) override;
  Result<> expect_boot(const std::string& server, const protocol::BootId& boot, const std::string& address) override;
  bool drop_replica(protocol::SliceId slice, const std::string& server) override;
  void work() override;

 private:
  enum class Room : std::uint8_t { kFound, kWait, kFull, kUnavailable };

  // remote_store.cpp
  MonoTime now() const { return clock_->now(); }
  Result<> add_server(RemoteServer server);
  Result<> join_answers();
  Result<> join_answers(const Server& server);
  void listen(std::uint8_t number);
  Result<> ensure_codec(std::uint8_t kind, int level);
  void recover_slot(std::uint64_t slot, std::array<bool, StoredForm::kLastCodec + 1>& codecs);
  const Link* link_of(const Server& server) const;
  void refresh_latencies();
  // Lets the lock go and does what was collected under it.
  void post(std::unique_lock<std::mutex>& lock, Outbox& outbox);
  void wake();
  void run();

  // remote_slices.cpp
  void server_up(std::uint8_t number, bool same_boot);
  void server_down(std::uint8_t number, const std::string& why);
  void server_draining(std::uint8_t number);
  ReplicaMask in_state(const Slice& slice, ReplicaState state) const;
  ReplicaMask in_force(const Slice& slice) const { return in_state(slice, ReplicaState::kInForce); }
  ReplicaMask filling(const Slice& slice) const { return in_state(slice, ReplicaState::kFilling); }
  // Of those, who can be asked now, and who takes writes too. What was found at one time is done as of that time: a
  // lease ends between two looks at the clock.
  ReplicaMask answering(const Slice& slice) const;
  ReplicaMask writable(const Slice& slice, MonoTime at) const;
  // Who has the slot's page, as far as is known here; of a slice without a replica in force, who may have it.
  ReplicaMask holders(const Slice& slice, std::uint32_t slot) const;
  void attached(const AttachCall& call, const Attempt& attempt, AttachOutcome outcome, protocol::ErrorCode code);
  void attached_again(const AttachCall& call, AttachOutcome outcome, protocol::ErrorCode code, Outbox& outbox);
  void attach_again(std::uint8_t server, Outbox& outbox);
  // They are read no more. Their slices go back to their servers.
  void put_out(std::size_t index, ReplicaMask which, Outbox& outbox);
  void let_go(std::size_t index, unsigned replica, ReplicaState then, Outbox& outbox);
  // The server says that it has nothing of this slice, or is another one than it was.
  void refused(std::size_t index, unsigned replica, std::uint64_t use, protocol::ErrorCode code, Outbox& outbox);
  void give_back(std::size_t index, Outbox& outbox);
  void give_back_spare(Outbox& outbox);
  void see_domains(Slice& slice) const;
  std::uint32_t take_slot(Slice& slice);
  void free_slot(std::size_t index, std::uint32_t slot);

  // remote_lease.cpp
  bool may_lease(const Server& server, MonoTime at) const;
  std::vector<std::size_t> servers_for(std::size_t wanted, std::uint64_t without, std::span<const int> taken,
                                       MonoTime at);
  // A slice with a free slot, or why there is none now. Begins a lease when that helps.
  Room find_room(std::size_t& slice, MonoTime at, Outbox& outbox);
  std::size_t best_slice(bool whole_only, bool all_reachable, MonoTime at) const;
  bool begin_lease(std::size_t wanted, Outbox& outbox);
  void give_up_late_lease(Outbox& outbox);
  bool ask_servers(std::size_t index, std::size_t wanted, Outbox& outbox);
  void lease_answered(std::size_t index, const AttachCall& call, AttachOutcome outcome, protocol::ErrorCode code,
                      Outbox& outbox);
  protocol::Claims claims_of(const Slice& slice, std::uint64_t epoch, std::uint32_t rights) const;
  // Above every epoch of this VM before.
  std::uint64_t next_epoch();
  void attach(const AttachCall& call);
  void leased(const AttachCall& call, const Result<Lease>& lease);
  void renew_leases(std::size_t index, Outbox& outbox);
  static bool expired(const Replica& replica, MonoTime at) {
    return replica.expires != MonoTime{} && at >= replica.expires;
  }
  void expire(std::size_t index, unsigned replica, std::uint64_t use);

  void make_ready(std::size_t index);

  // remote_placed.cpp
  bool placed() const { return options_.placed != nullptr; }
  Result<std::uint8_t> server_for(const GrantedReplica& granted);
  std::size_t index_of(protocol::SliceId slice) const;
  Room find_granted(std::size_t& slice, MonoTime at);
  void offer_answered(const AttachCall& call, AttachOutcome outcome, protocol::ErrorCode code);

  // remote_fill.cpp
  bool leaving(const Server& server, MonoTime at) const;
  ReplicaMask lasting(const Slice& slice, ReplicaMask among) const;
  ReplicaMask staying(const Slice& slice, ReplicaMask among, MonoTime at) const;
  void look_after_slices(Outbox& outbox);
  void look_after(std::size_t index, Outbox& outbox);
  void begin_fill(std::size_t index, Outbox& outbox);
  bool fill(std::size_t index, std::uint8_t server, std::uint64_t epoch, std::shared_ptr<const Lease> lease,
            Outbox& outbox);
  void fill_attached(const AttachCall& call, AttachOutcome outcome, protocol::ErrorCode code, Outbox& outbox);
  // A replica that was in force has missed a page.
  void begin_repair(std::size_t index, unsigned replica);
  void note_filling(std::size_t index, unsigned replica);
  void abandon(std::size_t index, unsigned replica, Outbox& outbox);
  void put_in_force_what_is_full();
  void owe_all(std::size_t index, Replica& replica) const;
  void owe(Replica& replica, std::uint32_t slot) const;
  void settle_debt(Replica& replica, std::uint32_t slot);

  // remote_copy.cpp
  // Of what was read, what is right goes on to where it is to be. Without the lock.
  void check_copies();
  void tend_copies(Outbox& outbox);
  bool begin_copy(CopyFrame& frame, std::size_t index, unsigned to, Outbox& outbox);
  void copied(CopyFrame& frame, LinkOutcome outcome);
  void end_copy(CopyFrame& frame, Outbox& outbox);
  bool still(const CopyFrame& frame) const;

  // remote_write.cpp
  void pump_writes(Outbox& outbox);
  bool fill_frame(WriteFrame& frame, MonoTime at, Outbox& outbox);
  void fail_front(PageStatus status, Outbox& outbox);
  void answer(WriteState* state, WriteItem& item, PageStatus status, Outbox& outbox);
  void send_frame(WriteFrame* frame);
  void make_ready(WriteFrame::Item& item, protocol::SliceId slice, std::byte* to);
  void written(WriteFrame& frame, unsigned replica, LinkOutcome outcome);
  void end_frame(WriteFrame& frame, Outbox& outbox);
  void recycle(WriteFrame& frame);

  // remote_read.cpp
  bool begin_read(ReadItem& item, ReadJob*& job, ReadState*& state, ReadBatch& batch, Outbox& outbox);
  bool steal(ReadItem& item);
  void forget_former(ReadJob& job) const;
  // Asks for what nobody is asked for now, and settles what nobody can be asked for.
  void advance(ReadJob& job, Outbox& outbox);
  unsigned choose(const Slice& slice, ReplicaMask among) const;
  bool ask(ReadJob& job, unsigned replica, bool hedge, Outbox& outbox);
  void settle(ReadJob& job, ReadJob::Item& item, PageStatus status);
  void finish_if_done(ReadJob& job, Outbox& outbox);
  void answered(ReadRequest& request, LinkOutcome outcome);
  bool opens(ReadRequest& request, std::size_t i, const ReadJob::Item& item);
  bool hand_out(ReadRequest& request, std::size_t i, const ReadJob::Item& item);
  void recycle(ReadRequest& request, Outbox& outbox);
  void serve_waiting(Outbox& outbox);
  void hedge_late(Outbox& outbox);
  Nanoseconds patience(const ReadRequest& late, const Slice& slice, unsigned other) const;
  void unlink(ReadJob& job);

  // remote_release.cpp
  void send_discards(Outbox& outbox);
  void discarded(DiscardFrame& frame);

  // remote_figures.cpp
  Bytes process_memory() const;

  SlotTable table_;
  SliceTable slice_table_;
  const LeaseSource leases_;
  const std::shared_ptr<VmSecret> secret_;
  const RemoteStoreOptions options_;
  const SystemClock system_clock_{};
  const Clock* const clock_;
  std::unique_ptr<SealerPool> sealers_;
  std::array<std::unique_ptr<Codec>, StoredForm::kLastCodec + 1> codecs_;  // by kind
  const std::uint64_t slots_per_slice_;
  UniqueFd answers_;
  std::array<Link*, kMostServers> answering_{};  // by what `answers_` says of them

  mutable std::mutex mutex_;
  // By number in the slice table. Names and links do not change once they are there.
  std::vector<Server> servers_;
  std::vector<std::string> domains_;
  std::vector<Slice> slices_;
  std::size_t current_ = 0;  // where the last page went
  std::size_t leasing_;      // the slice being leased; slices_.size(): none
  MonoTime leasing_until_{};
  std::mt19937_64 random_;
  std::uint64_t uses_ = 0;  // of places for replicas
  std::uint64_t leases_made_ = 0;
  MonoTime look_at_{};          // after slices
  bool enough_others_ = false;  // servers for all replicas, without those of last resort
  MonoTime attach_again_at_{};
  MonoTime latencies_at_{};  // work()'s own
  bool maybe_empty_ = true;  // a slice may have become so

  Mapping write_buffers_;
  std::vector<std::unique_ptr<WriteFrame>> write_frames_;
  std::vector<WriteFrame*> free_frames_;
  std::deque<WriteState*> write_queue_;
  std::vector<WriteState*> writes_;  // all that are here
  std::vector<std::unique_ptr<WriteState>> write_states_;
  std::vector<WriteState*> free_write_states_;

  Mapping read_buffers_;
  std::vector<std::unique_ptr<ReadRequest>> read_requests_;
  std::vector<ReadRequest*> free_requests_;
  std::vector<std::unique_ptr<ReadJob>> read_jobs_;
  std::vector<ReadJob*> free_jobs_;
  std::vector<std::unique_ptr<ReadState>> read_states_;
  std::vector<ReadState*> free_read_states_;
  Chain<ReadJob> waiting_demand_;
  Chain<ReadJob> waiting_others_;
  ReadJob* newest_job_ = nullptr;

  std::vector<Discard> discards_;
  std::vector<std::unique_ptr<DiscardFrame>> discard_frames_;
  std::vector<DiscardFrame*> free_discard_frames_;

  std::vector<std::pair<std::size_t, unsigned>> filling_;  // slice and place; some may be so no more
  std::size_t fills_ = 0;                                  // of them, at servers that did not have the slice before
  bool maybe_full_ = false;                                // a filling replica may have become so
  bool copying_ = false;                                   // there is something to copy now
  std::uint64_t copy_turn_ = 0;
  std::array<CopyFrame, kCopyFrames> copy_frames_;
  Mapping copy_buffers_;  // while there is something to copy

  RemoteFigures counted_;  // the part that only grows
  std::uint64_t pages_ = 0;
  std::uint64_t reads_ = 0;
  std::uint64_t queued_pages_ = 0;
  std::uint64_t under_way_pages_ = 0;
  Bytes touched_{};       // of the buffers
  unsigned posting_ = 0;  // threads in post()
  bool closing_ = false;

  std::condition_variable wake_;
  std::condition_variable posted_;
  bool wanted_ = false;
  bool asleep_ = false;
  bool watching_ = false;  // asleep, but for a moment only
  MonoTime last_read_{};
  std::thread thread_;
  // For tokens that come later than this store lasts.
  std::shared_ptr<CallGate> gate_ = std::make_shared<CallGate>();
};

}  // namespace tidepool::pool::remote
