#include "pool/store/file_store.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "pool/store/file_store_core.h"

namespace tidepool::pool {
namespace file {
Result<> FileStore::start(const FileStoreOptions& options) {
  if (secret_ != nullptr) {
    if (secret_->key() == nullptr) {
      if (auto advanced = secret_->advance(); !advanced) return advanced;
    }
    auto sealers = SealerPool::create(*secret_->key());
    if (!sealers) return Failure{sealers.error()};
    sealers_ = std::move(*sealers);
  }
  if (auto set = set_capacity(options.capacity); !set) return set;
  if (const int error = ::io_uring_queue_init(options.depth, &ring_, 0); error != 0)
    return failure_from(-error, "create", "io_uring", "the kernel must offer it: see kernel.io_uring_disabled");
  ring_made_ = true;
  answers_ = UniqueFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  ending_ = UniqueFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!answers_.valid() || !ending_.valid()) return errno_failure("create", "eventfd");
  if (const int error = ::io_uring_register_eventfd(&ring_, answers_.get()); error != 0)
    return failure_from(-error, "register", "eventfd");
  auto buffers = Mapping::anonymous(Bytes{options.depth * kPageSize});
  if (!buffers) return Failure{buffers.error()};
  buffers_ = std::move(*buffers);
  ops_.resize(options.depth);
  std::vector<iovec> parts(options.depth);
  for (unsigned i = 0; i < options.depth; ++i) {
    ops_[i].buffer = buffers_.data() + i * kPageSize;
    ops_[i].buffer_index = static_cast<int>(i);
    parts[i] = {ops_[i].buffer, kPageSize};
    free_ops_.push_back(&ops_[i]);
  }
  // Saves pinning them for each request; where memory may not be locked, they are pinned each time.
  fixed_ = ::io_uring_register_buffers(&ring_, parts.data(), options.depth) == 0;
  thread_ = std::thread([this] { run(); });
  return {};
}

FileStore::~FileStore() {
  if (thread_.joinable()) {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(ending_.get(), &one, sizeof(one)));
    thread_.join();
  }
  // What is under way writes into the buffers: it is waited for.
  while (ring_made_) {
    {
      const std::lock_guard lock(mutex_);
      if (free_ops_.size() == ops_.size()) break;
    }
    pollfd wait{answers_.get(), POLLIN, 0};
    ::poll(&wait, 1, kIdlePollMs);
    reap();
  }
  if (ring_made_) ::io_uring_queue_exit(&ring_);
}

StoreUsage FileStore::usage() const {
  StoreUsage usage;
  usage.capacity = capacity_.load();
  usage.process_memory = SlotSet::cost(limit_.load()) + Bytes{buffers_.size() + ops_.size() * sizeof(Op)};
  usage.metadata = table_.populated() + usage.process_memory;
  usage.pages = PageCount{pages_.load()};
  usage.used = Bytes{occupied_.load() * kPageSize} + usage.metadata;
  return usage;
}

StoreErrors FileStore::errors() const {
  return {refused_releases_.load(), refused_writes_.load(), stale_reads_.load(), corrupt_pages_.load(),
          bad_entries_.load()};
}

Result<> FileStore::set_capacity(Bytes capacity) {
  const std::uint64_t slots = whole_pages(capacity).value;
  if (slots == 0 || slots > table_.slots())
    return failure(
        std::errc::invalid_argument, "set capacity of", "file store",
        "it must be between a page and the " + std::to_string(table_.slots() * kPageSize) + " bytes that the file has");
  limit_ = slots;
  capacity_ = capacity;
  return {};
}

void FileStore::release(std::span<const Location> locations) {
  for (const Location location : locations) {
    const DropResult dropped = table_.drop(location, SlotState::kFree);
    if (dropped == DropResult::kRefused) ++refused_releases_;
    if (dropped != DropResult::kLast) continue;
    --pages_;
    free_.give({slot_of(location), 1});
    --occupied_;
  }
}

void FileStore::for_each_live(const std::function<void(Location, std::uint32_t)>& visit) const {
  table_.for_each_touched([&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t slot = first; slot < end; ++slot) {
      const SlotWord word = table_.load(slot);
      if (word.state == SlotState::kLive) visit(make_location(slot, word.generation), word.references);
    }
  });
}

// Nobody writes any more what a predecessor had staged: what is under way when a process ends is ended or taken back by
// the kernel before the ring is gone.
void FileStore::recover() {
  table_.for_each_touched([&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t slot = first; slot < end; ++slot) {
      SlotWord word = table_.load(slot);
      const std::uint64_t version = table_.second(slot).load(std::memory_order_relaxed);
      const bool possible = secret_ == nullptr ? version == 0 : version != 0 && version <= secret_->highest_inherited();
      if (!word.plausible() || (word.state == SlotState::kLive && !possible)) {
        word = {.state = SlotState::kBad};
      } else if (word.state != SlotState::kLive && word.state != SlotState::kBad) {
        if (word.state == SlotState::kStaged) ++word.generation;
        word = {.generation = word.generation};
      }
      table_.word(slot).store(word.pack(), std::memory_order_relaxed);
      if (word.state == SlotState::kFree) continue;
      free_.take_one(slot);
      ++occupied_;
      ++(word.state == SlotState::kLive ? pages_ : bad_entries_);
    }
  });
}

}  // namespace file

namespace {

constexpr unsigned kEntryWords = 4;  // word, version, tag
constexpr std::uint32_t kPlainForm = 0;
constexpr std::uint32_t kSealedForm = 1;  // StoreHeader::codec

Result<> check_depth(const FileStoreOptions& options) {
  if (options.depth >= 8 && options.depth <= 1024) return {};
  return failure(std::errc::invalid_argument, "use", "file store", "its depth must be 8 to 1024");
}

Result<std::unique_ptr<file::FileStore>> assemble(DirectFile file, SlotTable table, const FileStoreOptions& options) {
  auto free = SlotSet::create(table.slots(), SlotSet::Initially::kFull, SlotSet::Order::kLowest);
  if (!free) return Failure{free.error()};
  return std::make_unique<file::FileStore>(std::move(file), std::move(table), std::move(*free), options);
}

}  // namespace

Result<std::unique_ptr<EmbeddedStore>> create_file_store(const FileStoreOptions& options) {
  if (auto sound = check_depth(options); !sound) return Failure{sound.error()};
  auto file = open_direct(options.path, options.capacity);
  if (!file) return Failure{file.error()};
  const SlotTableSpec spec{.kind = StoreLayoutKind::kFile,
                           .entry_words = kEntryWords,
                           .unit_bytes = kPageSize,
                           .slots = std::min(whole_pages(file->size).value, kMaxSlots),
                           .data_bytes = file->size,
                           .codec = options.secret != nullptr ? kSealedForm : kPlainForm};
  auto table = SlotTable::create(spec, file->fd.get());
  if (!table) return Failure{table.error()};
  auto store = assemble(std::move(*file), std::move(*table), options);
  if (!store) return Failure{store.error()};
  if (auto started = (*store)->start(options); !started) return Failure{started.error()};
  return std::unique_ptr<EmbeddedStore>(std::move(*store));
}

Result<std::unique_ptr<EmbeddedStore>> open_file_store(UniqueFd data, UniqueFd table_fd,
                                                       const FileStoreOptions& options) {
  if (auto sound = check_depth(options); !sound) return Failure{sound.error()};
  auto table = SlotTable::open(StoreLayoutKind::kFile, std::move(table_fd), data.get());
  if (!table) return Failure{table.error()};
  const StoreHeader& header = table->header();
  if (header.unit_bytes != kPageSize || header.slots > header.data_bytes / kPageSize)
    return failure(std::errc::invalid_argument, "open", "page store table", "its geometry makes no sense");
  if ((header.codec == kSealedForm) != (options.secret != nullptr))
    return failure(
        std::errc::invalid_argument, "open", "page store table",
        header.codec == kSealedForm ? "its pages are sealed: their key is needed" : "its pages are not sealed");
  auto store = assemble({std::move(data), Bytes{header.data_bytes}}, std::move(*table), options);
  if (!store) return Failure{store.error()};
  (*store)->recover();
  if (auto started = (*store)->start(options); !started) return Failure{started.error()};
  return std::unique_ptr<EmbeddedStore>(std::move(*store));
}

}  // namespace tidepool::pool
