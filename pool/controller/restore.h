// A backup in place of a controller's records, checked by what will use them.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "pool/controller/state/etcd_store.h"

namespace tidepool::pool::controller {

// Both: the records are loaded into a core first, which refuses what makes no sense. Numbers that must never be given
// twice go on far above those of the backup, for what was given since then is not in it. Return how many records there
// are. Errors: those of restore_sqlite and restore_etcd.
Result<std::uint64_t> restore_into_sqlite(const std::string& database, const std::string& backup);
Result<std::uint64_t> restore_into_etcd(const EtcdStoreOptions& options, const std::string& backup);

}  // namespace tidepool::pool::controller
