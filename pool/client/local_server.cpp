#include "pool/client/local_server.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "pool/client/recent_latencies.h"

namespace tidepool::pool {
namespace {

using protocol::ErrorCode;

constexpr std::uint32_t kMostSlots = (1u << 30) / protocol::kSlotBytes;  // of a slice of 1 GiB
constexpr auto kEndPoll = std::chrono::milliseconds(1);

// What a slot holds.
struct Mark {
  std::uint64_t version = 0;  // of the last change; a discard is one
  Location location = kNoLocation;
  protocol::Tag tag{};
  std::uint16_t length = 0;

  bool stored() const { return location != kNoLocation; }
};

struct LocalSlice {
  std::vector<Mark> marks;
  bool ended = false;
};

ErrorCode code_of(PageStatus status) {
  switch (status) {
    case PageStatus::kOk:
      return ErrorCode::kOk;
    case PageStatus::kFull:
    case PageStatus::kIncompressible:
      return ErrorCode::kFull;
    case PageStatus::kUnavailable:
    case PageStatus::kCancelled:
    case PageStatus::kPending:
      return ErrorCode::kOverloaded;
    case PageStatus::kCorrupt:
      return ErrorCode::kEmpty;
  }
  return ErrorCode::kEmpty;
}

}  // namespace

class LocalLink final : public Link {
 public:
  explicit LocalLink(std::shared_ptr<LocalServer> server) : server_(std::move(server)) {}
  ~LocalLink() override;

  const std::string& server() const override { return server_->name(); }
  void listen(LinkEvents events) override { events.up(true); }
  void attach(const Lease& lease, std::function<void(AttachOutcome, ErrorCode)> done) override;
  void release(protocol::SliceId slice) override;
  void submit(LinkRequest& request) override;
  // What is begun goes on.
  bool cancel(LinkRequest&) override { return false; }
  int answers_descriptor() const override { return server_->store().answers_descriptor(); }
  void take_answers() override { server_->store().take_answers(); }
  LinkFigures figures() const override;

 private:
  // One request, as far as the store has to do with it.
  struct Job {
    LinkRequest* request = nullptr;
    std::shared_ptr<LocalSlice> slice;
    std::vector<std::size_t> which;  // items of the request, one for each of these:
    std::vector<WriteItem> writes;
    std::vector<ReadItem> reads;
    WriteBatch write_batch;
    ReadBatch read_batch;
  };

  Job* take_job();  // with the lock
  void begun(Job& job, LinkRequest& request, std::shared_ptr<LocalSlice> slice);
  void begin_write(LinkRequest& request, std::unique_lock<std::mutex>& lock, std::shared_ptr<LocalSlice> slice);
  void begin_read(LinkRequest& request, std::unique_lock<std::mutex>& lock, std::shared_ptr<LocalSlice> slice);
  void discard(LinkRequest& request, std::unique_lock<std::mutex>& lock, LocalSlice& slice);
  void written(Job& job);
  void read(Job& job);
  void end(Job& job);
  void give_back(LocalSlice& slice, std::vector<Location>& freed);

  const std::shared_ptr<LocalServer> server_;
  mutable std::mutex mutex_;  // not held while the store is called
  std::unordered_map<std::uint64_t, std::shared_ptr<LocalSlice>> slices_;
  std::vector<std::unique_ptr<Job>> jobs_;
  std::vector<Job*> free_jobs_;
  RecentLatencies demand_reads_;
  std::atomic<std::uint64_t> requests_{0};
  std::atomic<std::uint64_t> refused_{0};
  std::atomic<std::uint64_t> pages_under_way_{0};
  std::atomic<std::uint64_t> bytes_sent_{0};
  std::atomic<std::uint64_t> bytes_received_{0};
  std::atomic<std::uint64_t> under_way_{0};
};

LocalLink::~LocalLink() {
  // The store has the requests' memory until then.
  while (under_way_.load() != 0) {
    take_answers();
    std::this_thread::sleep_for(kEndPoll);
  }
  std::vector<Location> freed;
  for (const auto& [id, slice] : slices_) give_back(*slice, freed);
  server_->store().release(freed);
}

void LocalLink::give_back(LocalSlice& slice, std::vector<Location>& freed) {
  slice.ended = true;
  for (const Mark& mark : slice.marks)
    if (mark.stored()) freed.push_back(mark.location);
  server_->table_bytes_ -= slice.marks.size() * sizeof(Mark);
  slice.marks.clear();
}

void LocalLink::attach(const Lease& lease, std::function<void(AttachOutcome, ErrorCode)> done) {
  const protocol::Claims& claims = lease.claims;
  const auto refuse = [&](ErrorCode why) { done(AttachOutcome::kRefused, why); };
  if (claims.slots == 0 || claims.slots > kMostSlots) return refuse(ErrorCode::kMalformed);
  {
    std::unique_lock lock(mutex_);
    const auto found = slices_.find(static_cast<std::uint64_t>(claims.slice));
    if (found != slices_.end()) {
      const bool same = found->second->marks.size() == claims.slots;
      lock.unlock();
      return same ? done(AttachOutcome::kAttached, ErrorCode::kOk) : refuse(ErrorCode::kMalformed);
    }
    if ((claims.rights & protocol::kRightCreate) == 0) {
      lock.unlock();
      return refuse(ErrorCode::kNoSuchSlice);
    }
    auto slice = std::make_shared<LocalSlice>();
    slice->marks.resize(claims.slots);
    server_->table_bytes_ += claims.slots * sizeof(Mark);
    slices_.emplace(static_cast<std::uint64_t>(claims.slice), std::move(slice));
  }
  done(AttachOutcome::kCreated, ErrorCode::kOk);
}

void LocalLink::release(protocol::SliceId id) {
  std::vector<Location> freed;
  {
    const std::lock_guard lock(mutex_);
    const auto found = slices_.find(static_cast<std::uint64_t>(id));
    if (found == slices_.end()) return;
    give_back(*found->second, freed);
    slices_.erase(found);
  }
  server_->store().release(freed);
}

void LocalLink::submit(LinkRequest& request) {
  request.sent_at = SystemClock().now();
  ++requests_;
  std::unique_lock lock(mutex_);
  const auto found = slices_.find(static_cast<std::uint64_t>(request.slice));
  if (found == slices_.end() || request.items.empty() || request.items.size() > protocol::kMaxPagesPerFrame) {
    request.refusal = found == slices_.end() ? ErrorCode::kNoSuchSlice : ErrorCode::kMalformed;
    ++refused_;
    lock.unlock();
    return request.done(request, LinkOutcome::kRefused);
  }
  const std::shared_ptr<LocalSlice> slice = found->second;
  switch (request.op) {
    case LinkOp::kWrite:
      return begin_write(request, lock, slice);
    case LinkOp::kRead:
      return begin_read(request, lock, slice);
    case LinkOp::kDiscard:
      return discard(request, lock, *slice);
  }
}

LocalLink::Job* LocalLink::take_job() {
  if (free_jobs_.empty()) {
    free_jobs_.push_back(jobs_.emplace_back(std::make_unique<Job>()).get());
    Job* const job = free_jobs_.back();
    job->write_batch.done = [this, job](WriteBatch&) { written(*job); };
    job->read_batch.done = [this, job](ReadBatch&) { read(*job); };
  }
  Job* const job = free_jobs_.back();
  free_jobs_.pop_back();
  job->which.clear();
  job->writes.clear();
  job->reads.clear();
  return job;
}

// With the lock; the job says which of its items the store is asked for.
void LocalLink::begun(Job& job, LinkRequest& request, std::shared_ptr<LocalSlice> slice) {
  job.request = &request;
  job.slice = std::move(slice);
  ++under_way_;
  pages_under_way_ += job.which.size();
}

void LocalLink::begin_write(LinkRequest& request, std::unique_lock<std::mutex>& lock,
                            std::shared_ptr<LocalSlice> slice) {
  Job& job = *take_job();
  for (std::size_t i = 0; i < request.items.size(); ++i) {
    LinkItem& item = request.items[i];
    if (item.slot >= slice->marks.size()) {
      item.status = ErrorCode::kOutOfRange;
    } else if (item.length > protocol::kSlotBytes) {
      item.status = ErrorCode::kMalformed;
    } else if (item.version <= slice->marks[item.slot].version) {
      item.status = ErrorCode::kStaleVersion;
    } else {
      // Whole pages are stored: nothing else of this process's memory goes with them.
      std::memset(item.payload + item.length, 0, protocol::kSlotBytes - item.length);
      job.which.push_back(i);
      job.writes.push_back({.buffer = item.payload});
    }
  }
  begun(job, request, std::move(slice));
  lock.unlock();
  if (job.writes.empty()) return end(job);
  job.write_batch.items = job.writes;
  job.write_batch.priority = request.priority;
  server_->store().submit_write(job.write_batch);
}

void LocalLink::written(Job& job) {
  std::vector<Location> freed;
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < job.writes.size(); ++i) {
      const WriteItem& stored = job.writes[i];
      LinkItem& item = job.request->items[job.which[i]];
      item.status = code_of(stored.status);
      if (stored.status != PageStatus::kOk) continue;
      if (job.slice->ended) item.status = ErrorCode::kNoSuchSlice;
      // Another one may have been quicker.
      else if (item.version <= job.slice->marks[item.slot].version)
        item.status = ErrorCode::kStaleVersion;
      if (item.status != ErrorCode::kOk) {
        freed.push_back(stored.location);
        continue;
      }
      Mark& mark = job.slice->marks[item.slot];
      if (mark.stored()) freed.push_back(mark.location);
      mark = {item.version, stored.location, item.tag, item.length};
      bytes_sent_ += item.length;
    }
  }
  server_->store().release(freed);
  end(job);
}

void LocalLink::begin_read(LinkRequest& request, std::unique_lock<std::mutex>& lock,
                           std::shared_ptr<LocalSlice> slice) {
  Job& job = *take_job();
  for (std::size_t i = 0; i < request.items.size(); ++i) {
    LinkItem& item = request.items[i];
    item.length = 0;
    if (item.slot >= slice->marks.size()) {
      item.status = ErrorCode::kOutOfRange;
      continue;
    }
    const Mark& mark = slice->marks[item.slot];
    item.version = mark.version;
    item.status = mark.stored() ? ErrorCode::kOk : ErrorCode::kEmpty;
    if (!mark.stored()) continue;
    item.length = mark.length;
    item.tag = mark.tag;
    job.which.push_back(i);
    job.reads.push_back({.location = mark.location, .buffer = item.payload});
  }
  begun(job, request, std::move(slice));
  lock.unlock();
  if (job.reads.empty()) return end(job);
  job.read_batch.items = job.reads;
  job.read_batch.priority = request.priority;
  server_->store().submit_read(job.read_batch);
}

// A page that was replaced meanwhile is not there any more: the store says so.
void LocalLink::read(Job& job) {
  for (std::size_t i = 0; i < job.reads.size(); ++i) {
    const ReadItem& found = job.reads[i];
    LinkItem& item = job.request->items[job.which[i]];
    item.status = code_of(found.status);
    if (item.status != ErrorCode::kOk) {
      item.length = 0;
      continue;
    }
    if (found.page != item.payload) std::memcpy(item.payload, found.page, item.length);
    bytes_received_ += item.length;
  }
  if (job.request->priority == Priority::kDemand) demand_reads_.record(SystemClock().now() - job.request->sent_at);
  end(job);
}

void LocalLink::discard(LinkRequest& request, std::unique_lock<std::mutex>& lock, LocalSlice& slice) {
  std::vector<Location> freed;
  for (LinkItem& item : request.items) {
    item.status = ErrorCode::kOk;
    if (item.slot >= slice.marks.size()) {
      item.status = ErrorCode::kOutOfRange;
    } else if (Mark& mark = slice.marks[item.slot]; item.version <= mark.version) {
      item.status = ErrorCode::kStaleVersion;
    } else {
      if (mark.stored()) freed.push_back(mark.location);
      mark = {.version = item.version};  // a late write must not bring the content back
    }
  }
  lock.unlock();
  server_->store().release(freed);
  request.done(request, LinkOutcome::kAnswered);
}

void LocalLink::end(Job& job) {
  LinkRequest& request = *job.request;
  pages_under_way_ -= job.which.size();
  {
    const std::lock_guard lock(mutex_);
    job.request = nullptr;
    job.slice.reset();
    free_jobs_.push_back(&job);
  }
  request.done(request, LinkOutcome::kAnswered);
  --under_way_;
}

LinkFigures LocalLink::figures() const {
  LinkFigures figures;
  figures.state = LinkState::kUp;
  const RecentLatencies::Usual usual = demand_reads_.usual();
  figures.typical_read = usual.median;
  figures.slow_read = usual.slow;
  figures.requests = requests_.load();
  figures.refused = refused_.load();
  figures.pages_under_way = pages_under_way_.load();
  figures.bytes_sent = bytes_sent_.load();
  figures.bytes_received = bytes_received_.load();
  return figures;
}

std::unique_ptr<Link> make_local_link(std::shared_ptr<LocalServer> server) {
  return std::make_unique<LocalLink>(std::move(server));
}

}  // namespace tidepool::pool
