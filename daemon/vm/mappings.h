// Which memory of a process Tidepool takes care of, and why not the rest. Pure: decides on what was read, reads
// nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "kmod-interfaces/process.h"

namespace tidepool::daemon {

// Smaller mappings are not worth a registration each, unless they are asked for by address or name.
inline constexpr Bytes kSmallestMapping{1u << 20};

enum class MemoryKind : std::uint8_t {
  memfd,              // shared
  tmpfs_file,         // shared; System V segments too
  shared_anonymous,   // shared
  private_anonymous,  // the heap too
};
constexpr bool is_shared(MemoryKind kind) {
  return kind != MemoryKind::private_anonymous;
}
std::string_view name_of(MemoryKind kind);

enum class Exclusion : std::uint8_t {
  // Memory that could hold what it was selected for, but must not be touched.
  hugetlb,
  locked,
  userfaultfd,
  dax,
  alias_unmanageable,  // another mapping of the same memory must not be touched
  // Never ours.
  stack,
  special,
  device,
  file_private,
  file_shared,
  no_access,
  read_only,
  // A matter of choice.
  too_small,
  not_selected,
};
// One line that says why, for people.
std::string_view reason_of(Exclusion exclusion);
// Whether the memory was selected and is refused, rather than of no interest.
constexpr bool blocks(Exclusion exclusion) {
  return exclusion <= Exclusion::alias_unmanageable;
}

// What a person selects: "auto", "shared", "private", "all", "0xSTART-0xEND" or "path:GLOB" (over the names of
// /proc/PID/maps). A process that hands itself off selects `handed_off` regions: exactly these, although a userfaultfd
// (its own) watches them already.
struct MemorySelector {
  enum class Kind : std::uint8_t { automatic, shared, private_anonymous, all, range, path, handed_off };
  Kind kind = Kind::automatic;
  AddressRange range;                 // of Kind::range; multiples of the page size
  std::vector<AddressRange> regions;  // of Kind::handed_off; by address, apart, whole pages
  std::string glob;                   // of Kind::path; never matches memory that is nobody's to name, such as stacks
  Bytes at_least = kSmallestMapping;  // not for range, path and handed_off
};
Result<MemorySelector> parse_memory_selector(std::string_view text);

struct ManagedMapping {
  AddressRange range;
  MemoryKind kind = MemoryKind::private_anonymous;
  kernel::InodeId object;           // shared memory: the file; the same object may be mapped several times
  std::uint64_t object_offset = 0;  // of range.start
  std::string path;
  Bytes resident;  // of the whole mapping, when only a part of it was selected
  Bytes huge;      // of it in 2 MiB pages
  bool writable = true;
  bool alias = false;     // selected only because it shows memory that was selected elsewhere
  AddressRange within{};  // the mapping that it is, or is a part of
};

struct ExcludedMapping {
  AddressRange range;
  std::string path;
  Exclusion reason = Exclusion::not_selected;
  Bytes resident;
};

struct MappingChoice {
  std::vector<ManagedMapping> chosen;     // by address
  std::vector<ExcludedMapping> blocked;   // selected, but blocks(reason)
  std::vector<ExcludedMapping> excluded;  // the rest, by address

  // Address space chosen, each object's pages counted once per mapping that is not an alias.
  Bytes total() const;
  Bytes blocked_by(Exclusion reason) const;
  bool has_private() const;
  // The files behind shared mappings that were chosen, once each.
  std::vector<kernel::InodeId> objects() const;
};

struct MappingInputs {
  std::span<const kernel::MappingUsage> mappings;  // all of the process, as smaps lists them
  std::span<const kernel::Mount> mounts;           // the process's own
  std::span<const std::uint64_t> stack_pointers;   // of its threads, where known
  std::string_view executable;
  std::span<const std::string> command_line;
};

// automatic: a hypervisor's guest RAM (whatever has a size that its command line names, and what is at least half as
// large as the largest of those, or as the largest mapping where no size is named; never code); else the shared memory
// when there is as much of it as there is private memory resident, else the private memory. Memory that is mapped twice
// is chosen in all its places or in none.
MappingChoice choose_mappings(const MappingInputs& inputs, const MemorySelector& selector);

// Sizes that QEMU's or Cloud Hypervisor's command line gives to guest memory.
std::vector<Bytes> guest_memory_sizes(std::span<const std::string> command_line);

}  // namespace tidepool::daemon
