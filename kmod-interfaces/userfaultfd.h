// userfaultfd(2): being told of faults in somebody else's memory, and answering them.
//
// Works on the address space of whichever process the descriptor was made in; none of the calls needs that process to
// be stopped. Source of behaviour: Documentation/admin-guide/mm/userfaultfd.rst and tests/integration/pager (which hold
// the surprising parts).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "kmod-interfaces/uapi/userfaultfd.h"

namespace tidepool::kernel {

// What /proc/PID/fd/N of such a descriptor points to.
inline constexpr const char* kUserfaultfdTarget = "anon_inode:[userfaultfd]";

// What an installing ioctl did. Never an error object: this is the fault path.
struct InstallOutcome {
  std::uint64_t done = 0;  // bytes, from the start of the range
  int error = 0;           // errno; 0 when everything was done. EAGAIN with done > 0: go on behind what was done.
};

class Userfaultfd {
 public:
  Userfaultfd() = default;
  explicit Userfaultfd(UniqueFd fd) : fd_(std::move(fd)) {}

  // A new context for the calling process; by syscall, or by /dev/userfaultfd where the syscall is forbidden.
  // Non-blocking, close-on-exec.
  static Result<Userfaultfd> create_for_self();

  // Must come first, once per descriptor. `features` as UFFD_FEATURE_*; returns what the kernel offers.
  Result<std::uint64_t> handshake(std::uint64_t features);
  // What the handshake agreed on; nullopt while nobody has done it. For descriptors that somebody else made: a second
  // handshake fails, and no ioctl tells. /proc/self/fdinfo/N, "API:" (fs/userfaultfd.c).
  Result<std::optional<std::uint64_t>> agreed_features() const;
  // `modes` as UFFDIO_REGISTER_MODE_*. What was registered through the same descriptor before is replaced. EBUSY:
  // another userfaultfd has a part of the range.
  Result<> register_range(AddressRange range, std::uint64_t modes);
  // Also wakes everyone who waits in the range.
  Result<> unregister_range(AddressRange range);

  // Reads as many events as are queued and fit; 0 when there are none. -errno on failure.
  int read_events(std::span<uffd_msg> events) const;

  // All of these wake whoever waits on the pages installed. Addresses and lengths are multiples of 4 KiB.
  InstallOutcome copy(std::uint64_t address, const void* source, std::uint64_t length, bool write_protect) const;
  // Maps pages that the file already holds (shared memory, MINOR faults). Without write_protect an earlier protection
  // is gone.
  InstallOutcome map_cached(std::uint64_t address, std::uint64_t length, bool write_protect) const;
  // Whoever touches these pages, none of which is present, gets SIGBUS: for what is lost. Linux 6.6; ENOTTY or EINVAL
  // before.
  InstallOutcome poison(std::uint64_t address, std::uint64_t length) const;
  // 0 or errno. Protecting skips pages that are not present; unprotecting wakes waiters, or leaves them to whoever
  // reads their events: a fault that vanishes unread would break the order in which messages are read (kLeave).
  enum class Waiters { kWake, kLeave };
  int write_protect(AddressRange range, bool protect, Waiters waiters = Waiters::kWake) const;
  int wake(AddressRange range) const;
  // False when the address space is gone (the process exited or replaced itself by exec).
  bool address_space_alive() const;
  // True when read_events would have something to say: a message, or an error.
  bool has_message() const;
  // True while an event other than a fault has not been read, or has been but its cause goes on.
  bool is_changing() const;

  int fd() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }

 private:
  UniqueFd fd_;
};

// How many faults of a userfaultfd wait to be read: /proc/self/fdinfo/N, "pending:" (fs/userfaultfd.c,
// userfaultfd_show_fdinfo), which takes less time than asking whether there is a message and whether the address space
// is changing. Not for longer than the descriptor, which it knows by its number; takes one of its own when it is asked
// the first time. For one thread.
class PendingFaults {
 public:
  explicit PendingFaults(const Userfaultfd& userfaultfd) : of_(userfaultfd.fd()) {}
  // 0 also when it cannot be known.
  std::size_t count();

 private:
  int of_;
  UniqueFd fdinfo_;
};

// What the text says; nullopt: it does not say.
std::optional<std::size_t> parse_pending_faults(std::string_view fdinfo);

}  // namespace tidepool::kernel
