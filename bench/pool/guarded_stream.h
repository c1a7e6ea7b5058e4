// The ceiling of demotion to a server: a bare stream that does the same work on the pages and nothing else. Staged from
// memory that is in no cache, sealed, tagged by 64 pages, sent; received, checked, copied to where it stays. One thread
// at each end; no store, no protocol, nothing acknowledged page by page.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "base/unique_fd.h"
#include "pool/client/sealer.h"
#include "pool/protocol/frame_guard.h"

namespace tidepool::bench {

class GuardedStream {
 public:
  static constexpr std::size_t kPagesPerChunk = 64;

  // Forks, so before any thread is started. A round is `chunks` chunks, all of different memory. `tags`: as frames have
  // them.
  GuardedStream(bool tcp, bool tags, unsigned chunks);
  ~GuardedStream();
  GuardedStream(const GuardedStream&) = delete;
  GuardedStream& operator=(const GuardedStream&) = delete;

  void round();
  pid_t pid() const { return pid_; }

 private:
  const bool tags_;
  const unsigned chunks_;
  pid_t pid_ = -1;
  UniqueFd socket_;
  std::vector<std::byte> pages_;
  std::vector<std::byte> staged_;
  std::vector<std::byte> sealed_;
  std::unique_ptr<pool::Sealer> sealer_;
  std::unique_ptr<protocol::FrameGuard> guard_;
  pool::SealPlace place_{protocol::SliceId{1}, 0, 0};
};

}  // namespace tidepool::bench
