#include "bench/pager/pager_rig.h"

#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

namespace tidepool::bench {
namespace {

// Against the 100 ms and more that a demotion of everything takes: fine enough. Waking up more often would take a tenth
// of the CPU time from the thread that is measured.
constexpr auto kPoll = std::chrono::milliseconds(1);
constexpr auto kPatience = std::chrono::seconds(60);

template <class T>
T value_of(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message());
  return std::move(*result);
}

}  // namespace

PagerRig::PagerRig(TouchingProcess& process, double spin_share, bool guest, std::shared_ptr<pool::PageStore> store) {
  if (store == nullptr) {
    // Twice the memory: what a bench measures is not a store that is almost full.
    pool::MappedStoreOptions options;
    options.capacity = Bytes{process.memory().size() * 2 + (64ull << 20)};
    options.most_unreturned = options.capacity;
    store_ = value_of(pool::create_mapped_store(options));
    store = pool::unowned(*store_);
  }

  daemon::PagerConfig config;
  config.loop.spin_share = spin_share;
  config.loop.prefetch_max_pages = 0;  // the floor does not prefetch: a fault is held against a fault
  config.demoter.grace = std::chrono::nanoseconds{0};
  pager_ = value_of(daemon::Pager::start(config, {}, clock_));

  daemon::VmSpec spec;
  spec.name = "bench";
  spec.store = std::move(store);
  spec.shared_remove_discards = guest;
  spec.fixed_memory = guest;
  spec.objects.push_back({true, process.duplicate_memory_file()});
  daemon::SpaceSpec space;
  space.userfaultfd = process.take_userfaultfd();
  space.pid = process.pid();
  space.pidfd = process.pidfd();
  space.mappings.push_back({process.memory(), 0, 0});
  spec.spaces.push_back(std::move(space));
  vm_ = value_of(pager_->prepare(std::move(spec)));
  const auto activated = pager_->activate(vm_);
  if (!activated) throw std::runtime_error(activated.error().message());
}

PagerRig::~PagerRig() {
  pager_->stop();
}

void PagerRig::demote_all() {
  daemon::MemoryObject& object = *vm_->objects[0];
  const std::uint64_t goal = object.map->pages().value - count(daemon::PageState::kExcluded);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  const auto ask = [&] {
    for (std::uint64_t region = 0; region < object.map->regions(); ++region) {
      while (!pager_->demote(vm_, {&object, region})) {
        if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("demotion is refused");
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    }
  };
  ask();
  for (auto far = count(daemon::PageState::kFar); far < goal; far = count(daemon::PageState::kFar)) {
    if (std::chrono::steady_clock::now() > deadline)
      throw std::runtime_error("demotion does not finish: " + std::to_string(goal - far) + " pages stay");
    std::this_thread::sleep_for(kPoll);
    // What a busy machine, or a server, could not take at once.
    if (pager_->demotions_queued() == 0 && count(daemon::PageState::kFar) < goal) ask();
  }
}

void PagerRig::return_pool_memory() {
  // What nobody wanted between two calls goes; a call does a bounded piece of work.
  const Bytes before = store_->usage().used;
  for (int calls = 0; calls < 2 || store_->maintain(); ++calls) store_->maintain();
  if (store_->usage().used.value > before.value / 2) throw std::runtime_error("the store keeps its memory");
}

void PagerRig::restore_all() {
  daemon::MemoryObject& object = *vm_->objects[0];
  std::promise<std::uint64_t> finished;
  pager_->restore(vm_, &object, {PageRun{PageIndex{0}, object.map->pages().value}}, daemon::RestoreKind::kAsked,
                  [&](std::uint64_t left) { finished.set_value(left); });
  if (finished.get_future().get() != 0) throw std::runtime_error("pages stayed away");
}

}  // namespace tidepool::bench
