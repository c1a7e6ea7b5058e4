// Which slices a VM has at memory servers, and at which servers: a memfd that outlives the process (docs/layout.md),
// beside the slot table that it is the "data" of.
//
// Every change is one store of a 64-bit word, so that it is whole whenever the process ends. Entries are believed only
// as far as they make sense; that a page is the right one is for its seal to say. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "pool/protocol/messages.h"

namespace tidepool::pool {

inline constexpr std::uint32_t kSliceLayoutVersion = 2;
inline constexpr std::uint32_t kOldestSliceLayout = 1;  // that open() understands, and makes the present one of
inline constexpr unsigned kMostReplicas = 3;            // that can be wanted
inline constexpr unsigned kReplicaPlaces = 4;           // one more: for the replica that is to replace another
inline constexpr std::size_t kMostServers = 64;

enum class ReplicaState : std::uint8_t {
  kNone = 0,
  kInForce = 1,  // holds every live page of the slice
  kOut = 2,      // is gone: never read again
  kFilling = 3,  // holds some, and gets the others
};

struct ReplicaEntry {
  std::uint8_t server = 0;  // its number in this table
  ReplicaState state = ReplicaState::kNone;
  std::uint64_t epoch = 0;  // of the lease that it was last attached with; 48 bits

  static constexpr std::uint64_t kEpochMask = (1ull << 48) - 1;
  static constexpr ReplicaEntry unpack(std::uint64_t raw) {
    return {static_cast<std::uint8_t>(raw >> 56), static_cast<ReplicaState>(raw >> 48 & 0xff), raw & kEpochMask};
  }
  constexpr std::uint64_t pack() const {
    return static_cast<std::uint64_t>(server) << 56 | static_cast<std::uint64_t>(state) << 48 | (epoch & kEpochMask);
  }
};

struct SliceEntry {
  protocol::SliceId id{};  // the same at every replica
  std::array<ReplicaEntry, kReplicaPlaces> replicas{};
};

struct SliceTableSpec {
  std::uint64_t slices = 0;
  std::uint32_t slots_per_slice = 0;
  protocol::HolderId holder{};
};

class SliceTable {
 public:
  static Result<SliceTable> create(const SliceTableSpec& spec);
  // Takes over what another process left; refuses what is damaged or not understood. What an older program left is
  // from then on of the present layout, which that program refuses.
  static Result<SliceTable> open(UniqueFd fd);

  int fd() const { return fd_.get(); }
  const SliceTableSpec& spec() const { return spec_; }
  Bytes populated() const { return Bytes{mapping_.size()}; }

  // By number; empty names are free.
  std::vector<std::string> servers() const;
  // The server's number, a new one if it has none yet. Fails when there are kMostServers, or the name is too long.
  Result<std::uint8_t> number_of(const std::string& server);

  // False when nothing is leased under that index.
  bool load(std::uint64_t index, SliceEntry& entry) const;
  // True when load() would give a slice that can be: servers that have names, each once, at least one replica.
  bool plausible(const SliceEntry& entry) const;
  void store(std::uint64_t index, const SliceEntry& entry);
  void store_replica(std::uint64_t index, unsigned replica, ReplicaEntry entry);
  void clear(std::uint64_t index);

 private:
  static Result<SliceTable> map(UniqueFd fd, const SliceTableSpec& spec);
  std::uint64_t* entry(std::uint64_t index) const;
  std::byte* name(std::size_t number) const;

  UniqueFd fd_;
  Mapping mapping_;
  SliceTableSpec spec_;
};

}  // namespace tidepool::pool
