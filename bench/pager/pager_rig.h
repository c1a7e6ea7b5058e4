// The product's pager, with one process in its care.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/clock.h"
#include "bench/pager/touching_process.h"
#include "daemon/pager/pager.h"
#include "pool/store/mapped_store.h"

namespace tidepool::bench {

class PagerRig {
 public:
  // `guest`: its memory is guest RAM, which stays where it is and whose removals mean what they say; else that of any
  // program. `store`: where its pages go; null: to a mapped store of its own.
  PagerRig(TouchingProcess& process, double spin_share, bool guest = true,
           std::shared_ptr<pool::PageStore> store = nullptr);
  ~PagerRig();
  PagerRig(const PagerRig&) = delete;
  PagerRig& operator=(const PagerRig&) = delete;

  void demote_all();          // waits until every page is far
  void restore_all();         // waits until every page is home
  void return_pool_memory();  // what its own store keeps for the next page goes back to the host
  daemon::PagedVm& vm() { return *vm_; }

 private:
  std::uint64_t count(daemon::PageState state) const { return vm_->objects[0]->map->count(state); }

  SystemClock clock_;
  std::unique_ptr<pool::EmbeddedStore> store_;  // null: another one was given
  std::unique_ptr<daemon::Pager> pager_;
  std::shared_ptr<daemon::PagedVm> vm_;
};

}  // namespace tidepool::bench
