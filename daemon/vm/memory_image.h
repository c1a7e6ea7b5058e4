// The memory file of a VM's snapshot: what the pages of a VM that restores it hold until they are written.
#pragma once

#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "daemon/vm/handoff_message.h"
#include "kmod-interfaces/socket_peer.h"
#include "kmod-interfaces/userfaultfd.h"

namespace tidepool::daemon {

class MemoryImage {
 public:
  // A VM says itself who it is, so it is given nothing that its user could not have: the file belongs to that user, or
  // to its group, which may read it. EACCES: neither; EINVAL: not a regular file.
  static Result<MemoryImage> open(const std::string& path, const kernel::SocketPeer& reader);

  // Puts the content of every region into the process's memory: the region's offset is its place in the file. Pages
  // that are all zero are left out, and those that are there already are left alone. Returns how much was put there.
  //
  // `userfaultfd`: every region is registered with it, and nobody else reads its events. Threads that wait for a page
  // are woken when it is there; all others at the end. ENODATA: the file is shorter than the regions; EINVAL: two
  // regions have the same place in it; ECANCELED: the process changed its address space meanwhile.
  Result<Bytes> load(const kernel::Userfaultfd& userfaultfd, std::span<const HandoffRegion> regions) const;

 private:
  MemoryImage(std::string path, UniqueFd file, Bytes size)
      : path_(std::move(path)), file_(std::move(file)), size_(size) {}
  Result<> check(std::span<const HandoffRegion> regions) const;

  std::string path_;
  UniqueFd file_;
  Bytes size_;
};

}  // namespace tidepool::daemon
