#include "pool/client/attacher.h"

#include <algorithm>
#include <utility>

namespace tidepool::pool {
namespace {

using protocol::ErrorCode;

constexpr std::size_t kMostUnderWay = 30;  // per connection

bool fits(const protocol::Attached& attached, const protocol::Claims& claims) {
  return attached.slice == claims.slice && attached.epoch == claims.epoch && attached.slots == claims.slots;
}

}  // namespace

void Attacher::add(std::unique_ptr<AttachJob> job) {
  for (Side& side : sides_) side.waiting.push_back(job.get());
  jobs_.push_back(std::move(job));
}

void Attacher::take_answers(std::size_t index) {
  Side& side = sides_[index];
  for (AttachAnswer& answer : connections_[index]->take_attach_answers()) {
    const auto found = side.sent.find(answer.id);
    if (found == side.sent.end()) continue;  // it was given up
    AttachJob& job = *found->second;
    side.sent.erase(found);
    if (answer.status == ErrorCode::kOk && !fits(answer.attached, job.lease.claims)) {
      connections_[index]->fail("it attached another slice than was asked for");
      continue;
    }
    if (answer.status != ErrorCode::kOk && !answer.believed && !job.done) {
      side.doubted.push_back(&job);
      side.doubt = answer.status;
      continue;
    }
    ++job.answers;
    if (answer.file.valid()) job.file = std::move(answer.file);
    job.created = job.created || (answer.status == ErrorCode::kOk && answer.attached.created);
    if (answer.status != ErrorCode::kOk) job.refusal = answer.status;
  }
}

void Attacher::send(std::size_t index) {
  Side& side = sides_[index];
  const bool ready = connections_[index]->ready();
  if (ready) {
    side.waiting.insert(side.waiting.end(), side.doubted.begin(), side.doubted.end());
    side.doubted.clear();
  }
  while (!side.waiting.empty() && side.sent.size() < (ready ? kMostUnderWay : 1)) {
    AttachJob& job = *side.waiting.front();
    const auto id = connections_[index]->send_attach(job.lease);
    if (!id) return;
    side.waiting.pop_front();
    side.sent.emplace(*id, &job);
  }
  if (!side.doubted.empty() && side.waiting.empty() && side.sent.empty())
    hopeless_ = "it refuses the leases it had: " + protocol::describe(side.doubt);
}

std::vector<std::unique_ptr<AttachJob>> Attacher::advance() {
  for (std::size_t index = 0; index < sides_.size(); ++index) {
    take_answers(index);
    send(index);
  }
  std::vector<std::unique_ptr<AttachJob>> finished;
  std::erase_if(jobs_, [&](std::unique_ptr<AttachJob>& job) {
    if (job->answers < sides_.size()) return false;
    finished.push_back(std::move(job));
    return true;
  });
  return finished;
}

bool Attacher::take_late(MonoTime now, std::vector<std::unique_ptr<AttachJob>>& late) {
  bool was_sent = false;
  std::erase_if(jobs_, [&](std::unique_ptr<AttachJob>& job) {
    if (now < job->until) return false;
    was_sent = was_sent || job->answers > 0 || !job->done;
    for (Side& side : sides_) {
      std::erase(side.waiting, job.get());
      std::erase(side.doubted, job.get());
      was_sent = std::erase_if(side.sent, [&](const auto& entry) { return entry.second == job.get(); }) > 0 || was_sent;
    }
    late.push_back(std::move(job));
    return true;
  });
  return was_sent;
}

std::vector<std::unique_ptr<AttachJob>> Attacher::take_all() {
  sides_ = {};
  hopeless_.reset();
  return std::exchange(jobs_, {});
}

}  // namespace tidepool::pool
