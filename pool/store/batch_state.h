// For stores that answer later: the batches that are here, and lists of things that cost no memory.
#pragma once

#include <cstddef>

#include "pool/store/page_store.h"

namespace tidepool::pool {

// One batch of the caller's, while it is here.
template <class Batch>
struct BatchState {
  Batch* batch = nullptr;
  std::size_t next = 0;       // the first item that nobody has begun with
  std::size_t remaining = 0;  // items without an answer
  bool cancelled = false;
  BatchState* following = nullptr;
};

// A list of things with a `following`; nothing is allocated.
template <class T>
struct Chain {
  T* first = nullptr;
  T* last = nullptr;

  bool empty() const { return first == nullptr; }
  void push(T* item) {
    item->following = nullptr;
    (first == nullptr ? first : last->following) = item;
    last = item;
  }
  T* pop() {
    T* item = first;
    if (item != nullptr) first = item->following;
    return item;
  }
};

}  // namespace tidepool::pool
