// A file that one process at a time holds locked: how a program finds out that another of its kind is at work already.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::kernel {

// Created with mode 0600 where it is absent, locked (flock(2)) for as long as the descriptor is open, and carries the
// pid of whoever has it. EBUSY when another process has the lock; the owner is then in lock_file_owner(). The file
// stays behind: removing it races with the next owner.
Result<UniqueFd> take_lock_file(const std::string& path);

// Who wrote its pid last; 0 when nobody did. Only for messages: it may have ended since.
pid_t lock_file_owner(const std::string& path);
// ", pid 71", or nothing when that is not known.
std::string lock_file_owner_text(const std::string& path);

}  // namespace tidepool::kernel
