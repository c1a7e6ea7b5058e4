// Compresses single pages. LZ4 for speed, zstd where memory is dearer than time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "base/units.h"

namespace tidepool::pool {

// Part of the layout that outlives the process: values are never reused.
enum class CodecKind : std::uint32_t { kLz4 = 1, kZstd = 2 };

class Codec {
 public:
  // `level`: LZ4's acceleration (1 to 65537, 1 compresses best) or zstd's level (-7 to 19); 0 is the default of
  // each, 1.
  static Result<std::unique_ptr<Codec>> create(CodecKind kind, int level);
  virtual ~Codec() = default;

  // Thread-safe, and allocating nothing: working memory is made at creation, for as many threads as the host runs at
  // once; more than those take turns. The compressed size, or 0 when it does not fit into `out`.
  virtual std::size_t compress(const std::byte* page, std::span<std::byte> out) = 0;
  // False for anything but a compressed page of 4 KiB; never writes beyond it, whatever the bytes are.
  virtual bool decompress(std::span<const std::byte> compressed, std::byte* page) = 0;
  virtual Bytes memory() const = 0;
};

}  // namespace tidepool::pool
