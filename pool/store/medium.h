// The memory under a store: a memfd, a file on tmpfs or hugetlbfs (or any other file system), or a DAX device.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::pool {

enum class MediumKind : std::uint8_t { kMemfd, kFile, kHugetlb, kDax };

// Maps the file shared and writable. Pages are populated when touched, even in a process that has called
// mlockall(MCL_FUTURE), and stay out of core dumps: they hold guests' memory.
Result<Mapping> map_for_store(int fd, Bytes length);

// Calls back with the ranges of a file of `length` that hold data; with all of it where the file system does not tell.
void for_each_extent(int fd, Bytes length, const std::function<void(Bytes first, Bytes end)>& visit);

// How much a store at `path` could hold at most: a DAX device's or a file's own size, this host's memory where there is
// none.
Result<Bytes> medium_size(const std::string& path, const kernel::KernelRoots& roots);

// How large to make a medium that has no size of its own.
struct MediumSize {
  Bytes needed;  // where all of it is reserved at once (hugetlbfs)
  Bytes most;    // where only what is populated costs anything
};

// Immutable after it is made; its methods are thread-safe.
class Medium {
 public:
  // `path` empty: a sealed memfd of `size`. A DAX device: `size` is ignored, the device's own counts. A file that
  // exists: its size when it has one, otherwise `size`; it must hold no data, and is locked against a second user. A
  // path that does not exist is created, and unlinked at once, so that nothing is left behind when its last holder
  // goes.
  static Result<Medium> create(const std::string& path, MediumSize size, const kernel::KernelRoots& roots);
  // Takes over the descriptor of a medium that another process made.
  static Result<Medium> adopt(UniqueFd fd, Bytes size, const kernel::KernelRoots& roots);

  MediumKind kind() const { return kind_; }
  int fd() const { return fd_.get(); }
  Bytes size() const { return Bytes{mapping_.size()}; }
  std::byte* data() const { return mapping_.data(); }
  // Whether single pages can be given back to the host, and read as zeros from then on. Where not, others can have none
  // of it, populated or not.
  bool can_punch() const { return kind_ == MediumKind::kMemfd || kind_ == MediumKind::kFile; }
  // Host DRAM that is reserved for it, populated or not: huge pages, by the mapping (mm/hugetlb.c
  // hugetlb_reserve_pages).
  Bytes set_aside() const { return kind_ == MediumKind::kHugetlb ? size() : Bytes{}; }
  // Gets the pages of the range from the host. An error, not a signal, when there are none left.
  Result<> populate(Bytes offset, Bytes length) const;
  // Gives the pages of the range back.
  Result<> punch(Bytes offset, Bytes length) const;
  // What the host counts for it now; all of it where the host does not count (DAX).
  Bytes populated() const;

 private:
  Result<> map(Bytes size);

  MediumKind kind_ = MediumKind::kMemfd;
  UniqueFd fd_;
  Mapping mapping_;
};

}  // namespace tidepool::pool
