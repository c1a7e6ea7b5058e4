// The controller without its world: requests and the time go in, answers and changes of records come out.
//
// It does no I/O, starts no thread and reads no clock, so that a simulation runs the real thing. Whoever uses it
// commits the changes of a call to the store before the answer leaves; if that fails, this object is worth nothing any
// more: drop it and load anew. An error of a request harms nothing but that request. Not thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "pool/controller/core/config.h"
#include "pool/controller/core/requests.h"
#include "pool/controller/state_store.h"

namespace tidepool::pool::controller {

struct State;

// When, and by whom.
struct Context {
  MonoTime now;              // every span of time; never before that of an earlier call of the same object
  std::int64_t unix_ms = 0;  // shown in the history, nothing else
  std::string actor = "controller";
};

// A call changes at most so many records: stores have bounds for a transaction.
inline constexpr std::size_t kMostChanges = 120;

struct Outcome {
  Answer answer;                     // a Refusal has no changes
  std::vector<StateChange> changes;  // each key once
};

class Core {
 public:
  explicit Core(const CoreConfig& config);
  ~Core();
  Core(Core&&) noexcept;
  Core& operator=(Core&&) noexcept;

  // First take() for every record, in any order, then begin(). Errors: a record of a version or kind that this program
  // does not know, a damaged one, records that contradict each other, a configuration that contradicts them; the object
  // is of no use then.
  Result<> take(std::string_view key, std::string_view value);
  // What it returns is to be committed before anything else.
  Result<std::vector<StateChange>> begin(const Context& context);

  Outcome apply(const Request& request, const Context& context);

  // What time brings. Call it a few times per second; when `again` there is more to do at once.
  struct Tick {
    std::vector<StateChange> changes;
    bool again = false;
  };
  Tick tick(const Context& context);

  // A round of shares now, whatever the configured interval. Changes nothing that is stored.
  void distribute(const Context& context);

  // The records as they would be loaded, in the order of keys: for backups and for tests.
  std::vector<StateChange> records() const;

  // For tests: state.h.
  const State& state() const { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

}  // namespace tidepool::pool::controller
