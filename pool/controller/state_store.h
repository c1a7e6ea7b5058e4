// Where the controller keeps its records. One writer at a time: whoever leads.
//
// Keys are printable ASCII without blanks, at most 512 bytes, ordered by byte: "slice/00000000000000a1". Values are at
// most 64 KiB of any bytes. Not thread-safe: one thread, except lost(), stop() and leader().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::pool::controller {

struct StateChange {
  std::string key;
  std::optional<std::string> value;  // none: the key goes
};

class StateStore {
 public:
  virtual ~StateStore() = default;

  virtual std::string kind() const = 0;  // "sqlite", "etcd"

  // Waits until this process leads, or stop() was called (operation_canceled). Whoever led before cannot commit any
  // more when this returns. Errors: whatever makes it pointless to go on waiting, with the remedy.
  virtual Result<> lead() = 0;
  // Leads no more, as far as this process knows: nothing that was loaded may be relied on. Any thread.
  virtual bool lost() const = 0;
  // Gives leadership up at once, so that another one need not wait. Also at destruction.
  virtual void resign() = 0;
  virtual void stop() = 0;  // any thread; for good
  // The name that the leader gave, as lead() found it last; empty when nobody is known to lead. Any thread.
  virtual std::string leader() const = 0;

  // Every record, in the order of keys. Only while leading.
  virtual Result<> load(const std::function<void(std::string_view key, std::string_view value)>& visit) = 0;
  // A commit takes so many changes at most; never fewer than a call of the core makes (kMostChanges).
  virtual std::size_t most_changes() const = 0;
  // All or nothing, durable when it returns; of several changes of a key the last one counts. Errors: not leading
  // (operation_not_permitted); full, read-only or damaged storage; storage that cannot be reached. After an error it is
  // not known what was changed, and leadership is over: lead() and load() again.
  virtual Result<> commit(std::span<const StateChange> changes) = 0;
};

}  // namespace tidepool::pool::controller
