// A pager, and a process that is paged by it.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <random>
#include <thread>

#include "daemon/pager/pager.h"
#include "tests/support/memory_store.h"
#include "tests/support/paged_process.h"

namespace tidepool::daemon {

using namespace std::chrono_literals;
using tests::MemoryStore;
using tests::PagedProcess;
using tests::PagedProcessOptions;

template <class Condition>
bool eventually(Condition&& condition, std::chrono::seconds limit = 60s) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

class Rig {
 public:
  explicit Rig(PagedProcess& process, const PagedProcessOptions& options, bool clean_copies = false,
               const kernel::KernelRoots& roots = {}, pool::PageStore* instead = nullptr,
               const DemoterConfig& demoter = {.grace = 0ms, .drop_deadline = 200ms})
      : process_(process), forks_(options.fork_children) {
    PagerConfig config;
    config.roots = roots;
    config.demoter = demoter;
    PagerHooks hooks;
    hooks.integrity_failure = [this](PagedVm&, MemoryObject&, PageIndex) { ++integrity_failures; };
    hooks.vm_gone = [this](PagedVm&) { gone = true; };
    auto pager = Pager::start(config, hooks, clock_);
    EXPECT_TRUE(pager);
    pager_ = std::move(*pager);
    vm = enrol(process, options, instead != nullptr ? *instead : store, clean_copies);
  }
  // A further VM with a store of its own. `fixed`: see AddressSpace::fixed.
  std::shared_ptr<PagedVm> enrol(PagedProcess& process, const PagedProcessOptions& options, pool::PageStore& in,
                                 bool clean_copies = false, bool fixed = false) {
    VmSpec spec;
    spec.fixed_memory = fixed;
    spec.name = "test";
    spec.store = pool::unowned(in);
    spec.keep_clean_copies = clean_copies;
    spec.objects.push_back({options.shared, options.shared ? process.memory_file() : UniqueFd{}});
    SpaceSpec space;
    space.userfaultfd = kernel::Userfaultfd{process.take_userfaultfd()};
    space.pid = process.pid();
    space.pidfd = process.pidfd();
    space.mappings.push_back({process.memory(), 0, 0});
    if (!options.shared) space.ring = process.dropper();
    spec.spaces.push_back(std::move(space));
    auto prepared = pager_->prepare(std::move(spec));
    EXPECT_TRUE(prepared) << prepared.error().message();
    const auto activated = pager_->activate(*prepared);
    EXPECT_TRUE(activated) << activated.error().message();
    return *prepared;
  }
  ~Rig() { pager_->stop(); }

  MemoryObject& object() { return *vm->objects[0]; }
  bool demote(std::uint64_t region) { return pager_->demote(vm, {&object(), region}); }
  void demote_all() {
    for (std::uint64_t region = 0; region < object().map->regions(); ++region) demote(region);
  }
  bool idle() { return pager_->demotions_queued() == 0; }
  // Asks for everything to go, and waits until what goes is gone.
  bool send_all_out() {
    demote_all();
    return eventually([&] { return idle(); });
  }
  Result<> release() { return release(vm); }
  Result<> release(const std::shared_ptr<PagedVm>& which) {
    std::promise<Result<>> finished;
    pager_->release(which, [&](Result<> result) { finished.set_value(std::move(result)); });
    return finished.get_future().get();
  }
  // Demotes regions at random until the process has done so many operations, a thousand pages went out and came back,
  // and children saw it.
  void churn(std::uint64_t operations, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    const std::uint64_t goal = process_.operations() + operations;
    const auto enough = [&] {
      return process_.operations() >= goal && vm->counters.demoted_pages > 1000 &&
             vm->counters.promoted_demand > 1000 && (!forks_ || process_.forks() > 3);
    };
    auto last = std::chrono::steady_clock::now();
    std::uint64_t seen = process_.operations();
    while (!enough()) {
      demote(random() % object().map->regions());
      std::this_thread::sleep_for(200us);
      if (process_.operations() != seen) {
        seen = process_.operations();
        last = std::chrono::steady_clock::now();
      }
      ASSERT_LT(std::chrono::steady_clock::now() - last, 60s) << "the process makes no progress";
    }
  }
  // `pages`: where they were stored in the end.
  void release_and_expect_nothing_lost(const MemoryStore& pages) {
    EXPECT_EQ(process_.mismatches(), 0u);
    const auto released = release();
    EXPECT_TRUE(released) << released.error().message();
    EXPECT_TRUE(process_.await_operations(20000));
    process_.stop_threads();
    EXPECT_EQ(process_.mismatches(), 0u);
    EXPECT_EQ(accounted(), object().map->pages().value);
    EXPECT_TRUE(eventually([&] { return pages.usage().pages.value == 0; }))
        << pages.usage().pages.value << " pages left in the store";
    EXPECT_EQ(pages.double_releases, 0);
    EXPECT_EQ(pages.reads_of_nothing, 0);
    EXPECT_EQ(integrity_failures, 0);
  }
  std::uint64_t accounted() {
    std::uint64_t sum = 0;
    for (unsigned state = 0; state < kPageStateCount; ++state)
      sum += object().map->count(static_cast<PageState>(state));
    return sum;
  }
  Pager& pager() { return *pager_; }

  MemoryStore store;
  std::shared_ptr<PagedVm> vm;
  std::atomic<int> integrity_failures{0};
  std::atomic<bool> gone{false};

 private:
  SystemClock clock_;
  PagedProcess& process_;
  const bool forks_;
  std::unique_ptr<Pager> pager_;
};

}  // namespace tidepool::daemon
