#include "daemon/vm/handoff_receiver.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <array>

#include "kmod-interfaces/fd_passing.h"
#include "kmod-interfaces/pidfd.h"

namespace tidepool::daemon {
namespace {

constexpr std::size_t kPiece = 16u << 10;

Failure refused(const std::string& why, std::errc code = std::errc::bad_message, std::string remedy = {}) {
  return failure(code, "read", "the hand-off: " + why, std::move(remedy));
}

}  // namespace

Result<HandoffReceiver> HandoffReceiver::begin(UniqueFd connection) {
  auto peer = kernel::socket_peer(connection.get());
  if (!peer) return Failure{peer.error()};
  Handoff handoff;
  handoff.peer = std::move(*peer);
  handoff.connection = std::move(connection);
  return HandoffReceiver{std::move(handoff)};
}

Result<> HandoffReceiver::keep(UniqueFd descriptor) {
  if (kernel::descriptor_target(descriptor.get()) == "anon_inode:[userfaultfd]") {
    if (handoff_.userfaultfd.valid()) return refused("it brings more than one userfaultfd");
    handoff_.userfaultfd = std::move(descriptor);
    return {};
  }
  struct stat info {};
  if (::fstat(descriptor.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return refused("it brings a descriptor that is neither a userfaultfd nor a file", std::errc::bad_message,
                   "send the userfaultfd, and for shared memory the memfd or file behind it");
  }
  if (handoff_.files.size() >= kernel::kMaxPassedDescriptors) return refused("it brings too many descriptors");
  handoff_.files.push_back(std::move(descriptor));
  return {};
}

Result<bool> HandoffReceiver::receive() {
  std::array<std::byte, kPiece> buffer;
  for (;;) {
    auto piece = kernel::receive_message(handoff_.connection.get(), buffer, MSG_DONTWAIT);
    if (!piece) {
      if (piece.error().code != std::errc::resource_unavailable_try_again) return Failure{piece.error()};
      return missing().empty() ? finish() : Result<bool>(false);
    }
    if (piece->truncated) return refused("it brings too many descriptors");
    for (UniqueFd& descriptor : piece->descriptors) {
      if (auto kept = keep(std::move(descriptor)); !kept) return Failure{kept.error()};
    }
    if (piece->length == 0) {
      // A peer that closes its end after everything arrived (older Firecrackers do) has handed off all the same.
      if (const std::string what = missing(); !what.empty())
        return refused("it ended before " + what + " arrived", std::errc::connection_reset);
      return finish();
    }
    const std::string_view text(reinterpret_cast<const char*>(buffer.data()), piece->length);
    if (auto added = message_.add(text); !added) return Failure{added.error()};
  }
}

Result<bool> HandoffReceiver::finish() {
  auto regions = message_.regions();
  if (!regions) return Failure{regions.error()};
  handoff_.regions = std::move(*regions);
  return true;
}

std::string HandoffReceiver::missing() const {
  if (!message_.complete()) return "the array of regions";
  return handoff_.userfaultfd.valid() ? "" : "the userfaultfd";
}

}  // namespace tidepool::daemon
