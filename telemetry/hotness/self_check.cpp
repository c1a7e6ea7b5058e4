#include "telemetry/hotness/self_check.h"

#include <sys/mman.h>

namespace tidepool::telemetry {
namespace {

// So that nothing that looks at neighbours together (a region, a chunk, a page table's folio) mixes the two up.
constexpr std::uint64_t kGap = kHugePageSize;

}  // namespace

Result<SelfCheck> SelfCheck::create(Bytes each) {
  auto memory = Mapping::anonymous(each + Bytes{kGap} + each);
  if (!memory) return Failure{memory.error()};
  // One accessed bit for 512 pages could not tell the two apart; a kernel without huge pages refuses, rightly.
  ::madvise(memory->data(), memory->size(), MADV_NOHUGEPAGE);
  // Where all of this process is locked in memory: several methods leave locked memory out.
  ::munlock(memory->data(), memory->size());
  SelfCheck check{std::move(*memory), each};
  for (const AddressRange& range : {check.used(), check.idle()}) {
    for (std::uint64_t at = range.start; at < range.end; at += kPageSize) {
      *reinterpret_cast<volatile std::uint64_t*>(static_cast<std::uintptr_t>(at)) = at;
    }
  }
  return check;
}

AddressRange SelfCheck::stretch(std::uint64_t number) const {
  const auto start = reinterpret_cast<std::uintptr_t>(memory_.data()) + number * (each_.value + kGap);
  return {start, start + each_.value};
}

AddressRange SelfCheck::used() const {
  return stretch(0);
}

AddressRange SelfCheck::idle() const {
  return stretch(1);
}

void SelfCheck::touch() {
  const AddressRange range = used();
  // Accessed bits are cleared without a flush of the TLB; taking a right away and giving it back does flush, so that
  // the accesses below go through the page table, as the target's do sooner or later.
  void* const start = reinterpret_cast<void*>(static_cast<std::uintptr_t>(range.start));
  ::mprotect(start, range.size(), PROT_NONE);
  ::mprotect(start, range.size(), PROT_READ | PROT_WRITE);
  for (std::uint64_t at = range.start; at < range.end; at += kPageSize) {
    // Read and written: whichever of the two a tracker sees.
    auto* word = reinterpret_cast<volatile std::uint64_t*>(static_cast<std::uintptr_t>(at));
    *word = *word + 1;
  }
}

void SelfCheck::judge(bool used_was_seen, bool idle_was_seen) {
  ++judged_;
  if (used_was_seen && !idle_was_seen) {
    in_a_row_ = 0;
    return;
  }
  ++failures_;
  ++in_a_row_;
  missed_use_ = !used_was_seen;
}

std::string SelfCheck::verdict() const {
  return std::string("failed its self-check ") + std::to_string(in_a_row_) + " times in a row: memory that was " +
         (missed_use_ ? "touched was not seen so" : "left alone was seen touched");
}

}  // namespace tidepool::telemetry
