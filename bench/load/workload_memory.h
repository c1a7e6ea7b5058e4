// The memory that the workload works on, of the kind that was asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace tidepool::load {

enum class MemoryKind : std::uint8_t { kPrivate, kMemfd, kTmpfs, kSharedAnonymous };

struct MemoryRequest {
  MemoryKind kind = MemoryKind::kPrivate;
  Bytes size;
  std::optional<bool> huge_pages;  // nothing: as the system has it
  std::string file;                // kTmpfs: the file to make, removed at the end
};

// Starts on a 2 MiB boundary. The private kind is named "tidepool-load" in /proc/PID/maps where the kernel can
// (CONFIG_ANON_VMA_NAME).
class WorkloadMemory {
 public:
  static Result<WorkloadMemory> create(const MemoryRequest& request);
  WorkloadMemory(WorkloadMemory&& other) noexcept;
  WorkloadMemory& operator=(WorkloadMemory&&) = delete;
  ~WorkloadMemory();

  AddressRange range() const;
  PageCount pages() const { return whole_pages(size_); }
  std::byte* page(std::uint64_t index) const { return start_ + index * kPageSize; }
  int file() const { return file_.get(); }  // behind shared memory; -1: none
  bool shared() const { return kind_ != MemoryKind::kPrivate; }

  // Gives pages back to the kernel so that they read as zero: MADV_DONTNEED on private memory, a punched hole on shared
  // memory.
  Result<> discard(std::uint64_t first, PageCount pages);
  // MADV_DONTNEED on shared memory drops this process's page tables only: the contents stay.
  Result<> unmap_entries(std::uint64_t first, PageCount pages);

 private:
  WorkloadMemory() = default;

  MemoryKind kind_ = MemoryKind::kPrivate;
  Bytes size_;
  Mapping reservation_;  // the aligned memory and inaccessible address space around it
  std::byte* start_ = nullptr;
  UniqueFd file_;
  std::string path_;  // of the file to remove; empty when there is none
};

// For the workload's own tables: a name of their own where the kernel can, and left out of core dumps ("dd" in smaps),
// so that nobody takes them for the workload's memory.
void mark_as_bookkeeping(std::span<std::byte> memory);

}  // namespace tidepool::load
