// Discards, unmaps, moves and forks of the address spaces that a fault loop owns.
#include <sys/mman.h>

#include <algorithm>

#include "daemon/pager/fault_service.h"

namespace tidepool::daemon {

std::vector<std::shared_ptr<AddressSpace>> FaultService::serve_changes(SpaceState& state,
                                                                       std::span<const uffd_msg> messages) {
  std::vector<std::shared_ptr<AddressSpace>> children;
  PagedVm& vm = *state.vm;
  AddressSpace& space = *state.space;
  for (const uffd_msg& message : messages) {
    switch (message.event) {
      case UFFD_EVENT_REMOVE: {
        const AddressRange announced{message.arg.remove.start, message.arg.remove.end};
        const Removal removal = removal_of(state, announced);
        space.ledger.match(announced, [&](AddressRange guests) { discard(vm, space, guests, removal); });
        break;
      }
      case UFFD_EVENT_UNMAP: {
        note_restlessness(vm, space, {message.arg.remove.start, message.arg.remove.end});
        unmap(state.vm, space, {message.arg.remove.start, message.arg.remove.end});
        break;
      }
      case UFFD_EVENT_REMAP: {
        const AddressRange from{message.arg.remap.from, message.arg.remap.from + message.arg.remap.len};
        note_restlessness(vm, space, from);
        // What we took to be there (memory that was found as growth a moment ago) is not.
        unmap(state.vm, space, {message.arg.remap.to, message.arg.remap.to + message.arg.remap.len});
        space.set_segments(space.own_segments().moved(from, message.arg.remap.to));
        record_layout(vm);
        break;
      }
      case UFFD_EVENT_FORK:
        vm.counters.forks.fetch_add(1, std::memory_order_relaxed);
        children.push_back(fork_of(vm, space, static_cast<int>(message.arg.fork.ufd)));
        break;
      default:
        break;
    }
  }
  return children;
}

// Address spaces without a ring (forked children) lose nothing by a drop.
void FaultService::note_restlessness(PagedVm& vm, const AddressSpace& space, AddressRange changed) {
  if (space.fixed || space.ring == nullptr) return;
  const auto& segments = space.own_segments().all();
  if (std::ranges::any_of(segments,
                          [&](const Segment& s) { return !s.object->shared && s.addresses.overlaps(changed); })) {
    vm.restless = true;
  }
}

void FaultService::unmap(const std::shared_ptr<PagedVm>& of, AddressSpace& space, AddressRange gone) {
  PagedVm& vm = *of;
  discard(vm, space, gone, Removal::kUnmapped);
  // What is far of shared memory goes back into the file: whoever maps it again is not watched, and would find a hole.
  for (const Segment& segment : space.own_segments().all()) {
    if (!segment.object->shared || !segment.addresses.overlaps(gone)) continue;
    const PageIndex first = segment.page_at(std::max(segment.addresses.start, gone.start));
    const PageIndex end = segment.page_at(std::min(segment.addresses.end, gone.end));
    restore(of, segment.object, {PageRun{first, end.value - first.value}}, RestoreKind::kAsked, nullptr);
  }
  space.set_segments(space.own_segments().without(gone));
  record_layout(vm);
}

// On private memory every advice gives back. On shared memory MADV_REMOVE does, MADV_DONTNEED does not, and the kernel
// announces both alike. When both are under way the order does not matter: in the end the content is gone. A cause that
// nobody saw (a call through the process's own io_uring) gives nothing back: content that returns is a lesser evil than
// content that is lost.
FaultService::Removal FaultService::removal_of(SpaceState& state, AddressRange range) {
  if (state.vm->shared_remove_discards) return Removal::kGivenBack;
  if (!state.asks_for_advice()) return Removal::kKeptInFile;
  bool explained = false;
  for (const kernel::AdviceCall& call : state.advice.calls) {
    if (call.range.start > range.start || range.end > call.range.end) continue;
    if (call.advice == MADV_REMOVE) return Removal::kGivenBack;
    explained = true;
  }
  if (!explained) state.vm->counters.removals_unexplained.fetch_add(1, std::memory_order_relaxed);
  return Removal::kKeptInFile;
}

void FaultService::discard(PagedVm& vm, AddressSpace& space, AddressRange range, Removal removal) {
  const bool unmapped = removal == Removal::kUnmapped;
  if (!unmapped) vm.given_back = clock_.now();
  for (const Segment& segment : space.own_segments().all()) {
    if (!segment.addresses.overlaps(range)) continue;
    // Unmapping shared memory in one process takes nothing from the others.
    if (segment.object->shared && removal != Removal::kGivenBack) continue;
    const std::uint64_t start = std::max(segment.addresses.start, range.start);
    const std::uint64_t end = std::min(segment.addresses.end, range.end);
    const PageState to = unmapped ? PageState::kExcluded : PageState::kReleased;
    PageMap& map = *segment.object->map;
    const PageIndex behind = segment.page_at(end);
    for (PageIndex page = segment.page_at(start); page < behind; ++page.value) {
      // A guest may give back terabytes that hold nothing, again and again: that must not hold up its neighbours.
      const RegionCounters& region = map.region(PageMap::region_of(page));
      if (!unmapped && page.value % kPagesPerRegion == 0 && behind.value - page.value >= kPagesPerRegion &&
          region.resident.load(std::memory_order_relaxed) == 0 && region.far.load(std::memory_order_relaxed) == 0) {
        page.value += kPagesPerRegion - 1;
        continue;
      }
      discard_page(vm, *segment.object, page, to);
    }
  }
}

void FaultService::discard_page(PagedVm& vm, MemoryObject& object, PageIndex page, PageState to) {
  PageEntry entry = object.map->load(page);
  for (;;) {
    PageEntry next = PageEntry::plain(to);
    bool frees_copy = entry.holds_location();
    switch (entry.state()) {
      case PageState::kUntouched:
      case PageState::kReleased:
      case PageState::kExcluded:
        if (to == PageState::kReleased || entry.state() == to) return;
        break;
      case PageState::kDropping:
      case PageState::kFetching:
        // Whoever works on it finishes, sees the mark and frees the copy.
        next = entry.with_discarded();
        frees_copy = false;
        break;
      default:
        break;
    }
    const pool::Location location = entry.location();
    if (!object.map->exchange(page, entry, next)) continue;
    if (frees_copy) release_later(vm.store, location);
    if (entry.state() == PageState::kFar) vm.counters.discarded_pages.fetch_add(1, std::memory_order_relaxed);
    return;
  }
}

// The parent's thread waits inside fork until its event has been read, and no page has been installed in the parent
// since the kernel copied its page tables (such installs answer EAGAIN): what is far in the parent now was missing in
// the child when it was made, or is there unchanged.
std::shared_ptr<AddressSpace> FaultService::fork_of(PagedVm& vm, AddressSpace& parent, int fd) {
  auto child = std::make_shared<AddressSpace>();
  child->number = vm.next_space++;
  child->userfaultfd = kernel::Userfaultfd{UniqueFd{fd}};
  child->features = parent.features;
  child->lost = parent.lost;
  std::vector<Segment> segments;
  std::vector<std::pair<MemoryObject*, std::unique_ptr<MemoryObject>>> clones;
  for (Segment segment : parent.own_segments().all()) {
    if (!segment.object->shared) {
      auto known = std::ranges::find(clones, segment.object, &decltype(clones)::value_type::first);
      if (known == clones.end()) known = clones.insert(known, {segment.object, clone_private(vm, *segment.object)});
      if (known->second == nullptr) {
        child->lost = true;
        continue;
      }
      segment.object = known->second.get();
    }
    segments.push_back(segment);
  }
  for (auto& [parents, clone] : clones) {
    if (clone == nullptr) continue;
    clone->number = vm.next_object++;
    child->forked_objects.push_back(std::move(clone));
  }
  if (child->lost) {
    vm.counters.children_lost.fetch_add(1, std::memory_order_relaxed);
    if (hooks_.child_lost) hooks_.child_lost(vm);
  }
  child->set_segments(SegmentTable{std::move(segments)});
  vm.add_space(child);
  record_layout(vm);
  return child;
}

std::unique_ptr<MemoryObject> FaultService::clone_private(PagedVm& vm, MemoryObject& parent) {
  auto clone = std::make_unique<MemoryObject>();
  clone->forked = true;
  const PageCount pages = parent.map->pages();
  auto map = PageMap::create("tidepool-fork", pages, false);
  if (!map) return nullptr;
  clone->map = std::move(*map);
  clone->map->record_forked();
  if (auto first = clone->map->append(pages, 0); !first) return nullptr;
  const bool dropping = parent.map->count(PageState::kDropping) != 0;
  for (std::uint64_t region = 0; region < parent.map->regions(); ++region) {
    if (!dropping && parent.map->region(region).far.load(std::memory_order_relaxed) == 0) continue;
    const std::uint64_t end = std::min((region + 1) * kPagesPerRegion, pages.value);
    for (std::uint64_t page = region * kPagesPerRegion; page < end; ++page) {
      for (;;) {
        const PageEntry entry = parent.map->load(PageIndex{page});
        const PageState state = entry.state();
        if (entry.discarded() ||
            (state != PageState::kFar && state != PageState::kFetching && state != PageState::kDropping))
          break;
        PageEntry childs = PageEntry::plain(PageState::kUntouched);
        const PageEntry far = entry.is_value() ? PageEntry::value(PageState::kFar, entry.pattern())
                                               : PageEntry::stored(PageState::kFar, entry.location());
        if (!entry.is_value() && !vm.store->retain(entry.location()))
          continue;  // its demotion was just undone: look again
        const PageEntry again = parent.map->load(PageIndex{page});
        if (!entry.is_value() && !(again.holds_location() && again.location() == entry.location())) {
          const pool::Location location = entry.location();
          vm.store->release(std::span(&location, 1));
          continue;
        }
        clone->map->exchange(PageIndex{page}, childs, far);
        break;
      }
    }
  }
  return clone;
}

void FaultService::extend(PagedVm& vm, AddressSpace& space, std::vector<Segment>& segments) {
  // Something that is known may have moved there since somebody looked: a page must not have two names.
  std::erase_if(segments, [&](const Segment& added) {
    return std::ranges::any_of(space.own_segments().all(),
                               [&](const Segment& known) { return known.addresses.overlaps(added.addresses); });
  });
  space.set_segments(space.own_segments().with(segments));
  record_layout(vm);
}

// For a successor agent: where each process has each object.
void FaultService::record_layout(const PagedVm& vm) {
  const auto spaces = vm.spaces();
  const auto record = [&](const MemoryObject& object) {
    std::vector<PageMapHeader::Segment> list;
    for (const auto& space : spaces) {
      for (const Segment& segment : space->own_segments().all()) {
        if (segment.object != &object) continue;
        list.push_back(
            {segment.addresses.start, segment.pages(), segment.first.value, segment.file_offset, space->number});
      }
    }
    object.map->record_segments(list);
  };
  for (const auto& object : vm.objects) record(*object);
  for (const auto& space : spaces) {
    for (const auto& object : space->forked_objects) record(*object);
  }
}

void FaultService::free_object(MemoryObject& object, const std::shared_ptr<pool::PageStore>& store) {
  for (std::uint64_t region = 0; region < object.map->regions(); ++region) {
    const std::uint64_t end = std::min((region + 1) * kPagesPerRegion, object.map->pages().value);
    for (std::uint64_t page = region * kPagesPerRegion; page < end; ++page) {
      PageEntry entry = object.map->load(PageIndex{page});
      for (bool freed = false; !freed;) {
        const PageState state = entry.state();
        if (state == PageState::kUntouched || state == PageState::kExcluded) break;
        // Whoever works on it finishes, sees the mark and frees the copy.
        const bool busy = state == PageState::kDropping || state == PageState::kFetching;
        const bool frees_copy = !busy && entry.holds_location();
        const pool::Location location = entry.location();
        freed = object.map->exchange(PageIndex{page}, entry,
                                     busy ? entry.with_discarded() : PageEntry::plain(PageState::kReleased));
        if (freed && frees_copy) release_later(store, location);
      }
    }
  }
}

// What only that address space showed: nobody can ask for it any more.
void FaultService::free_private(AddressSpace& gone, PagedVm& vm) {
  for (const auto& object : gone.forked_objects) free_object(*object, vm.store);
  for (const auto& object : vm.objects) {
    if (object->shared) continue;
    const auto shows = [&](const std::shared_ptr<AddressSpace>& space) {
      return std::ranges::any_of(space->own_segments().all(),
                                 [&](const Segment& s) { return s.object == object.get(); });
    };
    if (std::ranges::none_of(vm.spaces(), shows)) free_object(*object, vm.store);
  }
  record_layout(vm);
}

void FaultService::free_all(PagedVm& vm) {
  for (const auto& object : vm.objects) free_object(*object, vm.store);
}

}  // namespace tidepool::daemon
