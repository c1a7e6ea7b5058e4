// The file store itself; included by its own sources only. file_store.cpp makes it and finds it again,
// file_store_io.cpp is the way to the device and back.
#pragma once

#include <liburing.h>

#include <array>
#include <atomic>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "pool/client/sealer_pool.h"
#include "pool/store/batch_state.h"
#include "pool/store/direct_file.h"
#include "pool/store/file_store.h"
#include "pool/store/slot_set.h"
#include "pool/store/slot_table.h"

namespace tidepool::pool::file {

inline constexpr int kIdlePollMs = 100;

using Reads = BatchState<ReadBatch>;
using Writes = BatchState<WriteBatch>;

// One page on its way, with a buffer that the device can reach.
struct Op {
  std::byte* buffer = nullptr;
  int buffer_index = 0;
  Reads* reads = nullptr;    // either this
  Writes* writes = nullptr;  // or this
  ReadItem* read = nullptr;
  WriteItem* write = nullptr;
  std::uint64_t slot = 0;
  SlotWord word{};
  std::uint64_t version = 0;
  protocol::Tag tag{};
  bool ready = false;
  PageStatus status = PageStatus::kPending;
  Op* following = nullptr;
};

struct Told {
  Chain<Reads> reads;
  Chain<Writes> writes;
};

class FileStore final : public EmbeddedStore {
 public:
  FileStore(DirectFile file, SlotTable table, SlotSet free, const FileStoreOptions& options)
      : file_(std::move(file)), table_(std::move(table)), free_(std::move(free)), secret_(options.secret) {}
  ~FileStore() override;

  Result<> start(const FileStoreOptions& options);
  void recover();

  std::string kind() const override { return "file"; }
  bool uses_host_dram() const override { return false; }
  StoreUsage usage() const override;
  void stage(std::span<WriteItem>) override {}
  void unstage(std::span<WriteItem> items) override {
    for (WriteItem& item : items) item = {};
  }
  void submit_write(WriteBatch& batch) override;
  void submit_read(ReadBatch& batch) override;
  void cancel(WriteBatch& batch) override;
  void cancel(ReadBatch& batch) override;
  int answers_descriptor() const override { return answers_.get(); }
  void take_answers() override;
  Result<> retain(Location location) override { return table_.retain(location); }
  void release(std::span<const Location> locations) override;

  std::vector<std::pair<std::string, int>> held_descriptors() const override {
    std::vector<std::pair<std::string, int>> held{{"store/data", file_.fd.get()}, {"store/table", table_.fd()}};
    if (secret_ != nullptr) held.emplace_back("store/secret", secret_->fd());
    return held;
  }
  Result<> set_capacity(Bytes capacity) override;
  bool maintain() override { return false; }
  void for_each_live(const std::function<void(Location, std::uint32_t)>& visit) const override;
  StoreErrors errors() const override;

 private:
  template <class Batch>
  void submit(Batch& batch, std::vector<BatchState<Batch>*>& free, std::vector<std::unique_ptr<BatchState<Batch>>>& all,
              Chain<BatchState<Batch>>& queue);
  template <class Batch>
  void cancel_in(Batch& batch, std::vector<std::unique_ptr<BatchState<Batch>>>& all);
  // Begins what may begin, and goes on until nothing more can.
  void pump(std::unique_lock<std::mutex>& lock, Told& told);
  Op* begin_read(Reads& state, Told& told);
  Op* begin_write(Writes& state, Told& told);
  Op* next_op(Told& told);
  void prepare(Op& op);
  void place(Op& op);
  void reap();
  void judge(Op& op, int result);
  void end(Op& op, Told& told);
  template <class Batch>
  static void answer(BatchState<Batch>& state, PageStatus& status, PageStatus value, Chain<BatchState<Batch>>& told) {
    status = value;
    if (--state.remaining == 0) told.push(&state);
  }
  void tell(Told& told);
  void run();
  SealPlace place_of(const Op& op) const { return {{}, static_cast<std::uint32_t>(op.slot), op.version}; }

  DirectFile file_;
  SlotTable table_;
  SlotSet free_;
  std::shared_ptr<VmSecret> secret_;
  std::unique_ptr<SealerPool> sealers_;
  std::atomic<std::uint64_t> limit_{0};  // slots
  std::atomic<Bytes> capacity_{};
  std::atomic<std::uint64_t> occupied_{0};
  std::atomic<std::uint64_t> pages_{0};

  // Guards the ring and the queues. Not held while pages are sealed, opened or copied, nor while the caller is told.
  std::mutex mutex_;
  io_uring ring_{};
  bool ring_made_ = false;
  bool fixed_ = false;  // buffers are registered
  UniqueFd answers_;
  UniqueFd ending_;
  Mapping buffers_;
  std::vector<Op> ops_;
  std::vector<Op*> free_ops_;
  std::size_t writes_under_way_ = 0;
  Chain<Reads> demand_queue_;
  Chain<Reads> prefetch_queue_;
  Chain<Writes> write_queue_;
  std::vector<std::unique_ptr<Reads>> read_states_;
  std::vector<Reads*> free_reads_;
  std::vector<std::unique_ptr<Writes>> write_states_;
  std::vector<Writes*> free_writes_;
  std::atomic<std::int64_t> taken_at_{0};
  std::thread thread_;

  std::atomic<std::uint64_t> refused_releases_{0};
  std::atomic<std::uint64_t> refused_writes_{0};
  std::atomic<std::uint64_t> stale_reads_{0};
  std::atomic<std::uint64_t> corrupt_pages_{0};
  std::atomic<std::uint64_t> bad_entries_{0};
};

}  // namespace tidepool::pool::file
