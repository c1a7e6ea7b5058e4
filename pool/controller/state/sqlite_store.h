// Records in one SQLite file on a local disk: nothing to set up, one controller.
//
// FILE.lock is locked by whoever leads, and has its name; another controller on the same file waits. The database
// itself is locked too for as long as somebody leads, so that no other program changes it meanwhile. Write-ahead log,
// synchronous=FULL: what was committed survives a loss of power.
#pragma once

#include <memory>
#include <string>

#include "pool/controller/state_store.h"

namespace tidepool::pool::controller {

// `name` is what others on the same file are told about this one: its address. lead()'s errors: a folder or file that
// cannot be written, a file of another program or of a newer schema, and a damaged one, which is left as it is.
std::unique_ptr<StateStore> make_sqlite_store(std::string file, std::string name);

}  // namespace tidepool::pool::controller
