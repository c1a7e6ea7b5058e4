#include "telemetry/hotness/self_check.h"

#include <sys/mman.h>

namespace tidepool::telemetry {
namespace {

// So that nothing that looks at neighbours together (a region, a chunk, a page table's folio) mixes the two up.
constexpr std::uint64_t kGap = kHugePageSize;

// Reads and writes: whichever of the two a tracker sees.
void write_each_page(std::byte* start, Bytes size) {
  for (std::uint64_t at = 0; at < size.value; at += kPageSize) {
    auto* word = reinterpret_cast<volatile std::uint64_t*>(start + at);
    *word = *word + 1;
  }
}

}  // namespace

Result<SelfCheck> SelfCheck::create(Bytes each) {
  auto memory = Mapping::anonymous(each + Bytes{kGap} + each);
  if (!memory) return Failure{memory.error()};
  // One accessed bit for 512 pages could not tell the two apart; a kernel without huge pages refuses, rightly.
  ::madvise(memory->data(), memory->size(), MADV_NOHUGEPAGE);
  // Where all of this process is locked in memory: several methods leave locked memory out.
  ::munlock(memory->data(), memory->size());
  SelfCheck check{std::move(*memory), each};
  for (std::byte* const start : {check.stretch(0), check.stretch(1)}) write_each_page(start, each);
  return check;
}

std::byte* SelfCheck::stretch(std::uint64_t number) const {
  return memory_.data() + number * (each_.value + kGap);
}

AddressRange SelfCheck::range_of(std::uint64_t number) const {
  const auto start = reinterpret_cast<std::uintptr_t>(stretch(number));
  return {start, start + each_.value};
}

AddressRange SelfCheck::used() const {
  return range_of(0);
}

AddressRange SelfCheck::idle() const {
  return range_of(1);
}

void SelfCheck::touch() {
  // Accessed bits are cleared without a flush of the TLB; taking a right away and giving it back does flush, so that
  // the accesses below go through the page table, as the target's do sooner or later.
  ::mprotect(stretch(0), each_.value, PROT_NONE);
  ::mprotect(stretch(0), each_.value, PROT_READ | PROT_WRITE);
  write_each_page(stretch(0), each_);
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
