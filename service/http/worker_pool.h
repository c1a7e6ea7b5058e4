// A few threads and a bounded queue: requests wait here, never on the accept loop, and never without limit.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tidepool::http {

class WorkerPool {
 public:
  // `threads` >= 1; `most_waiting` jobs may wait besides those that run.
  WorkerPool(unsigned threads, std::size_t most_waiting);
  // Waits for the jobs that run; those that wait are dropped.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // False when the queue is full; the job is then not kept. Thread-safe. Jobs do not throw.
  bool submit(std::function<void()> job);

 private:
  void run();

  const std::size_t most_waiting_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tidepool::http
