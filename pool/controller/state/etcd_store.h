// Records in etcd, for several controllers of which one leads.
//
// Below a prefix there are: `leader`, which a lease of the leader's keeps, with its name; `commit`, which every commit
// changes; `schema`; and `records/KEY`. Whatever is written is a transaction that compares `leader` and `commit` with
// what this leader made them: a former leader changes nothing, and a transaction that arrives late or twice does
// nothing.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "pool/controller/state/etcd_gateway.h"
#include "pool/controller/state/sqlite_records.h"
#include "pool/controller/state_store.h"

namespace tidepool::pool::controller {

struct EtcdStoreOptions {
  EtcdEndpoints endpoints;
  std::string prefix = "/tidepool/";  // ends with '/'
  std::string name;                   // of this controller, for those who do not lead: its address
  // A leader that is silent for so long leads no more. etcd takes no less than some seconds (1.5 times its election
  // timeout).
  std::chrono::seconds lease{10};
};

// Errors: no or senseless endpoints. lead()'s errors: no member answers; a newer schema; a restore that was
// interrupted.
Result<std::unique_ptr<StateStore>> make_etcd_store(const EtcdStoreOptions& options);

// Replaces all records by those of a backup. What was there is written to BACKUP.replaced.TIME first. Errors: a
// controller leads (device_or_resource_busy); those of read_backup. When it is interrupted no controller leads until it
// is done again.
Result<std::uint64_t> restore_etcd(const EtcdStoreOptions& options, const std::string& backup,
                                   const RecordChange& change);

}  // namespace tidepool::pool::controller
