#include "kmod-interfaces/page_idle_bitmap.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

constexpr const char* kSubject = "the bitmap of idle pages";

// Words per call: a call holds no lock for longer than these frames take.
constexpr std::size_t kBatch = 64;

// How many of the frames from `begin` on lie in consecutive words, at most kBatch of them; `words` becomes their
// number.
std::size_t run_of(std::span<const std::uint64_t> frames, std::size_t begin, std::size_t& words) {
  const std::uint64_t first = frames[begin] / 64;
  std::uint64_t last = first;
  std::size_t end = begin + 1;
  for (; end < frames.size(); ++end) {
    const std::uint64_t word = frames[end] / 64;
    if (word > last + 1 || word < last || word >= first + kBatch) break;
    last = word;
  }
  words = last - first + 1;
  return end - begin;
}

off_t offset_of(IdleWord word) {
  return static_cast<off_t>(word.index * sizeof(std::uint64_t));
}

}  // namespace

Result<PageIdleBitmap> PageIdleBitmap::open(const KernelRoots& roots) {
  const std::string path = roots.sys + "/kernel/mm/page_idle/bitmap";
  auto file = open_at(AT_FDCWD, path, O_RDWR | O_CLOEXEC, path);
  if (!file) return Failure{file.error()};
  PageIdleBitmap bitmap;
  bitmap.fd_ = std::move(*file);
  return bitmap;
}

Result<std::size_t> PageIdleBitmap::mark(IdleWord first, std::span<const std::uint64_t> words) const {
  const ssize_t done = ::pwrite(fd_.get(), words.data(), words.size_bytes(), offset_of(first));
  if (done < 0) return errno_failure("mark pages idle in", kSubject);
  return static_cast<std::size_t>(done) / sizeof(std::uint64_t);
}

Result<std::size_t> PageIdleBitmap::read(IdleWord first, std::span<std::uint64_t> out) const {
  const ssize_t got = ::pread(fd_.get(), out.data(), out.size_bytes(), offset_of(first));
  if (got < 0) return errno_failure("read", kSubject);
  return static_cast<std::size_t>(got) / sizeof(std::uint64_t);
}

Result<> PageIdleBitmap::mark_frames(std::span<const std::uint64_t> frames) const {
  std::array<std::uint64_t, kBatch> masks{};
  for (std::size_t begin = 0; begin < frames.size();) {
    std::size_t words = 0;
    const std::size_t count = run_of(frames, begin, words);
    const IdleWord first = IdleWord::of(frames[begin]);
    std::fill_n(masks.begin(), words, 0);
    for (std::size_t i = begin; i < begin + count; ++i) masks[frames[i] / 64 - first.index] |= IdleWord::bit(frames[i]);
    if (auto marked = mark(first, std::span(masks).first(words)); !marked) return Failure{marked.error()};
    begin += count;
  }
  return {};
}

Result<> PageIdleBitmap::read_frames(std::span<const std::uint64_t> frames, std::span<std::uint8_t> idle) const {
  std::array<std::uint64_t, kBatch> bits{};
  for (std::size_t begin = 0; begin < frames.size();) {
    std::size_t words = 0;
    const std::size_t count = run_of(frames, begin, words);
    const IdleWord first = IdleWord::of(frames[begin]);
    const auto got = read(first, std::span(bits).first(words));
    if (!got) return Failure{got.error()};
    for (std::size_t i = begin; i < begin + count; ++i) {
      const std::uint64_t word = frames[i] / 64 - first.index;
      idle[i] = word >= *got ? kBeyondMemory : static_cast<std::uint8_t>((bits[word] & IdleWord::bit(frames[i])) != 0);
    }
    begin += count;
  }
  return {};
}

}  // namespace tidepool::kernel
