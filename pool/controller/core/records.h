// What the controller keeps: one value per thing, in a compact form whose first byte is the version of its kind.
//
//   meta/cluster  meta/next  tenant/NAME  host/NAME  vm/HOST/NAME  server/NAME  slice/ID  history/NUMBER
//
// Numbers in keys are 16 hexadecimal digits; what is not printable ASCII in a VM's name stands as %XX. What follows
// from records (indexes, sums, tasks) is not stored. Tasks are states of a slice's replicas. All functions are
// thread-safe; decoding is total and refuses what it does not know.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "pool/controller/core/requests.h"

namespace tidepool::pool::controller {

inline constexpr std::uint8_t kRecordVersion = 1;  // of every kind, for now
inline constexpr std::uint64_t kNoLimit = UINT64_MAX;

struct ClusterRecord {
  std::string cluster;
  std::uint64_t slice_bytes = 0;
};

// Counters that only grow.
struct NextRecord {
  std::uint64_t slice = 1;
  std::uint64_t epoch = 1;  // of hosts
  std::uint32_t server = 1;
  // Slices of other numbers than those from here on were given by another cluster, whose records are gone.
  std::uint64_t first_slice = 1;
  // After a restore: slices of these numbers may have been given between the backup and the restore. Empty: none was.
  std::uint64_t unknown_from = 0;
  std::uint64_t unknown_to = 0;

  bool restored() const { return unknown_to != 0; }
  // Whether these records would have that slice if it were held: one that they have not may be freed.
  bool would_know(std::uint64_t slice_id) const {
    return slice_id >= first_slice && slice_id < slice && !(slice_id >= unknown_from && slice_id < unknown_to);
  }
};
// Of a cluster that begins: numbers of slices that no other cluster has given.
NextRecord first_numbers(std::string_view cluster);
// What a backup's counters become when it is restored: far above all that can have been given since.
NextRecord raised_for_restore(NextRecord next);

// Of a VM, a tenant or a host; in bytes.
struct BoundsRecord {
  std::uint64_t reservation = 0;
  std::uint64_t limit = kNoLimit;
  double weight = 1;
  bool operator==(const BoundsRecord&) const = default;
};

struct TenantRecord {
  std::string name;
  BoundsRecord bounds;
};

struct HostRecord {
  std::string name;
  BoundsRecord bounds;
  std::string machine;
  std::string boot;
  std::string instance;
  std::uint64_t epoch = 0;        // of the agent that may ask; unique among all hosts for ever
  std::uint64_t ended_below = 0;  // lives that began in a lower epoch are over
  bool forgotten = false;         // goes when its last slice is free
};

struct LifeRecord {
  HolderId holder{};
  std::uint64_t since = 0;  // epoch of the host's agent that told of it first
  bool ended = false;
};

struct VmRecord {
  std::string host;
  std::string name;
  std::string tenant;
  BoundsRecord bounds;
  std::uint8_t replicas = 2;
  bool forgotten = false;
  std::vector<LifeRecord> lives;  // the newest last; earlier ones until their slices are free
};

struct ServerRecord {
  std::string name;
  std::uint32_t number = 0;      // unique for ever
  std::uint32_t generation = 0;  // grows with every boot
  BootId boot{};
  std::string address;
  std::string domain;
  std::uint64_t capacity = 0;  // bytes
  protocol::ServerKey key{};
  bool draining = false;
  bool left = false;  // said that this boot ends
};

enum class ReplicaPhase : std::uint8_t {
  kInForce = 0,
  kJoining = 1,  // of an offer; or the holder is to copy it
  kMoving = 2,   // in force, and goes when another one is
  kLeaving = 3,  // the holder is to use it no more
  kFreeing = 4,  // the server is to free it; `epoch` is the one that everything lower is fenced by
};
struct ReplicaRecord {
  std::uint32_t server = 0;
  std::uint32_t generation = 0;  // of the server; if that has another one by now, this replica is gone
  std::uint64_t epoch = 0;       // of its token
  ReplicaPhase phase = ReplicaPhase::kInForce;
};

enum class SlicePhase : std::uint8_t { kOffered = 0, kHeld = 1, kReleasing = 2 };
struct SliceRecord {
  std::uint64_t id = 0;
  HolderId holder{};
  SlicePhase phase = SlicePhase::kOffered;
  std::uint8_t wanted = 2;  // replicas
  std::uint64_t epoch = 0;  // the highest that any replica was given or fenced with
  std::vector<ReplicaRecord> replicas;
  std::string request;  // of the grant
};
inline constexpr std::size_t kMostReplicaRecords = 8;

std::string key_of(const ClusterRecord&);
std::string key_of(const NextRecord&);
std::string key_of(const TenantRecord&);
std::string key_of(const HostRecord&);
std::string key_of(const VmRecord&);
std::string key_of(const ServerRecord&);
std::string key_of(const SliceRecord&);
std::string key_of(const HistoryEntry&);

std::string encode(const ClusterRecord&);
std::string encode(const NextRecord&);
std::string encode(const TenantRecord&);
std::string encode(const HostRecord&);
std::string encode(const VmRecord&);
std::string encode(const ServerRecord&);
std::string encode(const SliceRecord&);
std::string encode(const HistoryEntry&);

// Of one of the types above. `key` is for the error, and must be that of what is decoded.
template <class Record>
Result<Record> decode(std::string_view key, std::string_view value);

}  // namespace tidepool::pool::controller
