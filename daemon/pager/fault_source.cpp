#include "daemon/pager/fault_source.h"

#include <fcntl.h>

namespace tidepool::daemon {
namespace {

constexpr std::uint64_t kWantedFeatures =
    UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
    UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;

}  // namespace

Result<FaultSource> FaultSource::made_for_us(kernel::Userfaultfd userfaultfd) {
  if (auto offered = userfaultfd.handshake(kWantedFeatures); !offered) return Failure{offered.error()};
  return FaultSource{std::move(userfaultfd), kWantedFeatures};
}

Result<FaultSource> FaultSource::handed_off(kernel::Userfaultfd userfaultfd) {
  const auto agreed = userfaultfd.agreed_features();
  if (!agreed) return Failure{agreed.error()};
  // The kernel refuses to poll a blocking userfaultfd (fs/userfaultfd.c, userfaultfd_poll).
  const int flags = ::fcntl(userfaultfd.fd(), F_GETFL);
  if (flags < 0 || ::fcntl(userfaultfd.fd(), F_SETFL, flags | O_NONBLOCK) != 0)
    return errno_failure("make non-blocking", "a userfaultfd that was handed off");
  if (!*agreed) return made_for_us(std::move(userfaultfd));
  if ((**agreed & UFFD_FEATURE_SIGBUS) != 0) {
    return failure(std::errc::not_supported, "use", "a userfaultfd with UFFD_FEATURE_SIGBUS",
                   "make it without: a thread that touches a far page must wait, not be killed");
  }
  if ((**agreed & UFFD_FEATURE_WP_ASYNC) != 0) {
    return failure(std::errc::not_supported, "use", "a userfaultfd with UFFD_FEATURE_WP_ASYNC",
                   "make it without: the kernel then lifts write protection by itself");
  }
  return FaultSource{std::move(userfaultfd), **agreed};
}

}  // namespace tidepool::daemon
