#include "telemetry/trace/trace_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <utility>

namespace tidepool::telemetry {

Result<std::unique_ptr<TraceReader>> TraceReader::open(const std::string& path, VmId vm) {
  UniqueFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!file.valid()) return errno_failure("open trace", path);
  return open(std::move(file), path, vm);
}

Result<std::unique_ptr<TraceReader>> TraceReader::open(UniqueFd file, std::string path, VmId vm) {
  std::unique_ptr<TraceReader> reader(new TraceReader(std::move(file), std::move(path), vm));
  if (auto read = reader->read_prefix(); !read) return Failure{read.error()};
  const auto first = reader->read_block();
  if (!first) return Failure{first.error()};
  if (!*first)
    return failure(std::errc::invalid_argument, "read trace", reader->path_,
                   "it is cut off before it says whose it is");
  if ((*first)->kind != BlockKind::kDescription) return reader->damaged("it does not begin with whose it is");
  if (auto read = reader->describe((*first)->content); !read) return Failure{read.error()};
  return reader;
}

Failure TraceReader::damaged(const std::string& what) const {
  return failure(std::errc::bad_message, "read trace", path_,
                 "damaged in the block at byte " + std::to_string(block_began_) + ": " + what);
}

// Fewer than wanted: the file is at its end.
Result<std::string> TraceReader::read_bytes(std::size_t count) {
  std::string bytes(count, '\0');
  std::size_t have = 0;
  while (have < count) {
    const ssize_t got = ::read(file_.get(), bytes.data() + have, count - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_failure("read trace", path_);
    if (got == 0) break;
    have += static_cast<std::size_t>(got);
  }
  offset_ += have;
  bytes.resize(have);
  return bytes;
}

Result<> TraceReader::read_prefix() {
  const auto bytes = read_bytes(kTracePrefix);
  if (!bytes) return Failure{bytes.error()};
  if (bytes->size() < kTracePrefix || !bytes->starts_with(kTraceMagic))
    return failure(std::errc::invalid_argument, "read trace", path_, "it is no trace: tidectl vm record makes one");
  ByteCursor cursor(std::string_view(*bytes).substr(kTraceMagic.size()));
  const std::uint32_t version = cursor.u32();
  const std::uint32_t page_size = cursor.u32();
  if (version != kTraceVersion)
    return failure(std::errc::not_supported, "read trace", path_,
                   "its version is " + std::to_string(version) + ", known is " + std::to_string(kTraceVersion));
  if (page_size != kPageSize)
    return failure(std::errc::not_supported, "read trace", path_,
                   "its pages have " + std::to_string(page_size) + " bytes, known are " + std::to_string(kPageSize));
  return {};
}

Result<std::optional<TraceReader::Block>> TraceReader::read_block() {
  block_began_ = offset_;
  const auto head = read_bytes(kBlockHead);
  if (!head) return Failure{head.error()};
  if (head->size() < kBlockHead) return std::nullopt;
  ByteCursor cursor(*head);
  const std::uint32_t kind = cursor.u32();
  const std::uint32_t packed_length = cursor.u32();
  const std::uint32_t content_length = cursor.u32();
  if (kind < static_cast<std::uint32_t>(BlockKind::kDescription) || kind > static_cast<std::uint32_t>(BlockKind::kEnd))
    return damaged("no block is of kind " + std::to_string(kind));
  if (content_length > kMostBlockContent || packed_length > longest_block(content_length))
    return damaged("no block is so long");
  const auto packed = read_bytes(packed_length);
  if (!packed) return Failure{packed.error()};
  if (packed->size() < packed_length) return std::nullopt;
  auto content = codec_.unpack(*packed, content_length);
  if (!content) return damaged("its checksum or its compression is wrong");
  return Block{static_cast<BlockKind>(kind), std::move(*content)};
}

Result<> TraceReader::describe(std::string_view content) {
  ByteCursor cursor(content);
  TraceDescription read;
  const std::uint64_t name = cursor.varint();
  if (name > kLongestTracedName) return damaged("the VM's name is too long");
  read.vm = cursor.bytes(name);
  const Nanoseconds recorded{cursor.signed_varint()};
  read.recorded =
      std::chrono::system_clock::time_point(std::chrono::duration_cast<std::chrono::system_clock::duration>(recorded));
  read.start = MonoTime{Nanoseconds{cursor.signed_varint()}};
  if (recorded < Nanoseconds{0} || read.start < MonoTime{}) return damaged("it was recorded before time began");
  const std::uint64_t objects = cursor.varint();
  if (objects > kMostTracedObjects) return damaged("too many memory objects");
  for (std::uint64_t i = 0; i < objects && !cursor.failed(); ++i) {
    const std::uint64_t object = cursor.varint();
    if (object > std::numeric_limits<std::uint32_t>::max()) return damaged("no memory object has such a number");
    read.objects.push_back({static_cast<std::uint32_t>(object), PageCount{cursor.varint()}});
  }
  if (cursor.failed() || !cursor.at_end()) return damaged("it does not say whose trace it is");
  description_ = std::move(read);
  return {};
}

Result<bool> TraceReader::read_more() {
  auto block = read_block();
  if (!block) return Failure{block.error()};
  if (!*block) return false;
  switch ((*block)->kind) {
    case BlockKind::kDescription:
      if (auto read = describe((*block)->content); !read) return Failure{read.error()};
      return true;
    case BlockKind::kSamples:
      content_ = std::move((*block)->content);
      samples_.emplace(content_);
      return true;
    case BlockKind::kEnd:
      break;
  }
  ByteCursor cursor((*block)->content);
  TraceTotals totals;
  totals.rounds = cursor.varint();
  totals.samples = cursor.varint();
  totals.lost = cursor.varint();
  if (cursor.failed() || !cursor.at_end()) return damaged("it does not say what the trace came to");
  totals_ = totals;
  return false;
}

Result<std::optional<TraceRound>> TraceReader::take_record() {
  auto record = samples_->next();
  if (!record) return damaged("its samples make no sense");
  if (const auto* begins = std::get_if<RoundBegins>(&*record)) {
    std::optional<TraceRound> before = std::move(round_);
    round_ = TraceRound{begins->at, {}};
    return before;
  }
  if (!round_ || round_->samples.size() >= kMostSamplesPerRound) return damaged("its samples belong to no round");
  auto& sample = std::get<policy::AccessSample>(*record);
  sample.object.vm = vm_;
  round_->samples.push_back(sample);
  return std::nullopt;
}

Result<std::optional<TraceRound>> TraceReader::next() {
  const auto give_up = [this](const Error& error) {
    ended_ = true;
    round_.reset();
    return Failure{error};
  };
  while (!ended_) {
    if (samples_ && !samples_->at_end()) {
      auto whole = take_record();
      if (!whole) return give_up(whole.error());
      if (*whole) return whole;
      continue;
    }
    const auto more = read_more();
    if (!more) return give_up(more.error());
    ended_ = !*more;
  }
  return std::exchange(round_, std::nullopt);
}

}  // namespace tidepool::telemetry
