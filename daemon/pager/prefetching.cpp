// Far pages fetched before they are asked for: where the stride leads, as far as it pays.
#include <algorithm>

#include "daemon/pager/fault_service.h"

namespace tidepool::daemon {
namespace {

constexpr std::size_t kMaxPrefetches = 64;
// Of one address space, waiting; the oldest makes room: advice grows old.
constexpr std::ptrdiff_t kMaxPrefetchesPerSpace = 4;

}  // namespace

// What became of the pages that were left far and not asked for.
void FaultService::settle_controls(PagedVm& vm) {
  PrefetchTuner& tuner = vm.prefetch;
  while (const auto control = tuner.expired(clock_.now())) {
    const auto object =
        std::ranges::find_if(vm.objects, [&](const auto& each) { return each->number == control->object; });
    const bool waits = object != vm.objects.end() && control->page < (*object)->map->pages().value &&
                       (*object)->map->load(PageIndex{control->page}).state() == PageState::kFar;
    // Otherwise it came home or was given back by another way: nobody knows what it would have been good for.
    tuner.settle(*control, waits ? PrefetchTuner::Fate::kUnused : PrefetchTuner::Fate::kUnknown);
  }
}

void FaultService::plan_prefetch(SpaceState& state, MemoryObject& object, PageIndex page) {
  if (config_.prefetch_max_pages == 0 || state.vm->releasing || halted_) return;
  PagedVm& vm = *state.vm;
  PrefetchTuner& tuner = vm.prefetch;
  settle_controls(vm);
  const bool control = tuner.used(object.number, page.value);
  const unsigned window = std::min(tuner.window(), config_.prefetch_max_pages);
  vm.counters.prefetch_used.store(tuner.settled_used(), std::memory_order_relaxed);
  vm.counters.prefetch_wasted.store(tuner.settled_unused(), std::memory_order_relaxed);
  vm.counters.prefetch_window.store(window, std::memory_order_relaxed);
  // Of a page that would be home had it not been left out, the fault is no news of the stream.
  if (control && window != 0 && !state.prefetcher.expects(page.value)) return;
  const auto advice = state.prefetcher.on_fault(page.value, std::min(tuner.advice(), config_.prefetch_max_pages));
  if (!advice) return;
  const std::uint64_t limit = object.map->pages().value;
  // Of a child's private memory nothing is learned: it is short-lived, and its parent's tells as much.
  if (!object.forked) {
    const MonoTime now = clock_.now();
    const PrefetchTuner::Draw drawn = tuner.draw(advice->pages, now);
    for (unsigned i = 0; i < drawn.count; ++i) {
      const std::uint64_t at =
          page.value + static_cast<std::uint64_t>(advice->stride * static_cast<std::int64_t>(drawn.distance[i]));
      if (at < limit && object.map->load(PageIndex{at}).state() == PageState::kFar)
        tuner.watch(object.number, at, drawn.distance[i], now);
    }
  }
  if (window == 0) return;
  const auto of_space = [&](const PrefetchRequest& request) { return request.state == &state; };
  if (std::ranges::count_if(prefetches_, of_space) >= kMaxPrefetchesPerSpace)
    prefetches_.erase(std::ranges::find_if(prefetches_, of_space));
  if (prefetches_.size() >= kMaxPrefetches) return;
  prefetches_.push_back({next_prefetch_++, &state, &object, page.value + static_cast<std::uint64_t>(advice->stride),
                         advice->stride, std::min(advice->pages, window)});
}

bool FaultService::prefetch_ready() const {
  return !halted_ && any_free(FetchReason::kPrefetch) &&
         std::ranges::any_of(prefetches_, [](const PrefetchRequest& request) {
           return may_fetch_more(*request.state->vm, FetchReason::kPrefetch);
         });
}

bool FaultService::prefetch_step() {
  if (!prefetch_ready()) return false;
  // A VM whose answers are awaited waits with its advice, and keeps nobody else from theirs.
  while (!may_fetch_more(*prefetches_.front().state->vm, FetchReason::kPrefetch))
    std::rotate(prefetches_.begin(), prefetches_.begin() + 1, prefetches_.end());
  const PrefetchRequest request = prefetches_.front();
  // Fetching may end the VM's service, and the request with it.
  const std::shared_ptr<PagedVm> vm = request.state->vm;
  const std::shared_ptr<AddressSpace> space = request.state->space;
  MemoryObject& object = *request.object;
  const std::uint64_t limit = object.map->pages().value;
  const bool beside = request.stride == 1 || request.stride == -1;
  const std::uint64_t span = beside ? std::min<std::uint64_t>(request.left, shape_of(FetchReason::kPrefetch).pages) : 1;
  std::uint64_t from = request.stride == -1 ? request.next - std::min(request.next, span - 1) : request.next;
  const std::uint64_t begin = from;
  const std::uint64_t end = std::min(limit, from + span);
  const MonoTime began = clock_.now();
  const std::uint64_t before = vm->counters.promoted_prefetch.load(std::memory_order_relaxed);
  // What is home already, or is left out, divides the run.
  while (from < end) {
    const std::uint64_t next = start_run(vm, space, object, from, end, FetchReason::kPrefetch).next;
    if (next <= from) break;  // everything is busy: the rest waits
    from = next;
  }
  // Backwards the rest is in front, and what was done of the stretch is found to be on its way.
  const std::uint64_t part = request.stride == 1 ? from - begin : 0;
  advance_prefetch(request, from < end ? part : span, limit);
  const std::uint64_t fetched = vm->counters.promoted_prefetch.load(std::memory_order_relaxed) - before;
  if (fetched != 0) vm->prefetch.copies_took(clock_.now() - began, static_cast<unsigned>(fetched));
  return true;
}

// So many pages of it were seen to, if it is still there.
void FaultService::advance_prefetch(const PrefetchRequest& request, std::uint64_t pages, std::uint64_t limit) {
  const auto found = std::ranges::find(prefetches_, request.id, &PrefetchRequest::id);
  if (found == prefetches_.end()) return;
  found->left -= static_cast<unsigned>(pages);
  found->next += static_cast<std::uint64_t>(found->stride * static_cast<std::int64_t>(pages));
  if (found->left == 0 || found->next >= limit) prefetches_.erase(found);
}

}  // namespace tidepool::daemon
