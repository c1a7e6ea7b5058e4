#include "kmod-interfaces/damon_sysfs.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

constexpr const char* kEverything = "18446744073709551615";

std::string folder_of(const KernelRoots& roots) {
  return roots.sys + "/kernel/mm/damon/admin/kdamonds";
}

std::string numbered(std::uint64_t number) {
  return std::to_string(number);
}

const char* word_of(DamonSpace space) {
  switch (space) {
    case DamonSpace::kVirtual:
      return "vaddr";
    case DamonSpace::kFixedVirtual:
      return "fvaddr";
    case DamonSpace::kPhysical:
      break;
  }
  return "paddr";
}

}  // namespace

std::optional<std::string> damon_unavailable(const KernelRoots& roots) {
  const std::string folder = folder_of(roots);
  if (!exists(folder)) return "not in this kernel (CONFIG_DAMON_SYSFS)";
  const auto kdamonds = read_number(folder + "/nr_kdamonds");
  if (!kdamonds) return "its settings cannot be read (run as root)";
  if (*kdamonds == 0) return std::nullopt;
  const bool runs = read_value(folder + "/0/state") == "on";
  return "taken: another user has " + numbered(*kdamonds) + (*kdamonds == 1 ? " kdamond" : " kdamonds") +
         (runs ? ", running" : "") + "; it is never taken over";
}

Result<DamonSession> DamonSession::start(const KernelRoots& roots, const DamonSettings& settings) {
  if (settings.targets.empty() || settings.targets.size() > kMaxDamonTargets)
    return failure_from(EINVAL, "start DAMON", numbered(settings.targets.size()) + " targets");
  if (const auto reason = damon_unavailable(roots)) {
    return failure_from(exists(folder_of(roots)) ? EBUSY : ENOENT, "start DAMON", *reason);
  }
  // From here on what is there is ours; the destructor takes it away.
  DamonSession session{roots, folder_of(roots)};
  if (auto made = session.write("nr_kdamonds", "1"); !made) {
    session.folder_.clear();
    return Failure{made.error()};
  }
  if (auto configured = session.configure(settings); !configured) return Failure{configured.error()};
  if (auto started = session.write("0/state", "on"); !started) return Failure{started.error()};
  session.kdamond_ = read_number(session.folder_ + "/0/pid");
  if (!session.kdamond_) return failure_from(EIO, "start DAMON", "its kernel thread");
  return session;
}

DamonSession::DamonSession(DamonSession&& other) noexcept
    : roots_(std::move(other.roots_)),
      folder_(std::exchange(other.folder_, {})),
      intervals_(other.intervals_),
      kdamond_(other.kdamond_),
      malformed_(other.malformed_) {}

DamonSession& DamonSession::operator=(DamonSession&& other) noexcept {
  if (this == &other) return *this;
  stop();
  roots_ = std::move(other.roots_);
  folder_ = std::exchange(other.folder_, {});
  intervals_ = other.intervals_;
  kdamond_ = other.kdamond_;
  malformed_ = other.malformed_;
  return *this;
}

Result<> DamonSession::write(const std::string& file, const std::string& text) const {
  return write_value(folder_ + "/" + file, text);
}

Result<> DamonSession::configure(const DamonSettings& settings) {
  const std::string context = "0/contexts/0/";
  if (auto made = write("0/contexts/nr_contexts", "1"); !made) return made;
  if (auto set = write(context + "operations", word_of(settings.space)); !set) return set;
  if (auto set = write_intervals(settings.intervals); !set) return set;
  // The maximum first: the kernel refuses a minimum above it only when it starts, in whichever order.
  if (auto set = write(context + "monitoring_attrs/nr_regions/max", numbered(settings.max_regions)); !set) return set;
  if (auto set = write(context + "monitoring_attrs/nr_regions/min", numbered(settings.min_regions)); !set) return set;
  const std::size_t targets = settings.targets.size();
  if (auto made = write(context + "targets/nr_targets", numbered(targets)); !made) return made;
  for (std::size_t i = 0; i < targets; ++i) {
    if (auto set = configure_target(i, settings.targets[i], settings.space); !set) return set;
  }
  if (auto made = write(context + "schemes/nr_schemes", numbered(targets)); !made) return made;
  for (std::size_t i = 0; i < targets; ++i) {
    if (auto set = configure_scheme(i); !set) return set;
  }
  return {};
}

Result<> DamonSession::configure_target(std::size_t number, const DamonTarget& target, DamonSpace space) {
  const std::string folder = "0/contexts/0/targets/" + numbered(number) + "/";
  if (space != DamonSpace::kPhysical) {
    if (auto set = write(folder + "pid_target", std::to_string(target.pid)); !set) return set;
  }
  if (space == DamonSpace::kVirtual) return {};
  if (auto made = write(folder + "regions/nr_regions", numbered(target.ranges.size())); !made) return made;
  for (std::size_t i = 0; i < target.ranges.size(); ++i) {
    const std::string region = folder + "regions/" + numbered(i) + "/";
    if (auto set = write(region + "start", numbered(target.ranges[i].start)); !set) return set;
    if (auto set = write(region + "end", numbered(target.ranges[i].end)); !set) return set;
  }
  return {};
}

// A scheme that does nothing but list the regions of one target: the list does not say whose each region is.
Result<> DamonSession::configure_scheme(std::size_t number) {
  const std::string scheme = "0/contexts/0/schemes/" + numbered(number) + "/";
  if (auto set = write(scheme + "action", "stat"); !set) return set;
  for (const char* range : {"sz", "nr_accesses", "age"}) {
    if (auto set = write(scheme + "access_pattern/" + range + "/max", kEverything); !set) return set;
  }
  if (auto made = write(scheme + "filters/nr_filters", "1"); !made) return made;
  const std::string filter = scheme + "filters/0/";
  if (auto set = write(filter + "type", "target"); !set) return set;
  if (auto set = write(filter + "damon_target_idx", numbered(number)); !set) return set;
  // What the filter matches is left out; so it matches all but this target.
  return write(filter + "matching", "N");
}

Result<> DamonSession::write_intervals(const DamonIntervals& intervals) {
  const std::string folder = "0/contexts/0/monitoring_attrs/intervals/";
  if (auto set = write(folder + "sample_us", std::to_string(intervals.sample.count())); !set) return set;
  if (auto set = write(folder + "aggr_us", std::to_string(intervals.aggregation.count())); !set) return set;
  if (auto set = write(folder + "update_us", std::to_string(intervals.aggregation.count() * 10)); !set) return set;
  intervals_ = intervals;
  return {};
}

Result<> DamonSession::set_intervals(const DamonIntervals& intervals) {
  if (!running()) return failure_from(ESRCH, "set intervals of", "DAMON");
  if (auto set = write_intervals(intervals); !set) return set;
  return write("0/state", "commit");
}

Result<> DamonSession::update() {
  if (!running()) return failure_from(ESRCH, "read from", "DAMON");
  return write("0/state", "update_schemes_tried_regions");
}

Result<std::vector<DamonRegion>> DamonSession::regions(std::size_t target) {
  const std::string folder = folder_ + "/0/contexts/0/schemes/" + numbered(target) + "/tried_regions/";
  // Its attributes (total_bytes) lie beside the regions' numbers.
  const auto names = list_directory(folder, kMaxDamonRegions);
  if (!names) return Failure{names.error()};
  std::vector<DamonRegion> regions;
  for (const std::string& name : *names) {
    if (!parse_decimal(name)) continue;
    const auto number_in = [region = folder + name](const char* file) { return read_number(region + file); };
    const auto start = number_in("/start");
    const auto end = number_in("/end");
    const auto accesses = number_in("/nr_accesses");
    const auto age = number_in("/age");
    const bool whole = start && end && accesses && age;
    if (!whole || *end <= *start || *start % kPageSize != 0 || *end % kPageSize != 0 ||
        *accesses > intervals_.looks()) {
      ++malformed_;
      continue;
    }
    regions.push_back({{*start, *end}, *accesses, *age});
  }
  std::ranges::sort(regions, {}, [](const DamonRegion& r) { return r.range.start; });
  // The kernel's never overlap: of those that do, the first counts.
  std::uint64_t end = 0;
  const auto overlaps = [&](const DamonRegion& r) { return r.range.start < end || (end = r.range.end, false); };
  malformed_ += std::erase_if(regions, overlaps);
  return regions;
}

std::optional<Nanoseconds> DamonSession::cpu() const {
  if (!kdamond_) return std::nullopt;
  // Time on a processor in nanoseconds is the first figure. Documentation/scheduler/sched-stats.rst.
  const auto text = read_value(roots_.proc + "/" + numbered(*kdamond_) + "/schedstat");
  if (!text) return std::nullopt;
  std::string_view rest = *text;
  const auto time = parse_decimal(next_word(rest));
  if (!time || *time > static_cast<std::uint64_t>(Nanoseconds::max().count())) return std::nullopt;
  return Nanoseconds{static_cast<std::int64_t>(*time)};
}

bool DamonSession::running() const {
  if (folder_.empty() || !kdamond_) return false;
  return read_value(folder_ + "/0/state") == "on" && read_number(folder_ + "/0/pid") == kdamond_;
}

void DamonSession::stop() {
  if (folder_.empty()) return;
  // A thread that ended by itself leaves pid -1; another pid is another user's, who came after that.
  const auto pid = read_value(folder_ + "/0/pid");
  const bool ours = pid == "-1" || !kdamond_ || (pid && parse_decimal(*pid) == kdamond_);
  if (ours) {
    if (read_value(folder_ + "/0/state") == "on") static_cast<void>(write("0/state", "off").has_value());
    static_cast<void>(write("nr_kdamonds", "0").has_value());
  }
  folder_.clear();
}

}  // namespace tidepool::kernel
