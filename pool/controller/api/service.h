// What the API asks of the controller: the one seam between HTTP and the thread that owns the core.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "pool/controller/core/requests.h"

namespace tidepool::pool::controller {

struct BackupAnswer {
  std::string file;  // on the controller's machine
  std::uint64_t records = 0;
  Bytes bytes;  // of the file
};

// Any thread, several at once. Calls wait until the answer's changes are stored. Errors: operation_not_permitted: this
// controller does not lead, or lost the lead during the call, and what is known of that is the error's remedy;
// timed_out, resource_unavailable_try_again: not now; anything else: it could not be stored. A Refusal is an answer,
// not an error.
class ControllerService {
 public:
  virtual ~ControllerService() = default;

  // `actor` goes into the history: "root (uid 0)", "admin alice", "agent host-1".
  virtual Result<Answer> call(const Request& request, const std::string& actor) = 0;

  // Where the API of the controller that leads is: an endpoint as clients write it ("https://controller-2:9843",
  // "unix:/run/..."). Empty: not known.
  virtual std::string leader() = 0;

  // Writes all records to a new file; see pool/controller/state/backup.h for its form. `file` is absolute.
  virtual Result<BackupAnswer> backup(const std::string& file) = 0;

  // See http::Handler::audit_trouble.
  virtual void audit_trouble(std::string_view) {}
};

}  // namespace tidepool::pool::controller
