#include "bench/restart/large_pool.h"

#include <cstring>
#include <string>

#include "pool/controller/core/records.h"

namespace tidepool::bench {
namespace {

using namespace pool::controller;

constexpr std::uint64_t kSliceBytes = std::uint64_t{64} << 20;

HolderId holder_of(std::uint64_t vm) {
  HolderId holder{};
  std::memcpy(holder.data(), &vm, sizeof vm);
  holder.back() = 1;
  return holder;
}

template <class Record>
void put(std::vector<StateChange>& records, const Record& record) {
  records.push_back({key_of(record), encode(record)});
}

ServerRecord server_of(std::uint64_t index, const LargePool& pool) {
  ServerRecord server;
  server.name = "server-" + std::to_string(index);
  server.number = static_cast<std::uint32_t>(index + 1);
  server.generation = 1;
  server.boot.fill(static_cast<std::uint8_t>(index + 1));
  server.address = "tcp:10.0.0.1:" + std::to_string(10'000 + index);
  server.domain = "rack-" + std::to_string(index % 20);
  server.capacity = (2 * pool.slices / pool.servers + 100) * kSliceBytes;
  return server;
}

VmRecord vm_of(std::uint64_t index, const LargePool& pool) {
  VmRecord vm;
  vm.host = "host-" + std::to_string(index % pool.hosts);
  vm.name = "vm-" + std::to_string(index);
  vm.tenant = "tenant-" + std::to_string(index % 50);
  vm.lives.push_back({holder_of(index), 1, false});
  return vm;
}

SliceRecord slice_of(std::uint64_t index, const LargePool& pool) {
  SliceRecord slice;
  slice.id = index + 1;
  slice.holder = holder_of(index % pool.vms);
  slice.phase = SlicePhase::kHeld;
  slice.epoch = 1;
  for (std::uint64_t replica = 0; replica < 2; ++replica) {
    const auto server = static_cast<std::uint32_t>((index + replica * 7) % pool.servers + 1);
    slice.replicas.push_back({server, 1, 1, ReplicaPhase::kInForce});
  }
  slice.request = "request-" + std::to_string(index / 8);
  return slice;
}

}  // namespace

std::vector<StateChange> records_of(const LargePool& pool) {
  std::vector<StateChange> records;
  put(records, ClusterRecord{"bench", kSliceBytes});
  put(records, NextRecord{pool.slices + 1, pool.hosts + 1, static_cast<std::uint32_t>(pool.servers + 1)});
  for (std::uint64_t i = 0; i < pool.servers; ++i) put(records, server_of(i, pool));
  for (std::uint64_t i = 0; i < pool.hosts; ++i) {
    HostRecord host;
    host.name = "host-" + std::to_string(i);
    host.epoch = i + 1;
    put(records, host);
  }
  for (std::uint64_t i = 0; i < pool.vms; ++i) put(records, vm_of(i, pool));
  for (std::uint64_t i = 0; i < pool.slices; ++i) put(records, slice_of(i, pool));
  for (std::uint64_t i = 0; i < pool.history; ++i)
    put(records, HistoryEntry{i + 1, 0, "agent host-1", "granted", "vm host-1/vm-1", "8 slices"});
  return records;
}

}  // namespace tidepool::bench
