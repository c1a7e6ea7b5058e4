#include "daemon/agent/operations.h"

#include <pthread.h>

namespace tidepool::daemon {
namespace {

constexpr unsigned kThreads = 2;
constexpr std::size_t kMaxWaiting = 256;
constexpr auto kRemembered = std::chrono::minutes(30);
constexpr std::size_t kMaxRemembered = 4096;

bool is_refusal(const std::error_code& code) {
  return code == std::errc::operation_not_permitted || code == std::errc::not_supported ||
         code == std::errc::no_space_on_device || code == std::errc::operation_canceled;
}

}  // namespace

void Operations::Handle::step(std::string text, Bytes done, Bytes total) const {
  update([&](Operation& operation) {
    operation.step = std::move(text);
    operation.done = done;
    operation.total = total;
    if (total.value != 0) operation.progress = static_cast<double>(done.value) / static_cast<double>(total.value);
  });
}

void Operations::Handle::end(const Result<>& result) const {
  owner_->ended(id_, result);
}

Operations::Operations() {
  for (unsigned i = 0; i < kThreads; ++i) {
    threads_.emplace_back([this] { run(); });
    ::pthread_setname_np(threads_.back().native_handle(), "operations");
  }
}

Operations::~Operations() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

Result<Operation> Operations::start(OperationKind kind, std::string vm, std::string step, Work work) {
  const std::lock_guard lock(mutex_);
  if (queue_.size() >= kMaxWaiting || stopping_) {
    return failure(std::errc::resource_unavailable_try_again, "start operation on", vm,
                   "too many operations are waiting; try again later");
  }
  const Operation& operation = add(kind, std::move(vm), std::move(step));
  queue_.push_back({operation.id, std::move(work)});
  wake_.notify_one();
  return operation;
}

Result<Operation> Operations::begin(OperationKind kind, std::string vm, std::string step) {
  const std::lock_guard lock(mutex_);
  return add(kind, std::move(vm), std::move(step));
}

Operation& Operations::add(OperationKind kind, std::string vm, std::string step) {
  forget_old();
  Operation operation;
  operation.id = "op-" + std::to_string(next_++);
  operation.kind = kind;
  operation.vm = std::move(vm);
  operation.step = std::move(step);
  operation.started = std::chrono::system_clock::now();
  return operations_[operation.id] = operation;
}

Result<Operation> Operations::find(std::string_view id) const {
  const std::lock_guard lock(mutex_);
  const auto found = operations_.find(std::string(id));
  if (found == operations_.end())
    return failure(std::errc::no_such_file_or_directory, "find operation", std::string(id));
  return found->second;
}

void Operations::change(const std::string& id, const std::function<void(Operation&)>& change) {
  const std::lock_guard lock(mutex_);
  if (const auto found = operations_.find(id); found != operations_.end()) change(found->second);
}

void Operations::ended(const std::string& id, const Result<>& result) {
  change(id, [&](Operation& operation) {
    operation.ended = std::chrono::system_clock::now();
    if (result) {
      operation.state = OperationState::kSucceeded;
      operation.progress = 1;
    } else {
      operation.state = is_refusal(result.error().code) ? OperationState::kRefused : OperationState::kFailed;
      operation.error = result.error();
    }
  });
}

void Operations::forget_old() {
  const WallTime limit = std::chrono::system_clock::now() - kRemembered;
  std::erase_if(operations_, [&](const auto& item) {
    return item.second.ended && (*item.second.ended < limit || operations_.size() > kMaxRemembered);
  });
}

void Operations::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const Job job = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    const Result<> result = job.work(Handle(*this, job.id));
    // All that was to be moved has moved.
    if (result) change(job.id, [](Operation& operation) { operation.done = operation.total; });
    ended(job.id, result);
    lock.lock();
  }
}

}  // namespace tidepool::daemon
