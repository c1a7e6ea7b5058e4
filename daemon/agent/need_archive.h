// What VMs need at which time of the day, kept in a file over restarts of the agent and of the VMs. By UUID where a VM
// has one, else by name. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::daemon {

class NeedArchive {
 public:
  static constexpr std::size_t kMostVms = 4096;  // then those that were seen longest ago go

  // Of the file's text. What makes no sense in it is left out: `lost` lines.
  static NeedArchive parse(std::string_view text);
  // An absent file is an empty archive.
  static Result<NeedArchive> load(const std::string& path);

  std::size_t lost() const { return lost_; }
  std::size_t size() const { return vms_.size(); }
  // A line of policy::Utilisation; empty: nothing is known.
  std::string find(const std::string& key) const;
  // `seen`: seconds of the wall clock.
  void put(const std::string& key, std::string need, std::int64_t seen);
  std::string text() const;
  Result<> save(const std::string& path) const { return write(path, text()); }
  // Readable for its owner alone; there is always a whole file, the old one or the new one, also after a power failure.
  static Result<> write(const std::string& path, std::string_view text);

 private:
  struct Vm {
    std::string need;
    std::int64_t seen = 0;
  };
  std::map<std::string, Vm> vms_;
  std::size_t lost_ = 0;
};

}  // namespace tidepool::daemon
