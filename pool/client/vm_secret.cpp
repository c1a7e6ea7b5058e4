#include "pool/client/vm_secret.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "pool/store/crc32c.h"

namespace tidepool::pool {
namespace {

constexpr char kSecretMagic[8] = {'T', 'D', 'S', 'E', 'C', 'R', 'E', 'T'};
constexpr std::uint32_t kSecretByteOrder = 0x01020304;
constexpr std::uint32_t kAes256Gcm = 1;
constexpr const char* kSecret = "secret of a VM";

// memfd_secret(2), Linux 5.14; the packaged headers of Debian 12 know the number, glibc has no wrapper.
constexpr long kMemfdSecret = 447;
constexpr long kSecretMagicOfStatfs = 0x5345434d;

Failure secret_refused(const char* why) {
  return failure(std::errc::invalid_argument, "open", kSecret, why);
}

constexpr std::uint64_t with_complement(std::uint64_t incarnation) {
  return incarnation | (~incarnation & 0xffffffffull) << 32;
}

bool is_hidden(int fd) {
  struct statfs where {};
  return ::fstatfs(fd, &where) == 0 && where.f_type == kSecretMagicOfStatfs;
}

}  // namespace

std::uint32_t VmSecret::checksum(const Layout& layout) {
  return crc32c(std::as_bytes(std::span(&layout, 1)).first(offsetof(Layout, crc)));
}

Result<std::unique_ptr<VmSecret>> VmSecret::map(UniqueFd fd, bool hidden) {
  auto mapping = Mapping::of_file(fd.get(), Bytes{kPageSize}, Bytes{}, PROT_READ | PROT_WRITE, MAP_SHARED);
  if (!mapping) return Failure{mapping.error()};
  if (!hidden) {
    if (::mlock(mapping->data(), kPageSize) != 0)
      return errno_failure("lock", kSecret, "raise LimitMEMLOCK: a key must not be swapped out");
    if (::madvise(mapping->data(), kPageSize, MADV_DONTDUMP) != 0) return errno_failure("keep from dumps", kSecret);
  }
  return std::unique_ptr<VmSecret>(new VmSecret(std::move(fd), std::move(*mapping), hidden));
}

Result<std::unique_ptr<VmSecret>> VmSecret::create() {
  UniqueFd fd{static_cast<int>(::syscall(kMemfdSecret, O_CLOEXEC))};
  const bool hidden = fd.valid();
  if (!hidden) fd = UniqueFd{::memfd_create("tidepool-vm-secret", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!fd.valid()) return errno_failure("create", kSecret);
  if (::ftruncate(fd.get(), kPageSize) != 0) return errno_failure("size", kSecret);
  if (!hidden && ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return errno_failure("seal", kSecret);
  auto secret = map(std::move(fd), hidden);
  if (!secret) return secret;
  Layout& layout = (*secret)->layout();
  if (::getrandom(layout.key.data(), layout.key.size(), 0) != static_cast<ssize_t>(layout.key.size()))
    return errno_failure("make the key of", kSecret);
  std::memcpy(layout.magic, kSecretMagic, sizeof(kSecretMagic));
  layout.byte_order = kSecretByteOrder;
  layout.layout_version = kSecretLayoutVersion;
  layout.bytes = sizeof(Layout);
  layout.cipher = kAes256Gcm;
  layout.reserved = 0;
  layout.crc = checksum(layout);
  layout.incarnation = with_complement(0);
  return secret;
}

Result<> VmSecret::check() const {
  const Layout& layout = this->layout();
  if (std::memcmp(layout.magic, kSecretMagic, sizeof(kSecretMagic)) != 0)
    return secret_refused("it holds no key, or one that was wiped");
  if (layout.byte_order != kSecretByteOrder)
    return secret_refused("it was written by a machine of the other byte order");
  if (layout.layout_version != kSecretLayoutVersion)
    return secret_refused("its layout version is another one: use the program that wrote it");
  if (layout.bytes != sizeof(Layout) || layout.crc != checksum(layout)) return secret_refused("it is damaged");
  if (layout.cipher != kAes256Gcm) return secret_refused("its key is for a cipher that this program does not know");
  const std::uint64_t word = layout.incarnation;
  if (word != with_complement(word & 0xffffffffull) || (word & 0xffffffffull) > kMostIncarnations)
    return secret_refused("its incarnation is damaged");
  return {};
}

Result<std::unique_ptr<VmSecret>> VmSecret::open(UniqueFd fd) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return errno_failure("inspect", kSecret);
  const bool hidden = is_hidden(fd.get());
  if (!hidden) {
    const int seals = ::fcntl(fd.get(), F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return secret_refused("it is not a sealed memfd");
  }
  if (static_cast<std::uint64_t>(status.st_size) != kPageSize) return secret_refused("its size is wrong");
  auto secret = map(std::move(fd), hidden);
  if (!secret) return secret;
  if (auto sound = (*secret)->check(); !sound) return Failure{sound.error()};
  (*secret)->highest_inherited_ =
      static_cast<std::uint64_t>((*secret)->incarnation()) << kCounterBits | ((1ull << kCounterBits) - 1);
  return secret;
}

std::uint32_t VmSecret::incarnation() const {
  return static_cast<std::uint32_t>(std::atomic_ref(layout().incarnation).load(std::memory_order_acquire));
}

bool VmSecret::record(std::uint64_t incarnation) {
  const std::lock_guard lock(recording_);
  if (incarnation > kMostIncarnations) return false;
  if (incarnation > this->incarnation())
    std::atomic_ref(layout().incarnation).store(with_complement(incarnation), std::memory_order_seq_cst);
  return true;
}

Result<> VmSecret::advance() {
  if (auto sound = check(); !sound) return sound;
  const std::uint64_t incarnation = this->incarnation() + 1ull;
  if (usable_.load() || !record(incarnation))
    return failure(std::errc::value_too_large, "begin an incarnation of", kSecret,
                   "it has had them all: release the VM and adopt it anew");
  next_.store((incarnation << kCounterBits) + 1);
  usable_.store(true, std::memory_order_release);
  return {};
}

std::uint64_t VmSecret::next_version() {
  if (!usable_.load(std::memory_order_acquire)) return 0;
  const std::uint64_t version = next_.fetch_add(1, std::memory_order_relaxed);
  const std::uint64_t incarnation = version >> kCounterBits;
  if (incarnation == this->incarnation()) return version;
  if (incarnation != 0 && record(incarnation)) return version;
  usable_.store(false, std::memory_order_release);
  return 0;
}

void VmSecret::wipe() {
  usable_.store(false, std::memory_order_release);
  OPENSSL_cleanse(mapping_.data(), kPageSize);
}

}  // namespace tidepool::pool
