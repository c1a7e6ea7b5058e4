// What VMs need at which time of the day, noted once a minute and kept in policy.need_archive; a VM that comes (back)
// into care is given the history that it had. The policy thread's, but for the writing, which has a thread of its own:
// a disk may be slow.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "base/clock.h"
#include "daemon/agent/context.h"
#include "daemon/agent/need_archive.h"

namespace tidepool::daemon {

class NeedNotes {
 public:
  explicit NeedNotes(Context& context) : context_(context) {}
  ~NeedNotes() { close(); }

  // Reads the archive, where one is configured; says so when it cannot be, and keeps nothing then.
  void open();
  // `give(vm, history)` for each VM that was not there before and is known.
  void remember(const std::function<void(VmId, const std::string&)>& give);
  // `history_of(vm)`: a line of policy::Utilisation. Does nothing most of the time.
  void note(const std::function<std::string(VmId)>& history_of);
  // Writes what was noted last. Any thread, once the policy thread has ended.
  void close();

 private:
  void save();
  void write_when_asked();

  Context& context_;
  bool open_ = false;
  std::string path_;
  NeedArchive archive_;
  std::set<VmId> here_;  // VMs that were there the last time
  MonoTime next_noting_{};
  MonoTime next_saving_{};

  std::mutex mutex_;
  std::condition_variable asked_;
  std::optional<std::string> text_;  // to be written
  bool closing_ = false;
  std::thread writer_;
};

}  // namespace tidepool::daemon
