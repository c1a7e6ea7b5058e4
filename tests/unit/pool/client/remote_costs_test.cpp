// What a demand read must not cost: memory from the heap.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/unit/pool/client/remote_kit.h"

namespace {

std::atomic<std::uint64_t> allocations{0};

}  // namespace

void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace tidepool::pool::testing {
namespace {

// Answers at once, from memory that is there already.
class InstantLink final : public Link {
 public:
  const std::string& server() const override { return name_; }
  void listen(LinkEvents events) override { events.up(true); }
  void attach(const Lease&, std::function<void(AttachOutcome, protocol::ErrorCode)> done) override {
    done(AttachOutcome::kCreated, protocol::ErrorCode::kOk);
  }
  void release(protocol::SliceId) override {}
  void submit(LinkRequest& request) override {
    for (LinkItem& item : request.items) {
      item.status = protocol::ErrorCode::kOk;
      Stored& stored = pages_[item.slot % pages_.size()];
      if (request.op == LinkOp::kWrite) {
        stored.page = item;
        std::memcpy(stored.bytes.bytes.data(), item.payload, item.length);
      } else if (request.op == LinkOp::kRead) {
        item = {item.slot, stored.page.version, stored.page.length, stored.page.tag, item.payload, item.status};
        std::memcpy(item.payload, stored.bytes.bytes.data(), kPageSize);
      }
    }
    request.done(request, LinkOutcome::kAnswered);
  }
  bool cancel(LinkRequest&) override { return false; }
  int answers_descriptor() const override { return -1; }
  void take_answers() override {}
  LinkFigures figures() const override { return {}; }

 private:
  struct Stored {
    LinkItem page;
    Page bytes;
  };
  const std::string name_ = "here";
  std::vector<Stored> pages_ = std::vector<Stored>(64);
};

TEST(RemoteStoreCosts, AReadAllocatesNothing) {
  RemoteStoreOptions options;
  options.capacity = Bytes{8ull << 20};
  options.slice = Bytes{2ull << 20};
  options.replicas = 1;
  options.own_thread = false;
  std::vector<RemoteServer> servers(1);
  servers[0].link = std::make_unique<InstantLink>();
  auto made = create_remote_store(std::move(servers), any_lease, std::move(*VmSecret::create()), options);
  ASSERT_TRUE(made);
  Page page = quick_page(1);
  WriteItem written{.buffer = page.bytes.data()};
  WriteBatch write{std::span(&written, 1), Priority::kWriteBack, {}};
  (*made)->submit_write(write);
  for (int i = 0; i < 10 && written.status == PageStatus::kPending; ++i) (*made)->work();
  ASSERT_EQ(written.status, PageStatus::kOk);
  ReadItem item{.location = written.location, .buffer = page.bytes.data()};
  unsigned done = 0;
  ReadBatch batch{std::span(&item, 1), Priority::kDemand, [&done](ReadBatch&) { ++done; }};
  (*made)->submit_read(batch);
  const std::uint64_t before = allocations;
  for (int i = 0; i < 1000; ++i) {
    page.bytes.fill(std::byte{0});
    (*made)->submit_read(batch);
  }
  EXPECT_EQ(allocations, before);
  EXPECT_EQ(done, 1001u);
  EXPECT_EQ(item.status, PageStatus::kOk);
  EXPECT_EQ(page, quick_page(1));
}

}  // namespace
}  // namespace tidepool::pool::testing
