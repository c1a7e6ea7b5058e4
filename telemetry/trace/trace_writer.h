// Writes a trace of one VM (docs/trace-format.md). One thread; may wait for the disk.
#pragma once

#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "telemetry/trace/trace.h"
#include "telemetry/trace/trace_samples.h"

namespace tidepool::telemetry {

// Below this not even what says whose trace it is has room.
inline constexpr Bytes kSmallestTrace{1u << 20};

class TraceWriter {
 public:
  // Takes an empty file that is open for writing, and writes whose trace it is. `path` is for errors only. The file
  // never becomes larger than `most` (at least kSmallestTrace). A name or a list of objects beyond trace.h's bounds is
  // an invalid_argument error.
  static Result<TraceWriter> begin(UniqueFd file, std::string path, TraceDescription description, Bytes most);

  // The objects are these from the next round on. Nothing is written when they are these already.
  Result<> describe(std::vector<TracedObject> objects);
  // One round, at a time since boot. Samples that make no sense are counted as lost. False: there is no room for it,
  // the trace is full, and this round is in it in part or not at all; nothing but finish() makes sense then. What was
  // written before the last few seconds is readable whatever happens to the writer.
  Result<bool> round(MonoTime at, std::span<const policy::AccessSample> samples);
  // Writes what is buffered and that the trace is whole, and waits until the disk has it. `lost`: samples that the
  // caller lost, beyond those that this writer counted. Once, and last.
  Result<> finish(std::uint64_t lost = 0);

  Bytes written() const { return written_; }
  const TraceTotals& totals() const { return totals_; }

 private:
  TraceWriter(UniqueFd file, std::string path, TraceDescription description, Bytes most);
  Result<> write_prefix();
  Result<> write_description();
  Result<> write_block(BlockKind kind, std::string_view content);
  Result<> write_all(std::string_view bytes);
  Result<> flush();
  bool room_for(std::size_t content) const;

  UniqueFd file_;
  std::string path_;
  TraceDescription description_;
  Bytes most_;
  Bytes written_;
  TraceTotals totals_;
  BlockCodec codec_;
  SampleEncoder samples_;
  MonoTime block_began_{};
  bool full_ = false;
};

}  // namespace tidepool::telemetry
