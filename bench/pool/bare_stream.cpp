#include "bench/pool/bare_stream.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "bench/pool/connected_pair.h"

namespace tidepool::bench {
namespace {

constexpr unsigned kAtOnce = 8;  // sends in one submission, one after the other

[[noreturn]] void receive_all(int socket, unsigned chunks) {
  io_uring ring{};
  if (::io_uring_queue_init(4, &ring, 0) != 0) ::_exit(1);
  std::vector<std::byte> buffer(BareStream::kChunk);
  for (;;) {
    for (unsigned i = 0; i < chunks; ++i) {
      io_uring_sqe* const entry = ::io_uring_get_sqe(&ring);
      ::io_uring_prep_recv(entry, socket, buffer.data(), buffer.size(), MSG_WAITALL);
      ::io_uring_submit_and_wait(&ring, 1);
      io_uring_cqe* done = nullptr;
      if (::io_uring_wait_cqe(&ring, &done) != 0 || done->res != static_cast<int>(buffer.size())) ::_exit(0);
      ::io_uring_cqe_seen(&ring, done);
    }
    if (::send(socket, buffer.data(), 1, MSG_NOSIGNAL) != 1) ::_exit(0);
  }
}

}  // namespace

BareStream::BareStream(bool tcp, unsigned chunks) : chunks_(chunks), buffer_(kChunk, std::byte{0x5a}) {
  auto [near, far] = connected_pair(tcp);
  pid_ = ::fork();
  if (pid_ < 0) throw std::runtime_error("cannot fork");
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    near.reset();
    receive_all(far.get(), chunks_);
  }
  socket_ = std::move(near);
  if (::io_uring_queue_init(kAtOnce, &ring_, 0) != 0) throw std::runtime_error("no io_uring");
}

BareStream::~BareStream() {
  ::io_uring_queue_exit(&ring_);
  socket_.reset();
  ::waitpid(pid_, nullptr, 0);
}

void BareStream::round() {
  for (unsigned sent = 0; sent < chunks_;) {
    const unsigned count = std::min(kAtOnce, chunks_ - sent);
    for (unsigned i = 0; i < count; ++i) {
      io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_);
      ::io_uring_prep_send(entry, socket_.get(), buffer_.data(), buffer_.size(), MSG_WAITALL | MSG_NOSIGNAL);
      if (i + 1 < count) entry->flags |= IOSQE_IO_LINK;
    }
    ::io_uring_submit_and_wait(&ring_, count);
    for (unsigned i = 0; i < count; ++i) {
      io_uring_cqe* done = nullptr;
      if (::io_uring_wait_cqe(&ring_, &done) != 0 || done->res != static_cast<int>(buffer_.size()))
        throw std::runtime_error("the stream ended");
      ::io_uring_cqe_seen(&ring_, done);
    }
    sent += count;
  }
  if (::recv(socket_.get(), buffer_.data(), 1, 0) != 1) throw std::runtime_error("the stream ended");
}

}  // namespace tidepool::bench
