// Descriptors held by tidepool-keeper, a process of its own.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "pool/keeper/fd_holder.h"
#include "pool/keeper/keeper_protocol.h"

namespace tidepool::pool {

struct KeeperOptions {
  std::string socket = "/run/tidepool/keeper.sock";
  std::string program = "/usr/bin/tidepool-keeper";
  std::chrono::milliseconds patience{5000};  // for a reply, and for a keeper that is being started
};

// One connection. A keeper that went away took its descriptors along: every call fails from then on (ECONNRESET), and
// whoever holds the originals must find or start another keeper and store them again.
class KeeperHolder final : public FdHolder {
 public:
  static Result<std::unique_ptr<KeeperHolder>> connect(const KeeperOptions& options);
  // Starts the keeper when nobody listens: in a session of its own, unaffected by this process's end. Its error text is
  // part of the error.
  static Result<std::unique_ptr<KeeperHolder>> start_or_connect(const KeeperOptions& options);

  std::string kind() const override { return "keeper"; }
  Result<> store(const std::string& name, int fd) override;
  Result<> remove(const std::string& name) override;
  Result<std::vector<HeldFd>> fetch_all() override;
  int connection() const override { return socket_.get(); }

  Result<HeldFd> fetch(const std::string& name);
  Result<std::vector<std::string>> list();
  // EBUSY while it holds anything, unless forced.
  Result<> tell_to_exit(bool force);

 private:
  struct Answer {
    KeeperReply reply;
    std::vector<UniqueFd> descriptors;
  };

  KeeperHolder(UniqueFd socket, std::string path) : socket_(std::move(socket)), path_(std::move(path)) {}
  Result<Answer> ask(KeeperRequest request, int descriptor = -1);
  Failure lost(const std::string& why) const;

  UniqueFd socket_;
  std::string path_;
  std::uint32_t next_id_ = 1;
};

}  // namespace tidepool::pool
