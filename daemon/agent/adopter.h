// Adoption and release, whole: from a pid to served memory, and back to a process as it was found.
//
// Every step that fails undoes the ones before it. Blocking (milliseconds to minutes): for operation threads only.
#pragma once

#include <memory>

#include "daemon/agent/context.h"
#include "daemon/agent/operations.h"
#include "daemon/vm/eligibility.h"

namespace tidepool::daemon {

class Adopter {
 public:
  explicit Adopter(Context& context) : context_(context) {}

  // What adoption would do.
  Result<AdoptOutcome> check(const AdoptRequest& request);
  Result<std::shared_ptr<ManagedVm>> adopt(const AdoptRequest& request, const Operations::Handle& handle);
  // Settings as the rules and defaults give them, and as the request changes them.
  VmPolicy settings_for(const std::string& name, const std::string& exe, Bytes promised,
                        const VmSettings& changes) const;

  Result<> release(const std::shared_ptr<ManagedVm>& vm, const Operations::Handle* handle);
  // The process ended by itself: forget it.
  void bury(const std::shared_ptr<ManagedVm>& vm);

 private:
  struct Candidate {
    ProcessFacts facts;
    Eligibility verdict;
    std::vector<kernel::MemoryHolder> family;
    std::vector<std::string> command_line;
  };
  struct Taken;

  Result<pid_t> find_process(const AdoptRequest& request) const;
  Result<Candidate> inspect(const AdoptRequest& request);
  Result<VmSpec> describe(const Candidate& candidate, Taken& taken);
  Result<SpaceSpec> space_of(const ProcessIdentity& id, std::vector<MappingSpec> mappings, bool needs_ring,
                             Taken& taken);
  Result<> hold(const std::shared_ptr<ManagedVm>& vm);
  void undo(Taken& taken);
  void count(const Candidate& candidate, bool succeeded);

  Context& context_;
};

}  // namespace tidepool::daemon
