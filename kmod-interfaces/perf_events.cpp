#include "kmod-interfaces/perf_events.h"

#include <linux/perf_event.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <ctime>
#include <utility>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

// Room for some 1,600 samples of a thread between two readings.
constexpr Bytes kPerfRing{16 * kPageSize};
constexpr std::size_t kMostPerfSamples = 256u << 10;  // kept of one reading; the rest counts as lost
constexpr std::size_t kMostEventTerms = 16;           // of a description in sysfs

constexpr std::uint32_t kLostSamplesRecord = 13;  // PERF_RECORD_LOST_SAMPLES
constexpr std::uint64_t kPebsShortest = 1u << 10;
constexpr std::uint64_t kPebsLongest = 1u << 24;
constexpr std::uint64_t kIbsShortest = 1u << 14;  // of all operations, not only of those that use memory
constexpr std::uint64_t kIbsLongest = 1u << 26;   // 27 bits, in multiples of 16
constexpr std::uint64_t kFaultsLongest = 1u << 16;

constexpr const char* kPermission = "grant CAP_PERFMON, or lower kernel.perf_event_paranoid";

Failure unsupported(const char* attempted, const std::string& why) {
  return failure(std::errc::not_supported, attempted, why);
}

// Copies out of a ring, round its end where need be.
void copy_out(std::span<const std::byte> ring, std::uint64_t position, std::span<std::byte> out) {
  const std::size_t at = position & (ring.size() - 1);
  const std::size_t before_end = std::min(out.size(), ring.size() - at);
  std::memcpy(out.data(), ring.data() + at, before_end);
  std::memcpy(out.data() + before_end, ring.data(), out.size() - before_end);
}

// The words of a record behind its header; missing ones are zero.
using PerfWords = std::array<std::uint64_t, 5>;

PerfSample sample_of(const PerfWords& words, const PerfLayout& layout) {
  PerfSample sample;
  std::array<std::uint32_t, 2> ids{};
  std::memcpy(ids.data(), words.data(), sizeof ids);
  sample.pid = static_cast<pid_t>(ids[0]);
  sample.tid = static_cast<pid_t>(ids[1]);
  sample.time = MonoTime{Nanoseconds{static_cast<std::int64_t>(words[1])}};
  sample.address = words[2];
  std::size_t next = 3;
  if (layout.weight) sample.weight = words[next++];
  if (layout.data_source) sample.data_source = words[next];
  return sample;
}

void add_record(const perf_event_header& header, const PerfWords& words, const PerfLayout& layout, PerfRecords& out) {
  switch (header.type) {
    case PERF_RECORD_SAMPLE: {
      if (header.size != layout.sample_size()) {
        ++out.malformed;
        return;
      }
      const unsigned mode = header.misc & PERF_RECORD_MISC_CPUMODE_MASK;
      if (mode == PERF_RECORD_MISC_GUEST_KERNEL || mode == PERF_RECORD_MISC_GUEST_USER) {
        ++out.of_guests;
      } else if (out.samples.size() >= kMostPerfSamples) {
        ++out.lost;
      } else {
        out.samples.push_back(sample_of(words, layout));
      }
      return;
    }
    case PERF_RECORD_LOST:  // its id, and how many
      out.lost += words[1];
      return;
    case kLostSamplesRecord:
      out.lost += words[0];
      return;
    case PERF_RECORD_THROTTLE:
      ++out.throttled;
      return;
    default:
      return;
  }
}

int open_perf_event(const PerfSource& source, std::uint64_t period, pid_t tid) {
  perf_event_attr attributes{};
  attributes.size = sizeof attributes;
  attributes.type = source.type;
  attributes.config = source.config;
  attributes.config1 = source.config1;
  attributes.sample_period = period;
  attributes.sample_type = source.layout.sample_type();
  attributes.precise_ip = source.precision & 3;
  attributes.exclude_kernel = source.exclude_kernel;
  attributes.use_clockid = 1;
  attributes.clockid = CLOCK_MONOTONIC;
  attributes.wakeup_events = UINT32_MAX;  // nobody waits for them
  // A guest's addresses mean nothing outside of it. AMD's IBS cannot tell guests apart before it samples on older
  // kernels and then refuses the wish (EINVAL): its samples say where they come from.
  attributes.exclude_guest = source.means != PerfMeans::kIbs;
  return static_cast<int>(::syscall(SYS_perf_event_open, &attributes, tid, -1, -1, PERF_FLAG_FD_CLOEXEC));
}

// Puts a value into a field that sysfs describes as "config1:0-15" or "config:0-7,32-35".
bool place(const std::string& format, std::uint64_t value, PerfSource& source) {
  const std::size_t colon = format.find(':');
  if (colon == std::string::npos) return false;
  const std::string_view word = std::string_view(format).substr(0, colon);
  if (word != "config" && word != "config1") return false;
  std::uint64_t& target = word == "config" ? source.config : source.config1;
  for (const unsigned bit : parse_number_list(std::string_view(format).substr(colon + 1), 64)) {
    if (bit >= 64) return false;
    target |= (value & 1) << bit;
    value >>= 1;
  }
  return value == 0;
}

// "event=0xcd,umask=0x1,ldlat=3".
Result<> describe_event(const std::string& pmu, const std::string& text, PerfSource& source) {
  std::string_view rest = text;
  for (std::size_t terms = 0; !rest.empty(); ++terms) {
    const std::string_view term = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), term.size() + 1));
    const std::size_t equals = term.find('=');
    const std::string name = std::string(trim(term.substr(0, equals)));
    std::optional<std::uint64_t> value = 1;
    if (equals != std::string_view::npos) {
      const std::string_view digits = trim(term.substr(equals + 1));
      value = digits.starts_with("0x") ? parse_hex(digits.substr(2)) : parse_decimal(digits);
    }
    // A name is a file in sysfs: no way out of its folder.
    const bool plain = !name.empty() && name.find('/') == std::string::npos && name[0] != '.';
    const auto format = plain ? read_value(std::string(pmu).append("/format/").append(name)) : std::nullopt;
    if (terms >= kMostEventTerms || !value || !format || !place(*format, *value, source))
      return unsupported("understand the event", pmu + ": " + printable(text));
  }
  return {};
}

}  // namespace

std::uint64_t PerfLayout::sample_type() const {
  return PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_ADDR | (weight ? std::uint64_t{PERF_SAMPLE_WEIGHT} : 0) |
         (data_source ? std::uint64_t{PERF_SAMPLE_DATA_SRC} : 0);
}

std::size_t PerfLayout::sample_size() const {
  return sizeof(perf_event_header) + sizeof(std::uint64_t) * (3u + (weight ? 1u : 0u) + (data_source ? 1u : 0u));
}

void read_perf_records(std::span<const std::byte> ring, std::uint64_t tail, std::uint64_t head,
                       const PerfLayout& layout, PerfRecords& out) {
  if (!std::has_single_bit(ring.size()) || head - tail > ring.size()) {
    ++out.malformed;
    return;
  }
  // Positions wrap like any number: only differences are compared.
  while (head != tail) {
    perf_event_header header{};
    if (head - tail < sizeof header) {
      ++out.malformed;
      return;
    }
    copy_out(ring, tail, std::as_writable_bytes(std::span(&header, 1)));
    if (header.size < sizeof header || header.size % 8 != 0 || header.size > head - tail) {
      ++out.malformed;
      return;
    }
    PerfWords words{};
    const std::size_t wanted = std::min(header.size - sizeof header, sizeof words);
    copy_out(ring, tail + sizeof header, std::as_writable_bytes(std::span(words)).first(wanted));
    add_record(header, words, layout, out);
    tail += header.size;
  }
}

Result<PerfSource> pebs_source(const KernelRoots& roots) {
  constexpr const char* kAttempted = "sample loads by PEBS";
  const std::string devices = roots.sys + "/bus/event_source/devices/";
  for (const char* cpu : {"cpu", "cpu_core"}) {
    const std::string pmu = devices + cpu;
    const auto type = read_number(pmu + "/type");
    const auto event = read_value(pmu + "/events/mem-loads");
    if (!type || *type > UINT32_MAX || !event) continue;
    // On some processors the event counts nothing unless another one leads its group.
    if (exists(pmu + "/events/mem-loads-aux"))
      return unsupported(kAttempted, "this processor needs an auxiliary event, which is not supported");
    PerfSource source;
    source.means = PerfMeans::kPebs;
    source.type = static_cast<std::uint32_t>(*type);
    if (auto described = describe_event(pmu, *event, source); !described) return Failure{described.error()};
    const std::uint64_t precision = read_number(pmu + "/caps/max_precise").value_or(0);
    if (precision == 0) return unsupported(kAttempted, "this processor names no precise addresses");
    source.precision = static_cast<std::uint8_t>(std::min<std::uint64_t>(precision, 2));
    source.exclude_kernel = true;
    source.layout = {.weight = true, .data_source = true};
    source.shortest_period = kPebsShortest;
    source.longest_period = source.first_period = kPebsLongest;
    return source;
  }
  return unsupported(kAttempted, "no processor events with addresses (mem-loads), as usual in a VM and on AMD");
}

Result<PerfSource> ibs_source(const KernelRoots& roots) {
  constexpr const char* kAttempted = "sample operations by IBS";
  const auto type = read_number(roots.sys + "/bus/event_source/devices/ibs_op/type");
  if (!type || *type > UINT32_MAX) return unsupported(kAttempted, "no ibs_op events, as usual in a VM and on Intel");
  PerfSource source;
  source.means = PerfMeans::kIbs;
  source.type = static_cast<std::uint32_t>(*type);
  // Dispatched operations rather than cycles, where it can count them: cycles favour what is slow.
  if (const auto format = read_value(roots.sys + "/bus/event_source/devices/ibs_op/format/cnt_ctl"))
    place(*format, 1, source);
  source.layout = {.weight = true, .data_source = true};
  source.shortest_period = kIbsShortest;
  source.longest_period = source.first_period = kIbsLongest;
  return source;
}

PerfSource page_fault_source() {
  PerfSource source;
  source.means = PerfMeans::kPageFaults;
  source.type = PERF_TYPE_SOFTWARE;
  source.config = PERF_COUNT_SW_PAGE_FAULTS;
  source.longest_period = kFaultsLongest;
  return source;
}

PerfProbe probe_perf(const KernelRoots& roots) {
  PerfProbe probe;
  for (const auto& source : {pebs_source(roots), ibs_source(roots), Result<PerfSource>(page_fault_source())}) {
    if (!source) {
      probe.why_not.push_back(source.error().message());
      continue;
    }
    // With its longest period, on a thread that it should not disturb.
    const UniqueFd event{open_perf_event(*source, source->longest_period, 0)};
    if (event.valid()) {
      probe.source = *source;
      return probe;
    }
    static constexpr std::array kNames = {"loads by PEBS", "operations by IBS", "page faults"};
    probe.why_not.push_back(
        errno_failure("sample", kNames[static_cast<std::size_t>(source->means)], kPermission).value().message());
  }
  return probe;
}

Result<PerfThreads> PerfThreads::open(const KernelRoots& roots, const PerfSource& source, ProcessId process,
                                      std::uint64_t period, std::size_t most) {
  auto opened = Process::open(roots, process.pid);
  if (!opened) return Failure{opened.error()};
  if (opened->id() != process) return failure_from(ESRCH, "watch", "a process that ended");
  PerfThreads threads{std::move(*opened), source, period};
  if (auto refreshed = threads.refresh(most); !refreshed) return Failure{refreshed.error()};
  return threads;
}

Result<PerfThreads::Event> PerfThreads::open_event(const PerfSource& source, std::uint64_t period, pid_t tid) {
  Event event;
  event.fd = UniqueFd{open_perf_event(source, period, tid)};
  if (!event.fd.valid()) return errno_failure("watch by perf events", "thread " + std::to_string(tid), kPermission);
  // Writable: the kernel overwrites nothing that was not read, and says how much did not fit. The first page is
  // control.
  auto ring =
      Mapping::of_file(event.fd.get(), kPerfRing + Bytes{kPageSize}, Bytes{}, PROT_READ | PROT_WRITE, MAP_SHARED);
  if (!ring) return Failure{ring.error()};
  event.ring = std::move(*ring);
  return event;
}

Result<> PerfThreads::refresh(std::size_t most) {
  const auto tids = list_numbers_at(process_.directory(), "task", "threads of a process", kMaxThreads);
  if (!tids) return Failure{tids.error()};
  let_go_of_ended(*tids);
  unwatched_ = 0;
  std::optional<Error> refusal;
  for (const std::uint64_t tid : *tids) {
    const auto id = static_cast<pid_t>(tid);
    if (events_.contains(id)) continue;
    if (events_.size() >= most) {
      ++unwatched_;
      continue;
    }
    auto event = open_event(source_, period_, id);
    if (event) {
      events_.emplace(id, std::move(*event));
    } else if (event.error().code.value() != ESRCH) {  // else it ended meanwhile
      ++unwatched_;
      refusal = event.error();
    }
  }
  // A thread's number may have gone to another process before its event was opened: take() leaves strangers out, by the
  // number of this process, which is its own as long as it lives.
  if (auto alive = process_.check_alive(); !alive) return alive;
  if (events_.empty() && refusal) return Failure{*refusal};
  return {};
}

void PerfThreads::let_go_of_ended(std::span<const std::uint64_t> tids) {
  std::vector<pollfd> polled;
  for (const auto& [tid, event] : events_) polled.push_back({event.fd.get(), POLLIN, 0});
  if (::poll(polled.data(), polled.size(), 0) < 0) polled.clear();
  std::size_t index = 0;
  for (auto at = events_.begin(); at != events_.end(); ++index) {
    // Hung up: the thread ended, though another may have got its number already.
    const bool hung_up = index < polled.size() && (polled[index].revents & POLLHUP) != 0;
    const bool listed = std::ranges::binary_search(tids, static_cast<std::uint64_t>(at->first));
    if (listed && !hung_up) {
      ++at;
      continue;
    }
    drain(at->second, left_over_);
    at = events_.erase(at);
  }
}

Result<> PerfThreads::set_period(std::uint64_t period) {
  period_ = period;
  for (const auto& [tid, event] : events_) {
    if (::ioctl(event.fd.get(), PERF_EVENT_IOC_PERIOD, &period) != 0)
      return errno_failure("set the period of", "the perf events of a thread");
  }
  return {};
}

void PerfThreads::take(PerfRecords& out) {
  PerfRecords found = std::exchange(left_over_, {});
  for (const auto& [tid, event] : events_) drain(event, found);
  std::erase_if(found.samples, [&](const PerfSample& sample) { return sample.pid != process_.id().pid; });
  const std::size_t room = kMostPerfSamples - std::min(kMostPerfSamples, out.samples.size());
  const std::size_t kept = std::min(room, found.samples.size());
  out.samples.insert(out.samples.end(), found.samples.begin(),
                     found.samples.begin() + static_cast<std::ptrdiff_t>(kept));
  out.lost += found.lost + (found.samples.size() - kept);
  out.throttled += found.throttled;
  out.of_guests += found.of_guests;
  out.malformed += found.malformed;
}

void PerfThreads::drain(const Event& event, PerfRecords& out) const {
  auto* control = reinterpret_cast<perf_event_mmap_page*>(event.ring.data());
  // The kernel publishes records by moving the head, we give room back by moving the tail.
  const auto head = std::atomic_ref(control->data_head).load(std::memory_order_acquire);
  const std::atomic_ref tail(control->data_tail);
  const auto data = std::span<const std::byte>(event.ring.bytes()).subspan(kPageSize);
  read_perf_records(data, tail.load(std::memory_order_relaxed), head, source_.layout, out);
  tail.store(head, std::memory_order_release);
}

}  // namespace tidepool::kernel
