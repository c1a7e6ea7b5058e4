#include "bench/pool/guarded_stream.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <stdexcept>

#include "bench/pool/connected_pair.h"

namespace tidepool::bench {
namespace {

// In front of the pages, as of a WRITE of as many: header, scope, count and entries.
constexpr std::size_t kHeadBytes = 64 + GuardedStream::kPagesPerChunk * 32;
constexpr std::size_t kChunkBytes = kHeadBytes + GuardedStream::kPagesPerChunk * kPageSize + protocol::kTagBytes;

[[noreturn]] void receive_all(int socket, bool tags, unsigned chunks) {
  auto guard = protocol::FrameGuard::make({1});
  std::vector<std::byte> chunk(kChunkBytes), kept(chunks * GuardedStream::kPagesPerChunk * kPageSize);
  if (!guard) ::_exit(1);
  for (;;) {
    for (unsigned i = 0; i < chunks; ++i) {
      if (::recv(socket, chunk.data(), chunk.size(), MSG_WAITALL) != static_cast<ssize_t>(chunk.size())) ::_exit(0);
      const std::span<const std::byte> all(chunk);
      const auto frame = all.first(chunk.size() - protocol::kTagBytes);
      if (tags && !guard->check(frame.first(kHeadBytes), frame.subspan(kHeadBytes), all.last(protocol::kTagBytes)))
        ::_exit(1);
      for (std::size_t page = 0; page < GuardedStream::kPagesPerChunk; ++page) {
        std::memcpy(kept.data() + (i * GuardedStream::kPagesPerChunk + page) * kPageSize,
                    frame.data() + kHeadBytes + page * kPageSize, kPageSize);
      }
    }
    if (::send(socket, chunk.data(), 1, MSG_NOSIGNAL) != 1) ::_exit(0);
  }
}

}  // namespace

GuardedStream::GuardedStream(bool tcp, bool tags, unsigned chunks)
    : tags_(tags),
      chunks_(chunks),
      pages_(chunks * kPagesPerChunk * kPageSize, std::byte{0x3c}),
      staged_(kPagesPerChunk * kPageSize),
      sealed_(kChunkBytes) {
  auto [near, far] = connected_pair(tcp);
  if (!tcp) ::setsockopt(near.get(), SOL_SOCKET, SO_SNDBUF, &protocol::kUnixSendRoom, sizeof protocol::kUnixSendRoom);
  pid_ = ::fork();
  if (pid_ < 0) throw std::runtime_error("cannot fork");
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    near.reset();
    receive_all(far.get(), tags_, chunks_);
  }
  socket_ = std::move(near);
  auto sealer = pool::make_sealer({2});
  auto guard = protocol::FrameGuard::make({1});
  if (!sealer || !guard) throw std::runtime_error("no cipher");
  sealer_ = std::move(*sealer);
  guard_ = std::make_unique<protocol::FrameGuard>(std::move(*guard));
}

GuardedStream::~GuardedStream() {
  socket_.reset();
  ::waitpid(pid_, nullptr, 0);
}

void GuardedStream::round() {
  for (unsigned i = 0; i < chunks_; ++i) {
    std::memcpy(staged_.data(), pages_.data() + i * staged_.size(), staged_.size());
    for (std::size_t page = 0; page < kPagesPerChunk; ++page) {
      ++place_.version;
      protocol::Tag tag{};
      if (!sealer_->seal(place_, std::span(staged_).subspan(page * kPageSize, kPageSize),
                         sealed_.data() + kHeadBytes + page * kPageSize, tag))
        throw std::runtime_error("a page was not sealed");
    }
    const std::span<std::byte> frame = std::span(sealed_).first(sealed_.size() - protocol::kTagBytes);
    const std::array<protocol::Piece, 1> rest{frame.subspan(kHeadBytes)};
    protocol::Tag tag{};
    if (tags_ && !guard_->seal(frame.first(kHeadBytes), rest, tag)) throw std::runtime_error("no tag");
    std::memcpy(sealed_.data() + frame.size(), tag.data(), tag.size());
    for (std::size_t sent = 0; sent < sealed_.size();) {
      const ssize_t taken = ::send(socket_.get(), sealed_.data() + sent, sealed_.size() - sent, MSG_NOSIGNAL);
      if (taken <= 0) throw std::runtime_error("the stream ended");
      sent += static_cast<std::size_t>(taken);
    }
  }
  std::byte end{};
  if (::recv(socket_.get(), &end, 1, 0) != 1) throw std::runtime_error("the stream ended");
}

}  // namespace tidepool::bench
