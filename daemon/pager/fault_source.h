// Where an address space's faults come from: a userfaultfd, and what was agreed on when it was made.
//
// Made for us (adoption), nobody has spoken with it yet, and it is asked for everything. Handed off, its owner did the
// handshake and chose; a second handshake fails. The modes of a registration do not depend on what was chosen (tried on
// Linux 6.18: write protection and minor faults work without their feature bits), but events do: what the kernel does
// not announce, the owner must not do, or pages are lost.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "kmod-interfaces/userfaultfd.h"

namespace tidepool::daemon {

struct FaultSource {
  kernel::Userfaultfd userfaultfd;
  std::uint64_t features = 0;  // UFFD_FEATURE_* in force

  // Does the handshake.
  static Result<FaultSource> made_for_us(kernel::Userfaultfd userfaultfd);
  // Takes what its owner agreed on, or does the handshake where the owner left it to us; makes the descriptor
  // non-blocking, for its owner too: nothing else can be waited for. Refuses one that answers faults by itself
  // (UFFD_FEATURE_SIGBUS, UFFD_FEATURE_WP_ASYNC): ENOTSUP.
  static Result<FaultSource> handed_off(kernel::Userfaultfd userfaultfd);

  bool announces(std::uint64_t events) const { return (features & events) == events; }
};

}  // namespace tidepool::daemon
