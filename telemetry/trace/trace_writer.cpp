#include "telemetry/trace/trace_writer.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

namespace tidepool::telemetry {
namespace {

// A block compresses well from here on, and is bounded work for reader and writer.
constexpr std::size_t kFullBlock = 64 << 10;
constexpr std::size_t kMostContent = kFullBlock + SampleEncoder::kMostPerRecord;
// What a crash can take with it.
constexpr Nanoseconds kBlockSpan = std::chrono::seconds(5);
constexpr std::size_t kEndContent = 30;  // three numbers

Result<> check(const TraceDescription& description) {
  if (description.vm.size() > kLongestTracedName)
    return failure(std::errc::invalid_argument, "trace", description.vm.substr(0, kLongestTracedName),
                   "a name has at most " + std::to_string(kLongestTracedName) + " bytes");
  if (description.objects.size() > kMostTracedObjects)
    return failure(std::errc::invalid_argument, "trace", description.vm,
                   "it has more than " + std::to_string(kMostTracedObjects) + " memory objects");
  return {};
}

}  // namespace

TraceWriter::TraceWriter(UniqueFd file, std::string path, TraceDescription description, Bytes most)
    : file_(std::move(file)), path_(std::move(path)), description_(std::move(description)), most_(most) {}

Result<TraceWriter> TraceWriter::begin(UniqueFd file, std::string path, TraceDescription description, Bytes most) {
  if (auto fine = check(description); !fine) return Failure{fine.error()};
  if (most < kSmallestTrace)
    return failure(std::errc::invalid_argument, "write", std::move(path), "a trace needs room for at least 1 MiB");
  TraceWriter writer(std::move(file), std::move(path), std::move(description), most);
  if (auto written = writer.write_prefix(); !written) return Failure{written.error()};
  if (auto written = writer.write_description(); !written) return Failure{written.error()};
  return writer;
}

Result<> TraceWriter::write_prefix() {
  std::string prefix(kTraceMagic);
  put_u32(prefix, kTraceVersion);
  put_u32(prefix, static_cast<std::uint32_t>(kPageSize));
  return write_all(prefix);
}

Result<> TraceWriter::write_description() {
  std::string content;
  const auto recorded = std::chrono::duration_cast<Nanoseconds>(description_.recorded.time_since_epoch());
  put_varint(content, description_.vm.size());
  content += description_.vm;
  put_signed(content, recorded.count());
  put_signed(content, description_.start.since_boot.count());
  put_varint(content, description_.objects.size());
  for (const TracedObject& each : description_.objects) {
    put_varint(content, each.object);
    put_varint(content, each.pages.value);
  }
  if (!room_for(content.size())) {
    full_ = true;
    return {};
  }
  return write_block(BlockKind::kDescription, content);
}

Result<> TraceWriter::describe(std::vector<TracedObject> objects) {
  if (full_ || objects == description_.objects) return {};
  description_.objects = std::move(objects);
  if (auto fine = check(description_); !fine) return fine;
  if (auto flushed = flush(); !flushed) return flushed;
  return write_description();
}

Result<bool> TraceWriter::round(MonoTime at, std::span<const policy::AccessSample> samples) {
  const auto make_room = [&]() -> Result<bool> {
    if (samples_.content().size() < kFullBlock) return true;
    if (auto flushed = flush(); !flushed) return Failure{flushed.error()};
    block_began_ = at;
    full_ = !room_for(kMostContent);
    return !full_;
  };
  if (samples_.content().empty()) {
    full_ = full_ || !room_for(kMostContent);
    block_began_ = at;
  }
  if (full_) return false;
  samples_.round(at);
  ++totals_.rounds;
  for (const policy::AccessSample& sample : samples) {
    if (!traceable(sample)) {
      ++totals_.lost;
      continue;
    }
    const Result<bool> room = make_room();
    if (!room) return Failure{room.error()};
    if (!*room) return false;
    samples_.sample(sample);
    ++totals_.samples;
  }
  const bool ripe = at - block_began_ >= kBlockSpan || samples_.content().size() >= kFullBlock;
  if (!ripe) return true;
  if (auto flushed = flush(); !flushed) return Failure{flushed.error()};
  return true;
}

Result<> TraceWriter::finish(std::uint64_t lost) {
  if (auto flushed = flush(); !flushed) return flushed;
  totals_.lost += lost;
  std::string content;
  put_varint(content, totals_.rounds);
  put_varint(content, totals_.samples);
  put_varint(content, totals_.lost);
  if (auto written = write_block(BlockKind::kEnd, content); !written) return written;
  // Some file systems tell only now that there was no room.
  if (::fsync(file_.get()) != 0 && errno != EINVAL && errno != ENOTSUP) return errno_failure("write", path_);
  return {};
}

bool TraceWriter::room_for(std::size_t content) const {
  return written_.value + longest_block(content) + longest_block(kEndContent) <= most_.value;
}

Result<> TraceWriter::flush() {
  if (samples_.content().empty()) return {};
  auto written = write_block(BlockKind::kSamples, samples_.content());
  samples_.clear();
  return written;
}

Result<> TraceWriter::write_block(BlockKind kind, std::string_view content) {
  const auto block = codec_.pack(kind, content);
  if (!block) return Failure{block.error()};
  return write_all(*block);
}

Result<> TraceWriter::write_all(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(file_.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno_failure("write", path_, "what was written before can be read");
    if (count == 0) return failure(std::errc::io_error, "write", path_, "the file takes no more bytes");
    bytes.remove_prefix(static_cast<std::size_t>(count));
    written_ += Bytes{static_cast<std::uint64_t>(count)};
  }
  return {};
}

}  // namespace tidepool::telemetry
