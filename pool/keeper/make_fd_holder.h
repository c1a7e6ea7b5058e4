// Which holder this host has.
#pragma once

#include <memory>

#include "base/result.h"
#include "pool/keeper/fd_holder.h"
#include "pool/keeper/keeper_holder.h"

namespace tidepool::pool {

enum class HolderChoice : std::uint8_t {
  kAuto,  // systemd's store where systemd says that there is one ($NOTIFY_SOCKET and $FDSTORE, systemd 254), else the
          // keeper
  kSystemd,
  kKeeper,
};

struct FdHolderOptions {
  HolderChoice choice = HolderChoice::kAuto;
  KeeperOptions keeper{};  // an empty program: connect only, never start one
};

// An error when the chosen one cannot be had: without a holder no page may move.
Result<std::unique_ptr<FdHolder>> make_fd_holder(const FdHolderOptions& options);

}  // namespace tidepool::pool
