// The way home: the replica that promises to be fastest is asked, another one when it is late, away or wrong, and only
// what opens is handed out.
#include <algorithm>
#include <cstring>

#include "pool/client/remote_core.h"

namespace tidepool::pool::remote {
namespace {

using protocol::ErrorCode;

constexpr std::uint64_t kExploreEvery = 64;  // reads, of which one goes to a server that was not the best
constexpr std::uint32_t kNearlyBusy = 4;

}  // namespace

void Core::submit_read(ReadBatch& batch) {
  std::unique_lock lock(mutex_);
  Outbox outbox;
  ReadJob* job = nullptr;
  ReadState* state = nullptr;
  for (ReadItem& item : batch.items) {
    item.page = nullptr;
    item.status = PageStatus::kPending;
    begin_read(item, job, state, batch, outbox);
  }
  if (job != nullptr) advance(*job, outbox);
  if (state == nullptr) {
    lock.unlock();
    if (batch.done) batch.done(batch);
    return;
  }
  last_read_ = now();
  // Somebody is to see when it is late.
  if (asleep_ && !watching_ && !wanted_) wake();
  // One more than there are items: see submit_write.
  if (--state->remaining == 0) outbox.read.push(state);
  post(lock, outbox);
}

// Answers the item at once, or puts it into a job; one that is full, or of another slice, goes its way.
bool Core::begin_read(ReadItem& item, ReadJob*& job, ReadState*& state, ReadBatch& batch, Outbox& outbox) {
  SlotWord live;
  if (item.buffer == nullptr) {
    item.status = PageStatus::kUnavailable;
    return false;
  }
  if (!table_.find_live(item.location, live)) {
    if (!steal(item)) {
      ++counted_.stale_reads;
      item.status = PageStatus::kCorrupt;
    }
    return false;
  }
  const std::uint64_t number = slot_of(item.location);
  const std::size_t slice = number / slots_per_slice_;
  if (job != nullptr && (job->slice != slice || job->count == kFramePages)) {
    advance(*job, outbox);
    job = nullptr;
  }
  if (state == nullptr) {
    if (free_read_states_.empty())
      free_read_states_.push_back(read_states_.emplace_back(std::make_unique<ReadState>()).get());
    state = free_read_states_.back();
    free_read_states_.pop_back();
    *state = {.batch = &batch, .remaining = 1};
  }
  if (job == nullptr) {
    if (free_jobs_.empty()) free_jobs_.push_back(read_jobs_.emplace_back(std::make_unique<ReadJob>()).get());
    job = free_jobs_.back();
    free_jobs_.pop_back();
    job->count = job->open = 0;
    job->busy = 0;
    job->waiting = false;
    job->state = state;
    job->slice = slice;
    job->priority = batch.priority;
    job->under_way = {};
    for (unsigned i = 0; i < kReplicaPlaces; ++i) job->uses[i] = slices_[slice].replicas[i].use;
    job->older = newest_job_;
    job->newer = nullptr;
    if (newest_job_ != nullptr) newest_job_->newer = job;
    newest_job_ = job;
  }
  job->items[job->count++] = {.item = &item,
                              .slot = static_cast<std::uint32_t>(number % slots_per_slice_),
                              .version = table_.second(number).load(std::memory_order_acquire),
                              .form = StoredForm::unpack(live.crc)};
  ++job->open;
  ++state->remaining;
  return true;
}

// The page is being written: its writer's buffer has it.
bool Core::steal(ReadItem& item) {
  if (!well_formed(item.location) || slot_of(item.location) >= table_.slots()) return false;
  const SlotWord word = table_.load(slot_of(item.location));
  if (word.state != SlotState::kStaged || word.generation != generation_of(item.location)) return false;
  const std::uint64_t where = table_.second(slot_of(item.location)).load(std::memory_order_acquire);
  if (where >= write_frames_.size() * kFramePages) return false;
  const WriteFrame::Item& staged = write_frames_[where / kFramePages]->items[where % kFramePages];
  std::memcpy(item.buffer, staged.item->buffer, kPageSize);
  item.page = item.buffer;
  item.status = PageStatus::kOk;
  ++counted_.steals;
  return true;
}

// The least expected wait: what it takes typically, times what is in front.
unsigned Core::choose(const Slice& slice, ReplicaMask among) const {
  const bool explore = reads_ % kExploreEvery == 0;
  unsigned best = first_of(among);
  std::int64_t best_wait = -1;
  for (unsigned i = 0; i < kReplicaPlaces; ++i) {
    if ((among & bit(i)) == 0) continue;
    const Server& server = servers_[slice.replicas[i].entry.server];
    // One of which nothing is known is worth a try.
    const std::int64_t wait = server.typical_read.count() * (kNearlyBusy + server.reads_under_way);
    if (best_wait >= 0 && (explore ? wait <= best_wait : wait >= best_wait)) continue;
    best = i;
    best_wait = wait;
  }
  return best;
}

// What is known of a place's former replica says nothing of the one that is there now.
void Core::forget_former(ReadJob& job) const {
  const Slice& slice = slices_[job.slice];
  for (unsigned i = 0; i < kReplicaPlaces; ++i) {
    if (job.uses[i] == slice.replicas[i].use) continue;
    job.uses[i] = slice.replicas[i].use;
    for (std::size_t k = 0; k < job.count; ++k) {
      job.items[k].wrong &= static_cast<ReplicaMask>(~bit(i));
      job.items[k].mute &= static_cast<ReplicaMask>(~bit(i));
    }
  }
}

void Core::advance(ReadJob& job, Outbox& outbox) {
  const Slice& slice = slices_[job.slice];
  forget_former(job);
  while (!job.waiting && job.open != 0) {
    const ReplicaMask there = answering(slice);
    ReplicaMask busy = 0;  // their answer to what they were asked comes first
    for (unsigned i = 0; i < kReplicaPlaces; ++i)
      if (job.under_way[i] != nullptr) busy |= bit(i);
    ReplicaMask candidates = 0;
    for (std::size_t i = 0; i < job.count && candidates == 0; ++i) {
      ReadJob::Item& item = job.items[i];
      if (item.settled || item.asked != 0) continue;
      const ReplicaMask have = holders(slice, item.slot);
      const ReplicaMask able = have & there & static_cast<ReplicaMask>(~(item.wrong | item.mute));
      candidates = able & static_cast<ReplicaMask>(~busy);
      // Everybody who should have it gave something else; or somebody who may have it does not answer.
      if (able == 0) settle(job, item, (have & ~item.wrong) == 0 ? PageStatus::kCorrupt : PageStatus::kUnavailable);
    }
    if (candidates == 0) break;
    if ((candidates & in_force(slice)) != 0) candidates &= in_force(slice);
    if (!ask(job, choose(slice, candidates), false, outbox)) {
      job.waiting = true;
      (job.priority == Priority::kDemand ? waiting_demand_ : waiting_others_).push(&job);
    }
  }
  finish_if_done(job, outbox);
}

// False when there is no request free.
bool Core::ask(ReadJob& job, unsigned replica, bool hedge, Outbox& outbox) {
  const std::size_t reserve = job.priority == Priority::kDemand && !hedge ? 0 : read_requests_.size() / 4;
  if (free_requests_.size() <= reserve) return false;
  ReadRequest& request = *free_requests_.back();
  const Slice& slice = slices_[job.slice];
  std::size_t count = 0;
  for (std::size_t i = 0; i < job.count; ++i) {
    ReadJob::Item& item = job.items[i];
    if (item.settled || ((item.asked | item.wrong | item.mute) & bit(replica)) != 0) continue;
    if (!hedge && item.asked != 0) continue;
    if ((holders(slice, item.slot) & bit(replica)) == 0) continue;
    item.asked |= bit(replica);
    request.of[count] = static_cast<std::uint8_t>(i);
    request.items[count] = {.slot = item.slot, .payload = request.buffer + count * kPageSize};
    ++count;
  }
  if (count == 0) return true;
  free_requests_.pop_back();
  if (count > request.touched) {
    touched_ += Bytes{(count - request.touched) * kPageSize};
    request.touched = count;
  }
  request.job = &job;
  request.replica = replica;
  request.use = slice.replicas[replica].use;
  request.server = slice.replicas[replica].entry.server;
  request.hedge = hedge;
  request.request.slice = slice.id;
  request.request.items = std::span(request.items).first(count);
  request.request.priority = job.priority;
  request.request.refusal = ErrorCode::kOk;
  job.under_way[replica] = &request;
  job.asked_at = now();
  ++servers_[request.server].reads_under_way;
  ++reads_;
  if (hedge) {
    ++servers_[request.server].hedges;
    ++counted_.hedges;
  }
  outbox.reads.push(&request);
  return true;
}

void Core::settle(ReadJob& job, ReadJob::Item& item, PageStatus status) {
  item.settled = true;
  item.item->status = status;
  if (status == PageStatus::kCorrupt) ++counted_.corrupt_reads;
  if (status == PageStatus::kUnavailable) ++counted_.unavailable_reads;
  --job.open;
}

void Core::unlink(ReadJob& job) {
  (job.newer != nullptr ? job.newer->older : newest_job_) = job.older;
  if (job.older != nullptr) job.older->newer = job.newer;
}

void Core::finish_if_done(ReadJob& job, Outbox& outbox) {
  if (job.open != 0 || job.busy != 0 || job.waiting) return;
  // Whoever is still asked writes into room of its own, and is not waited for.
  for (ReadRequest* request : job.under_way)
    if (request != nullptr) request->job = nullptr;
  unlink(job);
  ReadState* state = job.state;
  state->remaining -= job.count;
  free_jobs_.push_back(&job);
  if (state->remaining == 0) outbox.read.push(state);
}

// Without the lock; in place, in the request's own room.
bool Core::opens(ReadRequest& request, std::size_t i, const ReadJob::Item& item) {
  const LinkItem& answer = request.items[i];
  std::byte* bytes = request.buffer + i * kPageSize;
  return answer.status == ErrorCode::kOk && answer.slot == item.slot && answer.version == item.version &&
         answer.length == item.form.length &&
         sealers_->open({request.request.slice, item.slot, item.version}, std::span(bytes, item.form.length),
                        answer.tag, bytes);
}

// Without the lock; the caller's buffer is this request's alone.
bool Core::hand_out(ReadRequest& request, std::size_t i, const ReadJob::Item& item) {
  const std::byte* bytes = request.buffer + i * kPageSize;
  if (item.form.codec == 0) {
    std::memcpy(item.item->buffer, bytes, kPageSize);
    return true;
  }
  return item.form.codec < codecs_.size() && codecs_[item.form.codec] != nullptr &&
         codecs_[item.form.codec]->decompress(std::span(bytes, item.form.length), item.item->buffer);
}

void Core::answered(ReadRequest& request, LinkOutcome outcome) {
  std::unique_lock lock(mutex_);
  Outbox outbox;
  --servers_[request.server].reads_under_way;
  if (outcome == LinkOutcome::kRefused && request.job != nullptr)
    refused(request.job->slice, request.replica, request.use, request.request.refusal, outbox);
  ReadJob* job = request.job;
  if (job == nullptr) {
    recycle(request, outbox);
    return post(lock, outbox);
  }
  ++job->busy;
  job->under_way[request.replica] = nullptr;
  const std::size_t count = request.request.items.size();
  std::array<bool, kFramePages> right{};
  if (outcome == LinkOutcome::kAnswered) {
    lock.unlock();
    for (std::size_t i = 0; i < count; ++i) right[i] = opens(request, i, job->items[request.of[i]]);
    lock.lock();
  }
  bool any_mine = false;
  const bool same = request.use == job->uses[request.replica];
  for (std::size_t i = 0; i < count; ++i) {
    ReadJob::Item& item = job->items[request.of[i]];
    item.asked &= static_cast<ReplicaMask>(~bit(request.replica));
    request.mine[i] = right[i] && !item.settled;
    if (request.mine[i]) {
      item.settled = any_mine = true;
      if (request.hedge) ++counted_.hedges_won;
    } else if (!same) {
      // It was another replica's answer.
    } else if (outcome != LinkOutcome::kAnswered || request.items[i].status == ErrorCode::kOverloaded) {
      item.mute |= bit(request.replica);
    } else if (!right[i]) {
      item.wrong |= bit(request.replica);
      // A page that was released meanwhile is nobody's any more, and nobody's fault.
      SlotWord live;
      if (table_.find_live(item.item->location, live)) ++servers_[request.server].wrong_answers;
    }
  }
  if (any_mine) {
    std::array<bool, kFramePages> handed{};
    lock.unlock();
    for (std::size_t i = 0; i < count; ++i)
      handed[i] = request.mine[i] && hand_out(request, i, job->items[request.of[i]]);
    lock.lock();
    for (std::size_t i = 0; i < count; ++i) {
      if (!request.mine[i]) continue;
      ReadJob::Item& item = job->items[request.of[i]];
      item.item->page = handed[i] ? item.item->buffer : nullptr;
      settle(*job, item, handed[i] ? PageStatus::kOk : PageStatus::kCorrupt);
    }
  }
  --job->busy;
  recycle(request, outbox);
  advance(*job, outbox);
  post(lock, outbox);
}

void Core::recycle(ReadRequest& request, Outbox& outbox) {
  request.job = nullptr;
  free_requests_.push_back(&request);
  if (!waiting_demand_.empty() || !waiting_others_.empty()) serve_waiting(outbox);
}

void Core::serve_waiting(Outbox& outbox) {
  for (Chain<ReadJob>* chain : {&waiting_demand_, &waiting_others_}) {
    const std::size_t reserve = chain == &waiting_demand_ ? 0 : read_requests_.size() / 4;
    // Bounded: who finds no request is in front again, or has been served.
    while (!chain->empty() && free_requests_.size() > reserve) {
      ReadJob* job = chain->pop();
      job->waiting = false;
      advance(*job, outbox);
    }
  }
}

// A demand read that is later than nearly all others is asked for at another replica too.
void Core::hedge_late(Outbox& outbox) {
  const MonoTime at = now();
  for (ReadJob* job = newest_job_; job != nullptr;) {
    ReadJob* older = job->older;
    const auto asked = std::ranges::count_if(job->under_way, [](const ReadRequest* each) { return each != nullptr; });
    if (job->priority == Priority::kDemand && job->open != 0 && !job->waiting && asked == 1) {
      const ReadRequest& late =
          **std::ranges::find_if(job->under_way, [](const ReadRequest* each) { return each != nullptr; });
      const Slice& slice = slices_[job->slice];
      ReplicaMask others = in_force(slice) & answering(slice) & static_cast<ReplicaMask>(~bit(late.replica));
      for (std::size_t i = 0; i < job->count; ++i) {
        const ReadJob::Item& item = job->items[i];
        if (!item.settled) others &= static_cast<ReplicaMask>(~(item.wrong | item.mute));
      }
      if (others != 0) {
        const unsigned other = choose(slice, others);
        if (at - job->asked_at > patience(late, slice, other)) ask(*job, other, true, outbox);
      }
    }
    job = older;
  }
}

// Nobody waits longer for a slow server than the other one would take, what waits there already considered.
Nanoseconds Core::patience(const ReadRequest& late, const Slice& slice, unsigned other) const {
  Nanoseconds slow = servers_[late.server].slow_read;
  if (slow == Nanoseconds{0}) slow = options_.hedge_unknown;
  const Server& elsewhere = servers_[slice.replicas[other].entry.server];
  if (elsewhere.slow_read != Nanoseconds{0})
    slow = std::min(slow, elsewhere.slow_read * (kNearlyBusy + elsewhere.reads_under_way) / kNearlyBusy);
  return std::max(slow, options_.hedge_least);
}

void Core::cancel(ReadBatch& batch) {
  std::unique_lock lock(mutex_);
  Outbox outbox;
  for (ReadJob* job = newest_job_; job != nullptr;) {
    ReadJob* older = job->older;
    if (job->state->batch == &batch) {
      for (std::size_t i = 0; i < job->count; ++i)
        if (!job->items[i].settled) settle(*job, job->items[i], PageStatus::kCancelled);
      finish_if_done(*job, outbox);
    }
    job = older;
  }
  post(lock, outbox);
}

}  // namespace tidepool::pool::remote
