#include "pool/keeper/make_fd_holder.h"

#include <cstdlib>
#include <utility>

#include "pool/keeper/systemd_holder.h"

namespace tidepool::pool {
namespace {

template <class Holder>
Result<std::unique_ptr<FdHolder>> as_holder(Result<std::unique_ptr<Holder>> holder) {
  if (!holder) return Failure{holder.error()};
  return std::unique_ptr<FdHolder>(std::move(*holder));
}

}  // namespace

Result<std::unique_ptr<FdHolder>> make_fd_holder(const FdHolderOptions& options) {
  const bool offered = std::getenv("NOTIFY_SOCKET") != nullptr && std::getenv("FDSTORE") != nullptr;
  if (options.choice == HolderChoice::kSystemd || (options.choice == HolderChoice::kAuto && offered))
    return as_holder(SystemdHolder::open());
  if (options.keeper.program.empty()) return as_holder(KeeperHolder::connect(options.keeper));
  return as_holder(KeeperHolder::start_or_connect(options.keeper));
}

}  // namespace tidepool::pool
