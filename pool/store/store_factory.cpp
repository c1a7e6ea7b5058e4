#include "pool/store/store_factory.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "pool/store/compressed_store.h"
#include "pool/store/mapped_store.h"

namespace tidepool::pool {
namespace {

Result<> check(const StoreConfig& config) {
  if (config.capacity == Bytes{})
    return failure(std::errc::invalid_argument, "create", "page store", "its capacity is zero");
  if (config.kind == StoreChoice::kCompressed && !config.path.empty())
    return failure(std::errc::invalid_argument, "create", "compressed page store",
                   "it lives in local memory: leave the path out, or choose a mapped store");
  return {};
}

MappedStoreOptions mapped_options(const StoreConfig& config) {
  return {.path = config.path, .capacity = config.capacity, .roots = config.roots};
}

CompressedStoreOptions compressed_options(const StoreConfig& config) {
  return {.capacity = config.capacity, .codec = config.codec, .level = config.level, .roots = config.roots};
}

Result<RunningStore> run(Result<std::unique_ptr<EmbeddedStore>> store, const StoreConfig& config) {
  if (!store) return Failure{store.error()};
  RunningStore running;
  running.store = std::move(*store);
  if (config.maintain_every.count() > 0)
    running.maintainer = std::make_unique<Maintainer>(*running.store, config.maintain_every);
  return running;
}

UniqueFd take(std::vector<HeldFd>& held, const std::string& name) {
  const auto found = std::ranges::find(held, name, &HeldFd::name);
  if (found == held.end()) return {};
  UniqueFd fd = std::move(found->fd);
  held.erase(found);
  return fd;
}

}  // namespace

struct Maintainer::Thread {
  std::mutex lock;
  std::condition_variable_any wake;
  std::jthread thread;
};

Maintainer::Maintainer(EmbeddedStore& store, std::chrono::milliseconds period) : thread_(std::make_unique<Thread>()) {
  thread_->thread = std::jthread([&store, period, state = thread_.get()](const std::stop_token& stop) {
    std::unique_lock lock(state->lock);
    while (!stop.stop_requested()) {
      // Between two pieces of work others may have the processor, but the next one is due.
      const bool more = store.maintain();
      state->wake.wait_for(lock, stop, more ? std::chrono::milliseconds(1) : period, [] { return false; });
    }
  });
}

Maintainer::~Maintainer() = default;

Result<RunningStore> create_store(const StoreConfig& config) {
  if (auto sound = check(config); !sound) return Failure{sound.error()};
  if (config.kind == StoreChoice::kMapped) return run(create_mapped_store(mapped_options(config)), config);
  return run(create_compressed_store(compressed_options(config)), config);
}

Result<RunningStore> open_store(const StoreConfig& config, std::vector<HeldFd>& held) {
  UniqueFd data = take(held, "store/data");
  UniqueFd table = take(held, "store/table");
  if (!data.valid() && !table.valid())
    return failure(std::errc::no_such_file_or_directory, "open", "page store", "none is held");
  if (!data.valid() || !table.valid())
    return failure(std::errc::io_error, "open", "page store", "only one half of it is held");
  if (config.kind == StoreChoice::kMapped)
    return run(open_mapped_store(std::move(data), std::move(table), mapped_options(config)), config);
  return run(open_compressed_store(std::move(data), std::move(table), compressed_options(config)), config);
}

Result<> hold_store(FdHolder& holder, const EmbeddedStore& store) {
  for (const auto& [name, fd] : store.held_descriptors())
    if (auto stored = holder.store(name, fd); !stored) return stored;
  return {};
}

}  // namespace tidepool::pool
