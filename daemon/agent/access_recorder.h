// Recordings of what trackers see of a VM (docs/trace-format.md): asked for by people, fed by the policy thread, each
// written by a thread of its own, so that neither policy nor other operations wait for a disk. Thread-safe.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "daemon/agent/context.h"
#include "daemon/agent/operations.h"
#include "policy/access_sample.h"

namespace tidepool::daemon {

class AccessRecorder {
 public:
  explicit AccessRecorder(Context& context) : context_(context) {}
  ~AccessRecorder();

  // Creates the file, which must not exist, for its owner alone. The operation ends when the time is over, the file is
  // full, the VM gone, or somebody wants it to; `operations` must outlive that. One per VM, and few at once.
  Result<Operation> start(Operations& operations, const ManagedVm& vm, const RecordRequest& request);
  // Has the VM's recording end, with all that was seen until now.
  Result<> end(const ManagedVm& vm);
  // Has all end, and waits until they have.
  void end_all();
  // What was seen in a tick, of all VMs. Does not block; what a disk is too slow for is lost, and counted in the trace.
  void take(MonoTime now, std::span<const policy::AccessSample> samples);

 private:
  struct Recording;

  void forget_ended();
  void run(Recording& recording);
  Result<bool> write_waiting(Recording& recording);
  void tell_progress(Recording& recording) const;

  Context& context_;
  std::mutex start_mutex_;  // held while a file is created; before mutex_
  std::mutex mutex_;
  std::vector<std::shared_ptr<Recording>> recordings_;
};

}  // namespace tidepool::daemon
