#include "bench/pager/bare_handler.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <stdexcept>

namespace tidepool::bench {
namespace {

constexpr std::uint64_t kRestoreBatch = 64 << 10;

void check(bool fine, const char* what) {
  if (!fine) throw std::runtime_error(what);
}

void punch(int fd, std::uint64_t offset, std::uint64_t length) {
  check(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                    static_cast<off_t>(length)) == 0,
        "punch");
}

}  // namespace

BareHandler::BareHandler(TouchingProcess& process) : process_(process), userfaultfd_(process.take_userfaultfd()) {
  auto copies = Mapping::anonymous(Bytes{process.memory().size()});
  if (!copies) throw std::runtime_error(copies.error().message());
  copies_ = std::move(*copies);
  const auto length = static_cast<ssize_t>(copies_.size());
  check(::pread(process.memory_file(), copies_.data(), copies_.size(), 0) == length, "pread");
  check(userfaultfd_
            .handshake(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_MISSING_SHMEM)
            .has_value(),
        "handshake");
  check(
      userfaultfd_.register_range(process.memory(), UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP).has_value(),
      "register");
  wake_ = UniqueFd{::eventfd(0, EFD_CLOEXEC)};
}

BareHandler::~BareHandler() {
  stop();
}

void BareHandler::start(bool spinning) {
  stopping_ = false;
  thread_ = std::thread([this, spinning] { serve(spinning); });
}

void BareHandler::stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t woken = ::write(wake_.get(), &one, sizeof(one));
  thread_.join();
  std::uint64_t taken = 0;
  [[maybe_unused]] const ssize_t emptied = ::read(wake_.get(), &taken, sizeof(taken));
}

void BareHandler::serve(bool spinning) {
  std::array<uffd_msg, 16> events;
  while (!stopping_.load(std::memory_order_relaxed)) {
    const int count = userfaultfd_.read_events(events);
    for (int i = 0; i < count; ++i) {
      const std::uint64_t address = events[static_cast<std::size_t>(i)].arg.pagefault.address & ~(kPageSize - 1);
      userfaultfd_.copy(address, copy_of(address), kPageSize, false);
    }
    if (count > 0 || spinning) continue;
    std::array<pollfd, 2> fds{{{userfaultfd_.fd(), POLLIN, 0}, {wake_.get(), POLLIN, 0}}};
    ::poll(fds.data(), fds.size(), -1);
  }
}

void BareHandler::drop_all() {
  punch(process_.memory_file(), 0, process_.memory().size());
}

void BareHandler::demote_in_batches() {
  const AddressRange memory = process_.memory();
  for (std::uint64_t offset = 0; offset < memory.size(); offset += kHugePageSize) {
    const AddressRange batch{memory.start + offset, memory.start + offset + kHugePageSize};
    check(userfaultfd_.write_protect(batch, true) == 0, "write-protect");
    const ssize_t got =
        ::pread(process_.memory_file(), copies_.data() + offset, kHugePageSize, static_cast<off_t>(offset));
    check(got == static_cast<ssize_t>(kHugePageSize), "pread");
    punch(process_.memory_file(), offset, kHugePageSize);
  }
}

void BareHandler::forget_copies() {
  check(::madvise(copies_.data(), copies_.size(), MADV_DONTNEED) == 0, "madvise");
}

void BareHandler::restore_in_batches() {
  const AddressRange memory = process_.memory();
  for (std::uint64_t offset = 0; offset < memory.size(); offset += kRestoreBatch) {
    const auto outcome = userfaultfd_.copy(memory.start + offset, copies_.data() + offset, kRestoreBatch, false);
    check(outcome.error == 0, "copy");
  }
}

}  // namespace tidepool::bench
