#include "daemon/pager/fault_service.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace tidepool::daemon {
namespace {

constexpr std::size_t kMaxReleases = 1024;  // handed to the store at once
constexpr Nanoseconds kLongestDiscard = std::chrono::seconds(10);
constexpr std::size_t kUsualWaiting = 256;  // faults waiting at once, without an allocation

bool is_write_protect(std::uint64_t flags) {
  return (flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
}
bool is_minor(std::uint64_t flags) {
  return (flags & UFFD_PAGEFAULT_FLAG_MINOR) != 0;
}

AddressRange page_at(std::uint64_t address) {
  return {address, address + kPageSize};
}

}  // namespace

FaultService::FaultService(const FaultLoopConfig& config, FaultLoopHooks hooks, const Clock& clock, FaultLoop& loop)
    : config_(config), hooks_(std::move(hooks)), clock_(clock), loop_(loop) {}

FaultService::~FaultService() = default;

Result<> FaultService::prepare() {
  std::size_t pages = 0;
  for (const FetchShape& shape : kFetchShapes) pages += shape.ops * shape.pages;
  auto buffers = Mapping::anonymous(Bytes{pages * kPageSize});
  if (!buffers) return Failure{buffers.error()};
  buffers_ = std::move(*buffers);
  auto patterns = Mapping::anonymous(Bytes{2 * kPageSize});
  if (!patterns) return Failure{patterns.error()};
  pattern_pages_ = std::move(*patterns);
  // Touch everything now: a fault of our own on the fault path would wait for memory that we are there to find.
  std::memset(buffers_.data(), 0, buffers_.size());
  std::memset(pattern_pages_.data(), 0, pattern_pages_.size());
  std::byte* next = buffers_.data();
  for (const FetchReason reason : {FetchReason::kDemand, FetchReason::kPrefetch, FetchReason::kRestore}) {
    make_ops(reason, next);
    next += shape_of(reason).ops * shape_of(reason).pages * kPageSize;
  }
  deferred_.reserve(kUsualWaiting);
  retrying_.reserve(kUsualWaiting);
  at_hand_.reserve(kUsualWaiting);
  retrying_at_hand_.reserve(kUsualWaiting);
  parked_.reserve(kUsualWaiting);
  unparked_.reserve(kUsualWaiting);
  releases_.reserve(kMaxReleases);
  return {};
}

void FaultService::adopt_vm(const std::shared_ptr<PagedVm>& vm) {
  owner_ = std::this_thread::get_id();
  record_layout(*vm);
}

void FaultService::forget_space(SpaceState& state) {
  for (const WaitingFault& fault : deferred_) {
    if (fault.state == &state) let_go_of_held(fault);
  }
  std::erase_if(deferred_, [&](const WaitingFault& fault) { return fault.state == &state; });
  const std::size_t parked =
      std::erase_if(parked_, [&](const ParkedFault& waiting) { return waiting.fault.state == &state; });
  state.vm->parked_faults.fetch_sub(static_cast<std::uint32_t>(parked));
  std::erase_if(prefetches_, [&](const PrefetchRequest& request) { return request.state == &state; });
  for (const auto& op : ops_) {
    if (op->fault.state == &state) op->fault.state = nullptr;
  }
}

// A process that died while its fault was to be tried again leaves the page to the others that share it.
void FaultService::let_go_of_held(const WaitingFault& fault) {
  const Segment* segment = fault.state->space->own_segments().at(fault.address);
  if (segment == nullptr) return;
  PageEntry held = segment->object->map->load(segment->page_at(fault.address));
  if (held.held()) segment->object->map->exchange(segment->page_at(fault.address), held, held.without_held());
}

void FaultService::forget_vm(PagedVm& vm) {
  for (auto job = restores_.begin(); job != restores_.end();) {
    if (job->vm.get() != &vm) {
      ++job;
      continue;
    }
    auto done = std::move(job->done);
    job = restores_.erase(job);
    if (done) done(0);
  }
}

// The decision table of the pager: what is asked (protection, a missing page, a cached one) against what the page is.
void FaultService::serve_fault(SpaceState& state, std::uint64_t address, std::uint64_t flags, MonoTime since) {
  const WaitingFault fault{&state, address, flags, since, {}};
  // A copy: answering may change the table (a dying space), and the segment must stay readable until the end.
  const Segment* found = state.space->own_segments().at(address);
  if (found == nullptr) return serve_untracked(state, address, flags, since);
  const Segment segment = *found;
  MemoryObject& object = *segment.object;
  const PageIndex page = segment.page_at(address);
  for (;;) {
    PageEntry entry = object.map->load(page);
    switch (entry.state()) {
      case PageState::kFar:
        return fetch_demand(state, segment, page, entry, fault);
      case PageState::kFetching:
        return park(fault, object, page);
      case PageState::kDropping: {
        park(fault, object, page);
        return;
      }
      case PageState::kResidentClean:
        if (is_minor(flags)) {
          // Another process maps it: the protection must hold there too, or the copy would go stale unseen.
          postpones(fault, judge(state, state.space->userfaultfd.map_cached(address, kPageSize, true), address));
          return;
        }
        break;
      case PageState::kDemoting:
        if (is_minor(flags)) {
          state.vm->counters.faults_minor.fetch_add(1, std::memory_order_relaxed);
          postpones(fault, judge(state, state.space->userfaultfd.map_cached(address, kPageSize, true), address));
          return;
        }
        break;
      default:
        break;
    }
    PageEntry held =
        PageEntry::plain(PageState::kResident).with_held().with_age(PageAge::at(clock_.now(), entry.interval()));
    if (entry.incompressible() && !is_write_protect(flags)) held = held.with_incompressible();
    if (entry.state() == PageState::kExcluded || entry.state() == PageState::kReleased) {
      held = entry;  // no demotion freezes these
    } else if (!entry.held() && !object.map->exchange(page, entry, held)) {
      continue;  // a demotion moved it meanwhile: look again
    }
    if (entry.state() == PageState::kDemoting)
      state.vm->counters.demotions_cancelled.fetch_add(1, std::memory_order_relaxed);
    // The mark goes before the protection does.
    if (entry.state() == PageState::kResidentClean) release_later(state.vm->store, entry.location());
    return serve_resident(state, segment, page, entry, fault);
  }
}

void FaultService::serve_resident(SpaceState& state, const Segment& segment, PageIndex page, PageEntry entry,
                                  const WaitingFault& fault) {
  PagerCounters& counters = state.vm->counters;
  const Answer answer = answer_resident(state, segment, fault);
  if (postpones(fault, answer)) return;  // stays held
  PageMap& map = *segment.object->map;
  if (is_write_protect(fault.flags)) {
    counters.faults_write.fetch_add(1, std::memory_order_relaxed);
    increment_saturating(map.region(PageMap::region_of(page)).touches);
  } else if (is_minor(fault.flags)) {
    counters.faults_minor.fetch_add(1, std::memory_order_relaxed);
    increment_saturating(map.region(PageMap::region_of(page)).touches);
  } else {
    counters.faults_first.fetch_add(1, std::memory_order_relaxed);
  }
  counters.stall_ns.fetch_add(static_cast<std::uint64_t>((clock_.now() - fault.since).count()),
                              std::memory_order_relaxed);
  if (entry.state() == PageState::kExcluded) return;
  if (entry.state() == PageState::kReleased) {
    if (answer != Answer::kFound || !may_be_emptied_yet(*state.vm))
      map.exchange(page, entry, PageEntry::plain(PageState::kResident).with_age(PageAge::at(clock_.now())));
    return;
  }
  PageEntry held = map.load(page);
  while (held.held()) {
    if (map.exchange(page, held, held.without_held())) break;
  }
}

// A discard is announced before it is done: what its caller has not emptied yet, however long it waits for a CPU, must
// not be taken for content worth keeping.
bool FaultService::may_be_emptied_yet(const PagedVm& vm) const {
  return vm.given_back != MonoTime{} && clock_.now() - vm.given_back < kLongestDiscard;
}

FaultService::Answer FaultService::answer_resident(SpaceState& state, const Segment& segment,
                                                   const WaitingFault& fault) {
  const kernel::Userfaultfd& userfaultfd = state.space->userfaultfd;
  const auto found = [&](const kernel::InstallOutcome& outcome) {
    const Answer answer = judge(state, outcome, fault.address);
    return answer == Answer::kDone ? Answer::kFound : answer;
  };
  if (is_write_protect(fault.flags)) return found({0, userfaultfd.write_protect(page_at(fault.address), false)});
  if (is_minor(fault.flags)) return found(userfaultfd.map_cached(fault.address, kPageSize, false));
  const bool fits = state.vm->group_room.take(1, true);
  const kernel::InstallOutcome outcome = fits ? userfaultfd.copy(fault.address, pattern_pages_.data(), kPageSize, false)
                                              : kernel::InstallOutcome{0, ENOMEM};
  // A copy, not UFFDIO_ZEROPAGE: that refuses to replace a protection marker, and the target would fault for ever.
  if (outcome.error == EEXIST && segment.object->shared)
    return found(userfaultfd.map_cached(fault.address, kPageSize, false));
  if (outcome.error == EEXIST) return found(outcome);
  return judge(state, outcome, fault.address);
}

// What an ioctl's result means for whoever waits on the page.
FaultService::Answer FaultService::judge(SpaceState& state, const kernel::InstallOutcome& outcome,
                                         std::uint64_t address) {
  switch (outcome.error) {
    case 0:
      return Answer::kDone;
    case EAGAIN:  // the address space is changing; an event tells of it
      return Answer::kAgain;
    case ESRCH:
      state.space->alive = false;
      return Answer::kGone;
    case ENOMEM:
      state.vm->counters.out_of_memory.fetch_add(1, std::memory_order_relaxed);
      if (hooks_.out_of_memory) hooks_.out_of_memory(*state.vm);
      return Answer::kStarved;
    default:
      // EEXIST: somebody was faster. ENOENT, EFAULT, EINVAL: the mapping, or the cached page, is gone: the retried
      // access finds out.
      state.space->userfaultfd.wake(page_at(address));
      return Answer::kDone;
  }
}

bool FaultService::postpones(const WaitingFault& fault, Answer answer) {
  if (answer != Answer::kAgain && answer != Answer::kStarved) return false;
  defer(fault, answer == Answer::kStarved ? kRetryStarved : Nanoseconds{0});
  return true;
}

void FaultService::defer(WaitingFault fault, Nanoseconds pause) {
  fault.not_before = pause == Nanoseconds{0} ? MonoTime{} : clock_.now() + pause;
  deferred_.push_back(fault);
}

// Memory that grew into a registered area (mremap), or that is about to be unmapped: zeros are right for a page that
// was never there. Not in a child whose pages nobody knows: it must not go on with wrong ones. (Before Linux 6.6 its
// thread waits.)
void FaultService::serve_untracked(SpaceState& state, std::uint64_t address, std::uint64_t flags, MonoTime since) {
  const Segment nowhere{};
  MemoryObject no_object;
  Segment segment = nowhere;
  segment.object = &no_object;
  const WaitingFault fault{&state, address, flags, since, {}};
  if (state.space->lost && !is_write_protect(flags) && !is_minor(flags)) {
    const kernel::InstallOutcome outcome = state.space->userfaultfd.poison(address, kPageSize);
    if (outcome.error != ENOTTY && outcome.error != EINVAL) postpones(fault, judge(state, outcome, address));
    return;
  }
  if (postpones(fault, answer_resident(state, segment, fault))) return;
  state.vm->counters.faults_first.fetch_add(1, std::memory_order_relaxed);
}

void FaultService::park(const WaitingFault& fault, MemoryObject& object, PageIndex page) {
  parked_.push_back({fault, &object, page});
  fault.state->vm->parked_faults.fetch_add(1, std::memory_order_seq_cst);
  // The drop may have ended just before we counted ourselves in: then nobody will call, so look once more.
  if (must_wait(object, page)) return;
  parked_.pop_back();
  fault.state->vm->parked_faults.fetch_sub(1, std::memory_order_seq_cst);
  defer(fault);
}

bool FaultService::must_wait(const MemoryObject& object, PageIndex page) {
  const PageState now = PageEntry{object.map->entry(page).load(std::memory_order_seq_cst)}.state();
  return now == PageState::kDropping || now == PageState::kFetching;
}

void FaultService::serve_parked(PagedVm& vm) {
  // Answering one may end what others wait for: the round that is going on looks again.
  if (serving_parked_ || vm.parked_faults.load(std::memory_order_seq_cst) == 0) return;
  serving_parked_ = true;
  do {
    unparked_.clear();
    std::erase_if(parked_, [&](const ParkedFault& waiting) {
      if (waiting.fault.state->vm.get() != &vm || must_wait(*waiting.object, waiting.page)) return false;
      unparked_.push_back(waiting.fault);
      return true;
    });
    vm.parked_faults.fetch_sub(static_cast<std::uint32_t>(unparked_.size()), std::memory_order_seq_cst);
    for (const WaitingFault& fault : unparked_) serve_fault(*fault.state, fault.address, fault.flags, fault.since);
  } while (!unparked_.empty());
  serving_parked_ = false;
}

void FaultService::fetch_demand(SpaceState& state, const Segment& segment, PageIndex page, PageEntry entry,
                                const WaitingFault& fault) {
  FetchOp* op = acquire(*state.vm, FetchReason::kDemand);
  if (op == nullptr) return defer(fault);
  op->vm = state.vm;
  op->space = state.space;
  op->object = segment.object;
  op->write = (fault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0;
  op->fault = fault;
  op->first = page;
  bool begun = false;
  {
    PageMap::Changes changes(*op->object->map);
    begun = begin_page(*op, page, entry, changes);
  }
  if (!begun) {
    recycle(op);
    return defer(fault);
  }
  submit(op);
  plan_prefetch(state, *segment.object, page);
}

void FaultService::retry_deferred() {
  retry_at_hand();
  if (deferred_.empty()) return;
  const MonoTime now = clock_.now();
  retrying_.swap(deferred_);
  for (const WaitingFault& fault : retrying_) {
    if (fault.not_before > now) {
      deferred_.push_back(fault);
    } else {
      serve_fault(*fault.state, fault.address, fault.flags, fault.since);
    }
  }
  retrying_.clear();
}

void FaultService::background_step() {
  if (prefetch_step()) return;
  restore_step();
}

void FaultService::release_later(const std::shared_ptr<pool::PageStore>& store, pool::Location location) {
  if (releases_store_ != store || releases_.size() >= kMaxReleases) flush_releases();
  releases_store_ = store;
  releases_.push_back(location);
}

void FaultService::flush_releases() {
  if (releases_.empty()) return;
  releases_store_->release(releases_);
  releases_store_.reset();
  releases_.clear();
}

}  // namespace tidepool::daemon
