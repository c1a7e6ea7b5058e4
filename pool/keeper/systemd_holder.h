// Descriptors held by systemd's store (sd_notify(3), FDSTORE=1): they survive a crash and a restart of the service, not
// stop followed by start, unless the unit says FileDescriptorStorePreserve=yes (systemd 254).
#pragma once

#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "pool/keeper/fd_holder.h"

namespace tidepool::pool {

class SystemdHolder final : public FdHolder {
 public:
  // ENOENT when systemd did not start this process ($NOTIFY_SOCKET). What the predecessor stored is found through
  // $LISTEN_FDS; both variables are left alone.
  static Result<std::unique_ptr<SystemdHolder>> open(std::chrono::milliseconds patience = std::chrono::seconds(5));

  std::string kind() const override { return "systemd"; }
  // Waits until systemd has processed it. systemd does not say whether it took the descriptor: it drops what exceeds
  // FileDescriptorStoreMax=, which is checked beforehand where it is told ($FDSTORE, systemd 254). Storing under a name
  // in use removes the old one first.
  Result<> store(const std::string& name, int fd) override;
  Result<> remove(const std::string& name) override;
  // What this process was started with (duplicates), sockets of socket activation included. Not what it has stored
  // since.
  Result<std::vector<HeldFd>> fetch_all() override;

  // systemd's names have no ':' and at most 255 characters: others are written as %XX.
  static Result<std::string> encode_name(std::string_view name);
  static std::string decode_name(std::string_view name);

 private:
  explicit SystemdHolder(std::chrono::milliseconds patience) : patience_(patience) {}
  Result<> notify(const std::string& message, int fd);

  std::chrono::milliseconds patience_;
  std::set<std::string> names_;  // encoded
};

}  // namespace tidepool::pool
