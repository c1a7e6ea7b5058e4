// Events of the kernel that carry a data address (perf_event_open(2)): accesses that the processor samples (Intel PEBS
// load latency, AMD IBS op), or, on any machine, page faults.
//
// One event and one ring per thread, without inheritance: the kernel gives no ring to an event that is inherited and
// not bound to a processor, and an event for each thread on each processor would be too many on large hosts. New
// threads are found by refresh().
//
// Needs CAP_PERFMON (or CAP_SYS_ADMIN) unless kernel.perf_event_paranoid is low: Documentation/admin-guide/
// perf-security.rst.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "kmod-interfaces/process.h"

namespace tidepool::kernel {

// What a sample of ours consists of: these in this order, then the two that follow where asked for.
struct PerfLayout {
  bool weight = false;
  bool data_source = false;

  std::uint64_t sample_type() const;  // PERF_SAMPLE_*: TID, TIME, ADDR and these
  std::size_t sample_size() const;    // bytes of its record, the header included
};

struct PerfSample {
  pid_t pid = 0;
  pid_t tid = 0;
  MonoTime time;
  std::uint64_t address = 0;      // 0: none (an operation that used no memory)
  std::uint64_t weight = 0;       // latency in cycles; 0: not asked for
  std::uint64_t data_source = 0;  // perf_mem_data_src; 0: not asked for
  bool operator==(const PerfSample&) const = default;
};

struct PerfRecords {
  std::vector<PerfSample> samples;
  std::uint64_t lost = 0;       // samples, for lack of room in a ring
  std::uint64_t throttled = 0;  // times that the kernel paused an event that came too often
  std::uint64_t of_guests = 0;  // samples with addresses of a KVM guest, which say nothing here; left out
  std::uint64_t malformed = 0;  // records, or rings, that contradict themselves
};

// Adds the records between the positions `tail` and `head`, which count bytes since the ring began; `ring` is its data
// area, a power of two. A record that makes no sense ends the reading: what is behind it cannot be found. Records of
// other types are skipped. Total over any bytes and positions.
void read_perf_records(std::span<const std::byte> ring, std::uint64_t tail, std::uint64_t head,
                       const PerfLayout& layout, PerfRecords& out);

enum class PerfMeans : std::uint8_t { kPebs, kIbs, kPageFaults };

// One way to get addresses.
struct PerfSource {
  PerfMeans means = PerfMeans::kPageFaults;
  std::uint32_t type = 0;  // as of perf_event_attr
  std::uint64_t config = 0;
  std::uint64_t config1 = 0;
  std::uint8_t precision = 0;  // precise_ip
  bool exclude_kernel = false;
  PerfLayout layout;
  std::uint64_t shortest_period = 1;  // occurrences per sample; all of these are powers of two
  std::uint64_t longest_period = 1;
  std::uint64_t first_period = 1;  // to begin with, until it is known how often it happens
};

// As sysfs describes them. ENOTSUP: not on this machine, or not in a form that is known here; the error says why.
Result<PerfSource> pebs_source(const KernelRoots& roots);
Result<PerfSource> ibs_source(const KernelRoots& roots);
PerfSource page_fault_source();

struct PerfProbe {
  std::optional<PerfSource> source;  // the best that can be opened
  std::vector<std::string> why_not;  // of those that would be better, one line each
};

// Opens each on this process, the best first, and closes it again.
PerfProbe probe_perf(const KernelRoots& roots);

// The events of one process. Closing them leaves nothing behind in it. Not thread-safe.
class PerfThreads {
 public:
  // Watches up to `most` threads. Fails when not one can be watched. ESRCH: the process is gone.
  static Result<PerfThreads> open(const KernelRoots& roots, const PerfSource& source, ProcessId process,
                                  std::uint64_t period, std::size_t most);

  // Watches threads that began meanwhile, and lets go of those that ended, once their records are taken.
  Result<> refresh(std::size_t most);
  Result<> set_period(std::uint64_t period);
  // Adds what happened since the last time; samples of this process only.
  void take(PerfRecords& out);

  ProcessId process() const { return process_.id(); }
  std::size_t watched() const { return events_.size(); }
  std::size_t unwatched() const { return unwatched_; }  // threads beyond `most`, or refused by the kernel

 private:
  struct Event {
    UniqueFd fd;
    Mapping ring;
  };
  PerfThreads(Process process, const PerfSource& source, std::uint64_t period)
      : process_(std::move(process)), source_(source), period_(period) {}
  static Result<Event> open_event(const PerfSource& source, std::uint64_t period, pid_t tid);
  void let_go_of_ended(std::span<const std::uint64_t> tids);
  void drain(const Event& event, PerfRecords& out) const;

  Process process_;
  PerfSource source_;
  std::uint64_t period_;
  std::map<pid_t, Event> events_;
  PerfRecords left_over_;  // of threads that ended
  std::size_t unwatched_ = 0;
};

}  // namespace tidepool::kernel
