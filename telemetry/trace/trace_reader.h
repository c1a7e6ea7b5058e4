// Reads traces (docs/trace-format.md) that nobody vouches for: cut off, damaged or made to do harm. One thread. What a
// trace can cost is bounded: memory by a block and a round, time by its length.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"
#include "telemetry/trace/trace.h"
#include "telemetry/trace/trace_samples.h"

namespace tidepool::telemetry {

class TraceReader {
 public:
  // `file` is read from where it stands, `path` is for errors only. Samples are given as ones of `vm`. Fails with
  // invalid_argument when it is no trace, or is cut off before it says whose it is; with not_supported when it is of a
  // version or page size that is not known here.
  static Result<std::unique_ptr<TraceReader>> open(UniqueFd file, std::string path, VmId vm);
  static Result<std::unique_ptr<TraceReader>> open(const std::string& path, VmId vm);

  // As far as was read, which may be one round further than next() told.
  const TraceDescription& description() const { return description_; }
  VmId vm() const { return vm_; }  // that samples are given as ones of
  // The next round; nothing at the end. After an error (io_error: the file cannot be read; bad_message: it is damaged,
  // and where) there is nothing more. Of a file that was cut off, everything before the cut is given.
  Result<std::optional<TraceRound>> next();
  // After the end: what recording came to. Nothing when the trace was cut off.
  const std::optional<TraceTotals>& totals() const { return totals_; }

 private:
  struct Block {
    BlockKind kind{};
    std::string content;
  };

  TraceReader(UniqueFd file, std::string path, VmId vm) : file_(std::move(file)), path_(std::move(path)), vm_(vm) {}
  Result<> read_prefix();
  Result<std::optional<Block>> read_block();
  Result<std::string> read_bytes(std::size_t count);
  Result<> describe(std::string_view content);
  // False: the file is at its end.
  Result<bool> read_more();
  // The round before, when another one begins; else nothing.
  Result<std::optional<TraceRound>> take_record();
  Failure damaged(const std::string& what) const;

  UniqueFd file_;
  std::string path_;
  VmId vm_;
  std::uint64_t offset_ = 0;       // of the file
  std::uint64_t block_began_ = 0;  // of the file, for errors
  BlockCodec codec_;
  TraceDescription description_;
  std::string content_;  // of the block of samples that samples_ reads
  std::optional<SampleDecoder> samples_;
  std::optional<TraceRound> round_;  // that is being read
  std::optional<TraceTotals> totals_;
  bool ended_ = false;
};

}  // namespace tidepool::telemetry
