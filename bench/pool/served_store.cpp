#include "bench/pool/served_store.h"

#include <array>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <utility>

#include "pool/client/server_pool.h"

namespace tidepool::bench {

ServedStore::ServedStore(int port, bool share) : server_(port, Bytes{512u << 20}, true, share) {
  pool::ServerPoolOptions options;
  pool::ServerSpec& server = options.servers.emplace_back();
  server.name = "bench";
  server.address = server_.address();
  server.key = MemdProcess::key();
  options.store.capacity = Bytes{1u << 30};
  options.store.replicas = 1;
  auto made = pool::make_server_pool(std::move(options));
  if (!made) throw std::runtime_error(made.error().message());
  pool_ = std::move(*made);
  auto store = pool_->open_for("bench");
  if (!store) throw std::runtime_error(store.error().message());
  store_ = std::move(*store);
  lease();
}

ServedStore::~ServedStore() {
  store_.reset();
  pool_->close_for("bench");
}

// A page that stays keeps the first slice.
void ServedStore::lease() {
  std::array<std::byte, kPageSize> page{};
  for (int tries = 0; tries < 400; ++tries) {
    pool::WriteItem item{.buffer = page.data()};
    std::atomic<bool> ended{false};
    pool::WriteBatch batch{std::span(&item, 1), pool::Priority::kWriteBack, [&](pool::WriteBatch&) {
                             ended = true;
                             ended.notify_one();
                           }};
    store_->submit_write(batch);
    ended.wait(false);
    if (item.status == pool::PageStatus::kOk) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(25));
  }
  throw std::runtime_error("the server takes no pages");
}

}  // namespace tidepool::bench
