#include "bench/load/workload_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <string>
#include <utility>

namespace tidepool::load {
namespace {

// Linux 5.17; the packaged headers have it, the kernel may be built without (then EINVAL, and there is no name).
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

void name_mapping(std::span<std::byte> memory, const char* name) {
  ::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, memory.data(), memory.size(), name);
}

std::uintptr_t next_huge_boundary(const std::byte* address) {
  return (reinterpret_cast<std::uintptr_t>(address) + kHugePageSize - 1) & ~(kHugePageSize - 1);
}

Result<UniqueFd> open_backing(const MemoryRequest& request) {
  UniqueFd file;
  if (request.kind == MemoryKind::kMemfd) {
    file = UniqueFd{::memfd_create("tidepool-load", MFD_CLOEXEC)};
    if (!file.valid()) return errno_failure("create", "memfd");
  } else if (request.kind == MemoryKind::kTmpfs) {
    file = UniqueFd{::open(request.file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
    if (!file.valid()) return errno_failure("create", request.file);
  } else {
    return file;
  }
  if (::ftruncate(file.get(), static_cast<off_t>(request.size.value)) != 0)
    return errno_failure("size", "backing file");
  return file;
}

}  // namespace

void mark_as_bookkeeping(std::span<std::byte> memory) {
  name_mapping(memory, "tidepool-load-bookkeeping");
  ::madvise(memory.data(), memory.size(), MADV_DONTDUMP);
}

Result<WorkloadMemory> WorkloadMemory::create(const MemoryRequest& request) {
  auto room = Mapping::reserve(request.size + Bytes{kHugePageSize});
  if (!room) return Failure(room.error());
  WorkloadMemory result;
  result.kind_ = request.kind;
  result.size_ = request.size;
  result.reservation_ = std::move(*room);
  auto file = open_backing(request);
  if (!file) return Failure(file.error());
  result.file_ = std::move(*file);
  if (request.kind == MemoryKind::kTmpfs) result.path_ = request.file;

  // Room is left below, or the kernel would make one mapping of it and a thread's stack that ends there.
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address inside the reservation
  void* wanted = reinterpret_cast<void*>(next_huge_boundary(result.reservation_.data() + kPageSize));
  int flags = MAP_FIXED | (result.shared() ? MAP_SHARED : MAP_PRIVATE);
  if (!result.file_.valid()) flags |= MAP_ANONYMOUS;
  void* mapped = ::mmap(wanted, request.size.value, PROT_READ | PROT_WRITE, flags, result.file_.get(), 0);
  if (mapped == MAP_FAILED) return errno_failure("map", std::to_string(request.size.value) + " bytes");
  result.start_ = static_cast<std::byte*>(mapped);

  if (request.kind == MemoryKind::kPrivate) name_mapping({result.start_, request.size.value}, "tidepool-load");
  if (request.huge_pages) {
    const int advice = *request.huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
    if (::madvise(mapped, request.size.value, advice) != 0)
      return errno_failure("advise on huge pages", "workload memory");
  }
  return result;
}

WorkloadMemory::WorkloadMemory(WorkloadMemory&& other) noexcept
    : kind_(other.kind_),
      size_(other.size_),
      reservation_(std::move(other.reservation_)),
      start_(std::exchange(other.start_, nullptr)),
      file_(std::move(other.file_)),
      path_(std::exchange(other.path_, {})) {}

WorkloadMemory::~WorkloadMemory() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

AddressRange WorkloadMemory::range() const {
  const auto start = reinterpret_cast<std::uintptr_t>(start_);
  return {.start = start, .end = start + size_.value};
}

Result<> WorkloadMemory::discard(std::uint64_t first, PageCount pages) {
  const int advice = shared() ? MADV_REMOVE : MADV_DONTNEED;
  if (::madvise(page(first), to_bytes(pages).value, advice) != 0) return errno_failure("give back", "workload memory");
  return {};
}

Result<> WorkloadMemory::unmap_entries(std::uint64_t first, PageCount pages) {
  if (::madvise(page(first), to_bytes(pages).value, MADV_DONTNEED) != 0)
    return errno_failure("unmap", "workload memory");
  return {};
}

}  // namespace tidepool::load
