#include "daemon/pager/pager.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <future>

#include "base/byte_budget.h"
#include "daemon/pager/fault_source.h"
#include "kmod-interfaces/kernel_features.h"
#include "kmod-interfaces/kernel_roots.h"
#include "kmod-interfaces/process.h"
#include "kmod-interfaces/process_memory.h"

namespace tidepool::daemon {
namespace {

// MINOR on shared memory is not for speed: without it a failed split of a 2 MiB page leaves zeros that nobody is told
// of.
constexpr std::uint64_t kSharedModes =
    UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR;
constexpr std::uint64_t kPrivateModes = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;
constexpr unsigned kMaxFaultThreads = 64;

// How far an object may outgrow what it had at adoption.
PageCount room_for(PageCount initial) {
  return PageCount{std::max<std::uint64_t>(initial.value * 4, (64ull << 30) >> kPageShift)};
}

std::string held_name(const PagedVm& vm, const char* what, std::uint64_t number) {
  return "vm/" + vm.name + "/" + what + "/" + std::to_string(number);
}

class PagerImpl final : public Pager {
 public:
  PagerImpl(const PagerConfig& config, PagerHooks hooks, const Clock& clock)
      : config_(config), hooks_(std::move(hooks)), clock_(clock) {
    config_.loop.own_accord = own_accord_;
  }
  ~PagerImpl() override { stop(); }

  Result<> start() {
    const unsigned threads = std::clamp(config_.fault_threads, 1u, kMaxFaultThreads);
    for (unsigned i = 0; i < threads; ++i) {
      auto loop = start_fault_loop("fault-" + std::to_string(i), config_.loop, loop_hooks(), clock_);
      if (!loop) return Failure{loop.error()};
      loops_.push_back(std::move(*loop));
    }
    auto demoter = start_demoter(
        config_.demoter, [this](PagedVm& vm) -> FaultLoop& { return loop_of(vm); }, clock_);
    if (!demoter) return Failure{demoter.error()};
    demoter_ = std::move(*demoter);
    return {};
  }

  Result<std::shared_ptr<PagedVm>> prepare(VmSpec spec) override;
  std::vector<DescriptorToHold> descriptors(const PagedVm& vm) const override;
  Result<> activate(const std::shared_ptr<PagedVm>& vm) override;
  Result<> extend(const std::shared_ptr<PagedVm>& vm, std::span<const MappingSpec> mappings) override;
  void release(const std::shared_ptr<PagedVm>& vm, std::function<void(Result<>)> done) override;
  std::size_t arm_samples(PagedVm& vm, MemoryObject& object, std::span<const PageIndex> pages) override;
  bool sampling_sees_reads(const MemoryObject& object) const override;

  bool demote(const std::shared_ptr<PagedVm>& vm, RegionToDemote region) override {
    return vm->movable && demoter_->demote(vm, region);
  }
  void restore(const std::shared_ptr<PagedVm>& vm, MemoryObject* object, std::vector<PageRun> runs, RestoreKind kind,
               std::function<void(std::uint64_t)> done) override {
    loop_of(*vm).restore(vm, object, std::move(runs), kind, std::move(done));
  }
  void bound_restores(Bytes per_second) override { own_accord_->set(per_second); }
  void halt(Halt what) override {
    demoter_->freeze_host(what != Halt::kNothing);
    for (const auto& loop : loops_) loop->halt(what == Halt::kEverything);
  }
  void abandon(const std::shared_ptr<PagedVm>& vm) override { demoter_->abandon(vm); }
  bool lets_go() const override {
    return std::ranges::any_of(loops_, [](const auto& loop) { return loop->drains(); });
  }
  std::uint64_t heartbeat() const override {
    std::uint64_t slowest = ~0ull;
    for (const auto& loop : loops_) slowest = std::min(slowest, loop->passes());
    return slowest;
  }
  std::size_t demotions_queued() const override { return demoter_->queued(); }
  Bytes buffers() const override {
    Bytes sum = demoter_->buffers();
    for (const auto& loop : loops_) sum += loop->buffers();
    return sum;
  }
  void stop() override {
    if (demoter_ != nullptr) demoter_->stop();
    for (const auto& loop : loops_) loop->stop();
  }

 private:
  FaultLoop& loop_of(const PagedVm& vm) { return *loops_[vm.id.value % loops_.size()]; }
  FaultLoopHooks loop_hooks();
  static std::vector<DescriptorToHold> descriptors_of(const PagedVm& vm, const AddressSpace& space);
  void learn_residence(MemoryObject& object, const AddressSpace& space, const Segment& segment);
  Result<> register_segment(AddressSpace& space, const Segment& segment);
  void unregister_all(PagedVm& vm);
  void finish_release(const std::shared_ptr<PagedVm>& vm, std::function<void(Result<>)> done);

  const std::shared_ptr<ByteBudget> own_accord_ = std::make_shared<ByteBudget>(Bytes{});
  PagerConfig config_;
  const PagerHooks hooks_;
  const Clock& clock_;
  std::vector<std::unique_ptr<FaultLoop>> loops_;
  std::unique_ptr<Demoter> demoter_;
  std::atomic<std::uint32_t> next_vm_{1};
};

FaultLoopHooks PagerImpl::loop_hooks() {
  FaultLoopHooks hooks;
  hooks.hold_child = [this](PagedVm& vm, AddressSpace& child, std::function<void()> held) {
    if (!hooks_.hold) return held();
    hooks_.hold(vm, descriptors_of(vm, child), std::move(held));
  };
  hooks.space_gone = [this](PagedVm& vm, AddressSpace& space) {
    if (!hooks_.let_go) return;
    std::vector<std::string> names;
    for (DescriptorToHold& descriptor : descriptors_of(vm, space)) names.push_back(std::move(descriptor.name));
    hooks_.let_go(vm, std::move(names));
  };
  hooks.out_of_memory = hooks_.out_of_memory;
  hooks.integrity_failure = hooks_.integrity_failure;
  hooks.child_lost = hooks_.child_lost;
  hooks.vm_gone = [this](PagedVm& vm) {
    if (hooks_.vm_gone) hooks_.vm_gone(vm);
  };
  return hooks;
}

Result<std::shared_ptr<PagedVm>> PagerImpl::prepare(VmSpec spec) {
  auto vm = std::make_shared<PagedVm>();
  vm->id = VmId{next_vm_++};
  vm->name = spec.name;
  vm->store = std::move(spec.store);
  vm->keep_clean_copies = spec.keep_clean_copies;
  vm->shared_remove_discards = spec.shared_remove_discards;
  vm->fixed_memory = spec.fixed_memory;
  vm->movable = spec.movable;
  // Pages of an object, by its first mention: several processes may show the same stretch of a file.
  struct Extent {
    std::uint64_t file_offset;
    std::uint64_t pages;
    PageIndex first;
  };
  std::vector<std::vector<Extent>> extents(spec.objects.size());
  std::vector<std::uint64_t> totals(spec.objects.size());
  for (const SpaceSpec& space : spec.spaces) {
    for (const MappingSpec& mapping : space.mappings) {
      if (mapping.object >= spec.objects.size() || mapping.addresses.empty() ||
          mapping.addresses.start % kPageSize != 0 || mapping.addresses.end % kPageSize != 0 ||
          mapping.file_offset % kPageSize != 0) {
        return failure(std::errc::invalid_argument, "enrol", spec.name,
                       "mappings must be whole pages of a known object");
      }
      if (spec.movable && !spec.objects[mapping.object].shared && space.ring == nullptr) {
        return failure(std::errc::invalid_argument, "enrol", spec.name,
                       "private memory needs a drop ring in the process");
      }
      totals[mapping.object] += mapping.addresses.size() >> kPageShift;
    }
  }
  for (std::size_t i = 0; i < spec.objects.size(); ++i) {
    auto object = std::make_unique<MemoryObject>();
    object->number = vm->next_object++;
    object->shared = spec.objects[i].shared;
    object->file = std::move(spec.objects[i].file);
    auto map = PageMap::create("tidepool-pages", room_for(PageCount{totals[i]}), object->shared);
    if (!map) return Failure{map.error()};
    object->map = std::move(*map);
    vm->objects.push_back(std::move(object));
  }
  for (SpaceSpec& spec_space : spec.spaces) {
    auto space = std::make_shared<AddressSpace>();
    space->number = vm->next_space++;
    space->pid = spec_space.pid;
    space->pidfd = std::move(spec_space.pidfd);
    space->ring = std::move(spec_space.ring);
    space->fixed = spec.fixed_memory;
    auto source = spec_space.handed_off ? FaultSource::handed_off(std::move(spec_space.userfaultfd))
                                        : FaultSource::made_for_us(std::move(spec_space.userfaultfd));
    if (!source) return Failure{source.error()};
    space->userfaultfd = std::move(source->userfaultfd);
    space->features = source->features;
    auto pagemap = kernel::Pagemap::open(space->pid);
    if (!pagemap) return Failure{pagemap.error()};
    space->pagemap = std::move(*pagemap);
    std::vector<Segment> segments;
    for (const MappingSpec& mapping : spec_space.mappings) {
      MemoryObject& object = *vm->objects[mapping.object];
      const std::uint64_t pages = mapping.addresses.size() >> kPageShift;
      std::vector<Extent>& known = extents[mapping.object];
      const auto same = std::find_if(known.begin(), known.end(), [&](const Extent& extent) {
        return object.shared && mapping.file_offset >= extent.file_offset &&
               mapping.file_offset + pages * kPageSize <= extent.file_offset + extent.pages * kPageSize;
      });
      PageIndex first;
      if (same != known.end()) {
        first = PageIndex{same->first.value + ((mapping.file_offset - same->file_offset) >> kPageShift)};
      } else {
        auto appended = object.map->append(PageCount{pages}, mapping.addresses.start >> kPageShift);
        if (!appended) return Failure{appended.error()};
        first = *appended;
        known.push_back({mapping.file_offset, pages, first});
        if (object.shared) object.extents.push_back({first.value, pages, mapping.file_offset});
      }
      segments.push_back({mapping.addresses, &object, first, mapping.file_offset});
    }
    space->set_segments(SegmentTable{std::move(segments)});
    vm->add_space(std::move(space));
  }
  return vm;
}

// Drop rings are not among them: the kernel passes no io_uring descriptor over sockets (Linux 6.7), and a successor can
// place a new one. A page whose drop was under way has its copy in the store already.
std::vector<DescriptorToHold> PagerImpl::descriptors(const PagedVm& vm) const {
  std::vector<DescriptorToHold> list;
  for (const auto& object : vm.objects) {
    list.push_back({held_name(vm, "pages", object->number), object->map->descriptor()});
    if (object->file.valid()) list.push_back({held_name(vm, "memory", object->number), object->file.get()});
  }
  for (const auto& space : vm.spaces()) {
    for (DescriptorToHold& descriptor : descriptors_of(vm, *space)) list.push_back(std::move(descriptor));
  }
  return list;
}

// What goes with one address space.
std::vector<DescriptorToHold> PagerImpl::descriptors_of(const PagedVm& vm, const AddressSpace& space) {
  std::vector<DescriptorToHold> list;
  list.push_back({held_name(vm, "userfaultfd", space.number), space.userfaultfd.fd()});
  if (space.pidfd.valid()) list.push_back({held_name(vm, "process", space.number), space.pidfd.get()});
  for (const auto& object : space.forked_objects)
    list.push_back({held_name(vm, "pages", object->number), object->map->descriptor()});
  return list;
}

Result<> PagerImpl::register_segment(AddressSpace& space, const Segment& segment) {
  return space.userfaultfd.register_range(segment.addresses, segment.object->shared ? kSharedModes : kPrivateModes);
}

Result<> PagerImpl::activate(const std::shared_ptr<PagedVm>& vm) {
  // Serve before registering: from the first registered page on, the process may wait for us.
  loop_of(*vm).add(vm);
  std::size_t registered = 0;
  Error vanished;
  for (const auto& space : vm->spaces()) {
    const auto table = space->segments();
    for (const Segment& segment : table->all()) {
      auto outcome = register_segment(*space, segment);
      if (outcome) {
        ++registered;
        continue;
      }
      const Error error = outcome.error();
      // Unmapped or moved since the process was looked at: whatever is there now is found as growth.
      if (error.code == std::errc::invalid_argument) {
        loop_of(*vm).forget_memory(vm, space, segment.addresses);
        vanished = error;
        continue;
      }
      unregister_all(*vm);
      loop_of(*vm).remove(vm, [] {});
      return Failure{error};
    }
  }
  if (registered == 0) {
    loop_of(*vm).remove(vm, [] {});
    vanished.remedy = "its memory has changed since it was looked at: try again";
    return Failure{vanished};
  }
  for (const auto& space : vm->spaces()) {
    const auto table = space->segments();
    for (const Segment& segment : table->all()) learn_residence(*segment.object, *space, segment);
  }
  return {};
}

// What is present now is resident; what was touched meanwhile has been answered as a first touch and is marked already.
void PagerImpl::learn_residence(MemoryObject& object, const AddressSpace& space, const Segment& segment) {
  const auto mark = [&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t page = first; page < end; ++page) {
      PageEntry untouched;
      object.map->exchange(PageIndex{page}, untouched, PageEntry::plain(PageState::kResident));
    }
  };
  if (object.shared) {
    // The page cache, not the page tables: memory that this process has not mapped yet costs the host all the same.
    const auto limit = static_cast<off_t>(segment.file_offset + segment.addresses.size());
    off_t at = static_cast<off_t>(segment.file_offset);
    while (at < limit) {
      const off_t data = ::lseek(object.file.get(), at, SEEK_DATA);
      if (data < 0 || data >= limit) return;
      off_t hole = ::lseek(object.file.get(), data, SEEK_HOLE);
      if (hole < 0 || hole > limit) hole = limit;
      const std::uint64_t from =
          segment.first.value + ((static_cast<std::uint64_t>(data) - segment.file_offset) >> kPageShift);
      mark(from, from + ((static_cast<std::uint64_t>(hole - data) + kPageSize - 1) >> kPageShift));
      at = hole;
    }
    return;
  }
  // What cannot be looked at is not known to be there: it is served when it is touched, and never demoted.
  (void)space.pagemap.for_each(segment.addresses, kernel::uapi::kPageIsPresent | kernel::uapi::kPageIsSwapped,
                               [&](const kernel::uapi::page_region& seen) {
                                 mark(segment.page_at(seen.start).value,
                                      segment.page_at(seen.end - kPageSize).value + 1);
                               });
}

Result<> PagerImpl::extend(const std::shared_ptr<PagedVm>& vm, std::span<const MappingSpec> mappings) {
  const auto spaces = vm->spaces();
  if (spaces.empty() || vm->releasing) return failure(std::errc::no_such_process, "extend", vm->name);
  const auto& space = spaces.front();
  std::vector<Segment> segments;
  for (const MappingSpec& mapping : mappings) {
    if (mapping.object >= vm->objects.size()) return failure(std::errc::invalid_argument, "extend", vm->name);
    MemoryObject& object = *vm->objects[mapping.object];
    auto first =
        object.map->append(PageCount{mapping.addresses.size() >> kPageShift}, mapping.addresses.start >> kPageShift);
    if (!first) return Failure{first.error()};
    segments.push_back({mapping.addresses, &object, *first, mapping.file_offset});
  }
  std::promise<Result<>> outcome;
  std::vector<Segment> added;
  loop_of(*vm).add_segments(vm, space, segments, [&](std::span<const Segment> fresh) -> Result<> {
    Result<> registered;
    for (const Segment& segment : fresh) {
      if (registered) registered = register_segment(*space, segment);
    }
    for (const Segment& segment : fresh) {
      if (!registered) (void)space->userfaultfd.unregister_range(segment.addresses);
    }
    added.assign(fresh.begin(), fresh.end());
    outcome.set_value(registered);
    return registered;
  });
  if (auto registered = outcome.get_future().get(); !registered) return registered;
  for (const Segment& segment : added) learn_residence(*segment.object, *space, segment);
  return {};
}

// Unregistering lifts protection too, and wakes everybody. It fails when the mapping is gone by now: then there is
// nothing to undo.
void PagerImpl::unregister_all(PagedVm& vm) {
  for (const auto& space : vm.spaces()) {
    const auto table = space->segments();
    std::vector<AddressRange> may_move;
    for (const Segment& segment : table->all()) {
      (void)space->userfaultfd.write_protect(segment.addresses, false);
      if (segment.object->shared || space->fixed) {
        (void)space->userfaultfd.unregister_range(segment.addresses);
      } else if (!may_move.empty() && may_move.back().end == segment.addresses.start) {
        may_move.back().end = segment.addresses.end;
      } else {
        may_move.push_back(segment.addresses);
      }
    }
    if (may_move.empty()) continue;
    // A part of a mapping that was moved here meanwhile must not be cut off (an mremap of it would fail half way): the
    // end of the descriptor lets go of it as a whole.
    const auto process = kernel::Process::open(kernel::KernelRoots{}, space->pid);
    if (!process) continue;
    const auto maps = process->maps();
    if (!maps) continue;
    for (const AddressRange& range : may_move) {
      if (kernel::are_whole_mappings(*maps, range)) (void)space->userfaultfd.unregister_range(range);
    }
  }
}

void PagerImpl::release(const std::shared_ptr<PagedVm>& vm, std::function<void(Result<>)> done) {
  vm->releasing = true;
  demoter_->drain(vm, [this, vm, done = std::move(done)]() mutable {
    loop_of(*vm).post([this, vm, done = std::move(done)]() mutable { finish_release(vm, std::move(done)); });
  });
}

// Runs on the VM's loop: every object of the VM and of its forked children comes home, then the registration goes.
void PagerImpl::finish_release(const std::shared_ptr<PagedVm>& vm, std::function<void(Result<>)> done) {
  struct Progress {
    std::size_t waiting = 0;
    std::uint64_t left = 0;
    std::function<void(Result<>)> done;
  };
  auto progress = std::make_shared<Progress>();
  progress->done = std::move(done);
  std::vector<MemoryObject*> objects;
  for (const auto& object : vm->objects) objects.push_back(object.get());
  for (const auto& space : vm->spaces()) {
    for (const auto& object : space->forked_objects) objects.push_back(object.get());
  }
  progress->waiting = objects.size();
  const auto one_home = [this, vm, progress](std::uint64_t left) {
    progress->left += left;
    if (--progress->waiting != 0) return;
    // A fork meanwhile may have made a child with far pages of its own.
    const auto any_far = [](const MemoryObject& object) {
      return object.map->count(PageState::kFar) + object.map->count(PageState::kFetching) +
                 object.map->count(PageState::kDropping) !=
             0;
    };
    bool more = false;
    for (const auto& space : vm->spaces()) {
      for (const auto& object : space->forked_objects) more = more || (space->alive && any_far(*object));
    }
    if (progress->left == 0 && more && !vm->dead) {
      finish_release(vm, std::move(progress->done));
      return;
    }
    if (progress->left != 0 && !vm->dead) {
      vm->releasing = false;
      progress->done(failure(std::errc::resource_unavailable_try_again,
                             "bring home " + std::to_string(progress->left) + " pages of", vm->name,
                             "the store does not return them now, or the process is stopped; it stays served"));
      return;
    }
    unregister_all(*vm);
    loop_of(*vm).remove(vm, [progress] { progress->done(Result<>{}); });
  };
  for (MemoryObject* object : objects) {
    loop_of(*vm).restore(vm, object, {PageRun{PageIndex{0}, object->map->pages().value}}, RestoreKind::kAsked,
                         one_home);
  }
}

// MADV_PAGEOUT takes a page of a file out of the page tables; where there is swap, out of memory as well.
bool PagerImpl::sampling_sees_reads(const MemoryObject& object) const {
  return object.shared && kernel::read_swap(config_.roots).empty();
}

std::size_t PagerImpl::arm_samples(PagedVm& vm, MemoryObject& object, std::span<const PageIndex> pages) {
  std::size_t armed = 0;
  const bool unmaps = sampling_sees_reads(object);
  for (const auto& space : vm.spaces()) {
    if (!space->alive || !space->pidfd.valid()) continue;
    const auto table = space->segments();
    std::vector<AddressRange> ranges;
    for (const PageIndex page : pages) {
      const Segment* segment = table->showing(object, page);
      const PageEntry entry = object.map->load(page);
      if (segment == nullptr || entry.state() != PageState::kResident || entry.held() || entry.incompressible())
        continue;
      ranges.push_back({segment->address_of(page), segment->address_of(page) + kPageSize});
      increment_saturating(object.map->region(PageMap::region_of(page)).armed);
    }
    if (unmaps) {
      if (kernel::advise_process_memory(space->pidfd.get(), ranges, MADV_PAGEOUT) > 0) armed += ranges.size();
    } else {
      for (const AddressRange& range : ranges) armed += space->userfaultfd.write_protect(range, true) == 0 ? 1 : 0;
    }
    break;  // the process that was adopted first stands for all
  }
  return armed;
}

}  // namespace

Result<std::unique_ptr<Pager>> Pager::start(const PagerConfig& config, PagerHooks hooks, const Clock& clock) {
  auto pager = std::make_unique<PagerImpl>(config, std::move(hooks), clock);
  if (auto started = pager->start(); !started) return Failure{started.error()};
  return pager;
}

}  // namespace tidepool::daemon
