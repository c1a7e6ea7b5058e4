// The key that one VM's pages are sealed with, and the versions that they are sealed under: state that outlives the
// agent and that never leaves the host nor reaches a disk (docs/layout.md).
//
// It lies in memory that the kernel locks and hides from every other access (memfd_secret) or, where there is none, in
// a memfd that is locked while it is mapped. Whoever must keep it for a successor holds its descriptor.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "pool/client/sealer.h"

namespace tidepool::pool {

inline constexpr std::uint32_t kSecretLayoutVersion = 1;
inline constexpr std::uint32_t kMostIncarnations = (1u << (64 - kCounterBits)) - 1;

class VmSecret {
 public:
  // A new key, from the kernel's random numbers.
  static Result<std::unique_ptr<VmSecret>> create();
  // What a predecessor left. Refused when it is damaged, of another layout, or used up: what was sealed with it cannot
  // be read then, and nothing else may be tried.
  static Result<std::unique_ptr<VmSecret>> open(UniqueFd fd);

  // Begins an incarnation, recorded before this returns: versions of this object are higher than all that any
  // predecessor can have used. Once, before the key is used. Fails when 2^24 - 1 incarnations have been.
  Result<> advance();

  // Null until advance() has succeeded, and after wipe().
  const SealKey* key() const { return usable_.load(std::memory_order_acquire) ? &layout().key : nullptr; }
  // The next version, never given before; 0 when there is none (not advanced, used up): nothing may be sealed then.
  // Any thread. After 2^40 of them the next incarnation begins by itself.
  std::uint64_t next_version();
  // The highest version that a predecessor can have used: any above it that stands in a table is wrong.
  std::uint64_t highest_inherited() const { return highest_inherited_; }
  std::uint32_t incarnation() const;

  int fd() const { return fd_.get(); }
  // Whether the kernel keeps it off the disk also while no process has it mapped.
  bool hidden() const { return hidden_; }

  // The VM's life is over: overwritten for everybody who holds the descriptor. No thread may be using the key.
  void wipe();

 private:
  struct Layout {
    char magic[8];  // "TDSECRET"
    std::uint32_t byte_order;
    std::uint32_t layout_version;
    std::uint32_t bytes;
    std::uint32_t cipher;  // 1: AES-256-GCM
    SealKey key;
    std::uint32_t reserved;
    std::uint32_t crc;          // CRC32C of everything before it
    std::uint64_t incarnation;  // and, in the upper half, its complement: one store changes both
  };
  static_assert(sizeof(Layout) == 72);

  VmSecret(UniqueFd fd, Mapping mapping, bool hidden)
      : fd_(std::move(fd)), mapping_(std::move(mapping)), hidden_(hidden) {}
  static Result<std::unique_ptr<VmSecret>> map(UniqueFd fd, bool hidden);
  static std::uint32_t checksum(const Layout& layout);
  Result<> check() const;
  Layout& layout() const { return *reinterpret_cast<Layout*>(mapping_.data()); }
  // Records that versions of `incarnation` may be in use from now on.
  bool record(std::uint64_t incarnation);

  UniqueFd fd_;
  Mapping mapping_;
  const bool hidden_;
  std::uint64_t highest_inherited_ = 0;
  std::atomic<bool> usable_{false};
  std::atomic<std::uint64_t> next_{0};
  std::mutex recording_;
};

}  // namespace tidepool::pool
