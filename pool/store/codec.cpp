#include "pool/store/codec.h"

#include <lz4.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "pool/store/thread_shard.h"

namespace tidepool::pool {
namespace {

constexpr unsigned kMostContexts = 32;

unsigned context_count() {
  return std::clamp(2 * std::thread::hardware_concurrency(), 4u, kMostContexts);
}

// Working memory that is used by one thread at a time. A thread prefers the same piece, which is warm in its core's
// cache.
template <class State>
class ContextPool {
  struct alignas(64) Context {
    std::atomic_flag busy;
    State state{};
  };

 public:
  explicit ContextPool(unsigned count) : contexts_(count) {}

  class Lease {
   public:
    explicit Lease(ContextPool& pool) {
      for (unsigned i = thread_shard();; ++i) {
        Context& context = pool.contexts_[i % pool.contexts_.size()];
        if (!context.busy.test(std::memory_order_relaxed) && !context.busy.test_and_set(std::memory_order_acquire)) {
          context_ = &context;
          return;
        }
        if ((i + 1) % pool.contexts_.size() == 0) std::this_thread::yield();
      }
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() { context_->busy.clear(std::memory_order_release); }
    State& operator*() const { return context_->state; }
    State* operator->() const { return &context_->state; }

   private:
    Context* context_ = nullptr;
  };

  template <class Visit>
  void for_each(Visit visit) {
    for (Context& context : contexts_) visit(context.state);
  }
  std::size_t size() const { return contexts_.size(); }

 private:
  std::vector<Context> contexts_;
};

class Lz4Codec final : public Codec {
 public:
  explicit Lz4Codec(int acceleration) : acceleration_(acceleration), contexts_(context_count()) {
    contexts_.for_each([](LZ4_stream_t& stream) { LZ4_initStream(&stream, sizeof(stream)); });
  }

  std::size_t compress(const std::byte* page, std::span<std::byte> out) override {
    const typename ContextPool<LZ4_stream_t>::Lease stream(contexts_);
    // Spares the clearing of the 16 KiB table that the one-shot call does for every page.
    LZ4_resetStream_fast(&*stream);
    const int size =
        LZ4_compress_fast_continue(&*stream, reinterpret_cast<const char*>(page), reinterpret_cast<char*>(out.data()),
                                   static_cast<int>(kPageSize), static_cast<int>(out.size()), acceleration_);
    if (size > 0) return static_cast<std::size_t>(size);
    // After a failure the state is undefined (lz4.h), so it must be made anew.
    LZ4_initStream(&*stream, sizeof(LZ4_stream_t));
    return 0;
  }

  bool decompress(std::span<const std::byte> compressed, std::byte* page) override {
    return LZ4_decompress_safe(reinterpret_cast<const char*>(compressed.data()), reinterpret_cast<char*>(page),
                               static_cast<int>(compressed.size()),
                               static_cast<int>(kPageSize)) == static_cast<int>(kPageSize);
  }

  Bytes memory() const override { return Bytes{contexts_.size() * sizeof(LZ4_stream_t)}; }

 private:
  const int acceleration_;
  ContextPool<LZ4_stream_t> contexts_;
};

struct ZstdContexts {
  ZSTD_CCtx* compress = nullptr;
  ZSTD_DCtx* decompress = nullptr;
};

class ZstdCodec final : public Codec {
 public:
  explicit ZstdCodec(int level) : contexts_(context_count()) {
    // One page each, so that all memory is there before it is needed.
    const std::vector<std::byte> page(kPageSize, std::byte{7});
    std::vector<std::byte> out(kPageSize);
    std::vector<std::byte> back(kPageSize);
    contexts_.for_each([&](ZstdContexts& context) {
      context.compress = ZSTD_createCCtx();
      context.decompress = ZSTD_createDCtx();
      if (context.compress == nullptr || context.decompress == nullptr) {
        complete_ = false;
        return;
      }
      ZSTD_CCtx_setParameter(context.compress, ZSTD_c_compressionLevel, level);
      // The page's size is known and the page has a checksum already.
      ZSTD_CCtx_setParameter(context.compress, ZSTD_c_contentSizeFlag, 0);
      ZSTD_CCtx_setParameter(context.compress, ZSTD_c_checksumFlag, 0);
      ZSTD_CCtx_setParameter(context.compress, ZSTD_c_windowLog, 12);
      const std::size_t size = ZSTD_compress2(context.compress, out.data(), out.size(), page.data(), page.size());
      if (ZSTD_isError(size) != 0 ||
          ZSTD_decompressDCtx(context.decompress, back.data(), back.size(), out.data(), size) != back.size())
        complete_ = false;
    });
  }
  ZstdCodec(const ZstdCodec&) = delete;
  ZstdCodec& operator=(const ZstdCodec&) = delete;
  ~ZstdCodec() override {
    contexts_.for_each([](ZstdContexts& context) {
      ZSTD_freeCCtx(context.compress);
      ZSTD_freeDCtx(context.decompress);
    });
  }
  bool complete() const { return complete_; }

  std::size_t compress(const std::byte* page, std::span<std::byte> out) override {
    const typename ContextPool<ZstdContexts>::Lease context(contexts_);
    const std::size_t size = ZSTD_compress2(context->compress, out.data(), out.size(), page, kPageSize);
    return ZSTD_isError(size) != 0 ? 0 : size;
  }

  bool decompress(std::span<const std::byte> compressed, std::byte* page) override {
    const typename ContextPool<ZstdContexts>::Lease context(contexts_);
    return ZSTD_decompressDCtx(context->decompress, page, kPageSize, compressed.data(), compressed.size()) == kPageSize;
  }

  Bytes memory() const override {
    Bytes total;
    const_cast<ContextPool<ZstdContexts>&>(contexts_).for_each([&](const ZstdContexts& context) {
      total += Bytes{ZSTD_sizeof_CCtx(context.compress) + ZSTD_sizeof_DCtx(context.decompress)};
    });
    return total;
  }

 private:
  ContextPool<ZstdContexts> contexts_;
  bool complete_ = true;
};

}  // namespace

Result<std::unique_ptr<Codec>> Codec::create(CodecKind kind, int level) {
  const auto bad_level = [&](const char* range) {
    return failure(std::errc::invalid_argument, "use", "compression level " + std::to_string(level), range);
  };
  if (level == 0) level = 1;
  if (kind == CodecKind::kLz4) {
    if (level < 1 || level > 65537) return bad_level("lz4 has 1 to 65537");
    return std::unique_ptr<Codec>(std::make_unique<Lz4Codec>(level));
  }
  if (kind != CodecKind::kZstd)
    return failure(std::errc::invalid_argument, "use", "compression", "there is no such codec");
  if (level < -7 || level > 19) return bad_level("zstd has -7 to 19");
  auto codec = std::make_unique<ZstdCodec>(level);
  if (!codec->complete()) return failure(std::errc::not_enough_memory, "prepare", "zstd");
  return std::unique_ptr<Codec>(std::move(codec));
}

}  // namespace tidepool::pool
