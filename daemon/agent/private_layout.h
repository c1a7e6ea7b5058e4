// Private memory is managed mapping by mapping. A registration that ends in the middle of a mapping cuts it in two, and
// an mremap of the whole then fails, or moves one half before it fails (Linux 6.17, mm/mremap.c, remap_move): the
// process would be harmed. So nothing is registered that has changed since it was chosen, and what was registered is
// looked at once more.
#pragma once

#include <vector>

#include "base/result.h"
#include "daemon/vm/eligibility.h"
#include "kmod-interfaces/kernel_roots.h"
#include "kmod-interfaces/process.h"

namespace tidepool::daemon {

class PrivateLayout {
 public:
  // As the process has it now. EBUSY: one of the chosen private mappings is not what it was when it was chosen.
  static Result<PrivateLayout> of(const kernel::KernelRoots& roots, const ProcessFacts& facts);
  // EBUSY: the layout is another one by now; what was registered meanwhile may be a part of a mapping.
  Result<> check(const kernel::KernelRoots& roots, const ProcessFacts& facts) const;

 private:
  // Chosen mappings that follow each other, and whether other mappings touch them. One that newly does may be what a
  // registration cut off.
  struct Run {
    AddressRange range;
    bool touched_before;
    bool touched_behind;
    bool operator==(const Run&) const = default;
  };
  static Run run_of(const std::vector<kernel::MemoryMap>& maps, AddressRange range);

  std::vector<Run> runs_;
};

}  // namespace tidepool::daemon
