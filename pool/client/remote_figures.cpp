// What there is to say of the store.
#include "pool/client/remote_core.h"

namespace tidepool::pool::remote {

Bytes Core::process_memory() const {
  Bytes sum{slices_.size() * sizeof(Slice) + write_frames_.size() * sizeof(WriteFrame) +
            read_requests_.size() * sizeof(ReadRequest) + read_jobs_.size() * sizeof(ReadJob) +
            discards_.capacity() * sizeof(Discard)};
  for (const Slice& slice : slices_) {
    sum += Bytes{slice.free.size() * 8};
    for (const Replica& replica : slice.replicas) sum += Bytes{replica.owed.size() * 8};
  }
  for (const auto& codec : codecs_)
    if (codec != nullptr) sum += codec->memory();
  return sum + touched_ + Bytes{copy_buffers_.size()};
}

StoreUsage Core::usage() const {
  const Bytes tables = table_.populated() + slice_table_.populated();
  const std::lock_guard lock(mutex_);
  StoreUsage usage;
  usage.capacity = Bytes{table_.header().data_bytes};
  usage.process_memory = process_memory();
  usage.metadata = tables + usage.process_memory;
  usage.pages = PageCount{pages_};
  usage.used = to_bytes(usage.pages) + usage.metadata;
  return usage;
}

RemoteFigures Core::figures() const {
  // Links without the lock: they have one of their own. A server that comes meanwhile is told of the next time.
  std::vector<RemoteServerFigures> servers;
  std::vector<std::size_t> numbers;
  for (std::size_t number = 0; number < servers_.size(); ++number) {
    const Server& server = servers_[number];
    const Link* link = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (server.name.empty()) continue;
      link = server.link.get();
    }
    RemoteServerFigures& figures = servers.emplace_back();
    numbers.push_back(number);
    if (link != nullptr) figures.link = link->figures();
  }
  const std::lock_guard lock(mutex_);
  RemoteFigures sum = counted_;
  for (std::size_t i = 0; i < servers.size(); ++i) {
    const Server& server = servers_[numbers[i]];
    RemoteServerFigures& figures = servers[i];
    figures.server = server.name;
    figures.up = server.up;
    figures.draining = server.draining;
    figures.why = server.link == nullptr ? "it is not configured" : server.why;
    figures.slices = server.slices;
    figures.wrong_answers = server.wrong_answers;
    figures.hedges = server.hedges;
    figures.boots = server.boots;
  }
  sum.servers = std::move(servers);
  for (const Slice& slice : slices_) {
    if (slice.state != SliceState::kReady) continue;
    const auto replicas = static_cast<unsigned>(std::popcount(in_force(slice)));
    ++sum.slices;
    sum.degraded_slices += replicas < options_.replicas;
    sum.lost_slices += replicas == 0;
    sum.close_slices += !slice.apart;
    sum.filling_slices += filling(slice) != 0;
    sum.expired_slices += writable(slice, now()) != answering(slice);
    std::uint64_t most = 0;  // each of those that are still to be begun
    for (const Replica& replica : slice.replicas) {
      if (replica.entry.state != ReplicaState::kFilling) continue;
      most += replica.owing;
      for (auto& figures : sum.servers) figures.filling += figures.server == servers_[replica.entry.server].name;
    }
    const auto some = static_cast<unsigned>(std::popcount(filling(slice)));
    if (replicas != 0 && replicas + some < options_.replicas)
      most += slice.used * (options_.replicas - replicas - some);
    sum.rebuild_remaining += Bytes{most * kPageSize};
    if (!slice.closing) continue;
    ++sum.closing_slices;
    sum.closing += Bytes{slice.used * kPageSize};
  }
  sum.queued_pages = queued_pages_;
  sum.under_way_pages = under_way_pages_;
  return sum;
}

}  // namespace tidepool::pool::remote
