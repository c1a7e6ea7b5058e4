#include "bench/load/load_options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <map>

#include "bench/load/workers.h"

namespace tidepool::load {
namespace {

template <class T>
using Names = std::map<std::string, T>;

const Names<MemoryKind> kMemoryNames{{"private", MemoryKind::kPrivate},
                                     {"shared", MemoryKind::kMemfd},
                                     {"memfd", MemoryKind::kMemfd},
                                     {"tmpfs", MemoryKind::kTmpfs},
                                     {"shared-anon", MemoryKind::kSharedAnonymous}};
const Names<PatternKind> kPatternNames{{"uniform", PatternKind::kUniform},        {"zipf", PatternKind::kZipf},
                                       {"sequential", PatternKind::kSequential},  {"scan", PatternKind::kScan},
                                       {"phase-shift", PatternKind::kPhaseShift}, {"diurnal", PatternKind::kDiurnal},
                                       {"write-heavy", PatternKind::kWriteHeavy}, {"hammer", PatternKind::kHammer}};
const Names<Thoroughness> kVerifyNames{
    {"full", Thoroughness::kFull}, {"header", Thoroughness::kHeader}, {"none", Thoroughness::kNone}};
const Names<OutputFormat> kOutputNames{{"table", OutputFormat::kTable}, {"json", OutputFormat::kJson}};

// What CLI11 fills in, before it is checked and turned into types.
struct Raw {
  std::string memory = "private";
  std::string pattern = "zipf";
  std::string verify = "full";
  std::string output = "table";
  std::string huge;
  std::string layout = "clustered";
  std::uint64_t size = 256ull << 20;
  double duration = 10;
  double hold = 0;
  double phase = 10;
  std::optional<double> read_ratio;
};

std::chrono::nanoseconds from_seconds(double seconds) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(seconds));
}

double usual_read_ratio(PatternKind pattern) {
  return pattern == PatternKind::kWriteHeavy ? 0.1 : 0.7;
}

void add_memory_options(CLI::App& app, Raw& raw, LoadOptions& options, bool& skip_final_check) {
  app.add_option("--memory", raw.memory, "private | shared (memfd) | tmpfs | shared-anon")
      ->capture_default_str()
      ->transform(CLI::IsMember(kMemoryNames));
  app.add_option("--file", options.memory.file,
                 "tmpfs: the file to create, removed at the end [/dev/shm/tidepool-load.PID]");
  app.add_option("--size", raw.size, "memory to work on, e.g. 256MiB")
      ->default_str("256MiB")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--huge", raw.huge, "on | off: advise for or against 2 MiB pages [as the system has it]")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option("--handoff", options.handoff_socket,
                 "hand the memory off to the agent that listens on this socket (adopt.handoff_socket)");
  app.add_option("--verify", raw.verify, "full (every byte of each page read) | header (three words) | none")
      ->capture_default_str()
      ->transform(CLI::IsMember(kVerifyNames));
  app.add_flag("--no-final-check", skip_final_check, "skip the check of all pages at the end");
}

void add_pattern_options(CLI::App& app, Raw& raw, LoadOptions& options) {
  app.add_option(
         "--pattern", raw.pattern,
         "uniform | zipf | sequential | scan (past a hot core) | phase-shift | diurnal | write-heavy | hammer (many "
         "writers on one page)")
      ->capture_default_str()
      ->transform(CLI::IsMember(kPatternNames));
  app.add_option("--theta", options.run.pattern.theta, "zipf: skew")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 5.0));
  app.add_option("--layout", raw.layout, "clustered | scattered: where hot pages lie")
      ->capture_default_str()
      ->check(CLI::IsMember({"clustered", "scattered"}));
  app.add_option("--read-ratio", raw.read_ratio, "share of reads [0.7; write-heavy 0.1]")->check(CLI::Range(0.0, 1.0));
  app.add_option("--hot", options.run.pattern.hot_fraction,
                 "scan, phase-shift: share of memory that gets nine of ten accesses")
      ->capture_default_str()
      ->check(CLI::Range(0.0001, 1.0));
  app.add_option("--phase", raw.phase, "phase-shift: seconds until the hot part moves on; diurnal: length of the day")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 1e6));
  app.add_option("--hammer-pages", options.run.hammer_pages, "hammer: pages that all threads write")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
}

void add_run_options(CLI::App& app, Raw& raw, LoadOptions& options) {
  app.add_option("--seed", options.run.seed, "the same seed gives the same contents and accesses")
      ->capture_default_str();
  app.add_option("--threads", options.run.threads, "worker threads")->capture_default_str()->check(CLI::Range(1, 1024));
  app.add_option("--duration", raw.duration, "seconds of work; 0: until SIGINT or SIGTERM")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e7));
  app.add_option("--hold-after-fill", raw.hold, "seconds to idle between fill and work")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e7));
  app.add_option("--work", options.run.work_per_operation,
                 "rounds of computation after each operation (about 1 ns each)")
      ->capture_default_str();
  app.add_option("--rate", options.run.operations_per_second,
                 "operations per second of all threads; 0: as many as possible")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--discard", options.discard, "one more thread gives parts of the memory back and expects zeros there");
  app.add_option("--odirect", options.run.direct_file,
                 "one more thread moves pages to and from this file with O_DIRECT");
  app.add_option("--access-counts", options.run.access_counts,
                 "count in this file how often each page was read and written (two 32-bit words a page), live");
  app.add_option("-o,--output", raw.output, "table | json (one object per line)")
      ->capture_default_str()
      ->transform(CLI::IsMember(kOutputNames));
}

LoadOptions convert(const Raw& raw, LoadOptions options, bool skip_final_check) {
  options.memory.kind = kMemoryNames.at(raw.memory);
  options.memory.size = Bytes{raw.size};
  if (!raw.huge.empty()) options.memory.huge_pages = raw.huge == "on";
  if (options.memory.file.empty()) options.memory.file = "/dev/shm/tidepool-load." + std::to_string(::getpid());
  options.run.pattern.kind = kPatternNames.at(raw.pattern);
  options.run.pattern.clustered = raw.layout == "clustered";
  options.run.pattern.read_ratio = raw.read_ratio.value_or(usual_read_ratio(options.run.pattern.kind));
  options.run.pattern.phase = from_seconds(raw.phase);
  options.run.verify = kVerifyNames.at(raw.verify);
  options.duration = from_seconds(raw.duration);
  options.hold_after_fill = from_seconds(raw.hold);
  options.final_check = !skip_final_check;
  options.output = kOutputNames.at(raw.output);
  return options;
}

void check_together(const LoadOptions& options) {
  if (options.memory.size.value == 0 || options.memory.size.value % kPageSize != 0) {
    throw CLI::ValidationError("--size", "must be a positive multiple of 4 KiB");
  }
  const bool hammer = options.run.pattern.kind == PatternKind::kHammer;
  if (hammer && options.run.threads > kHammerLanes) {
    throw CLI::ValidationError("--threads", "hammer has room for " + std::to_string(kHammerLanes));
  }
  if (hammer && whole_pages(options.memory.size).value <= options.run.hammer_pages) {
    throw CLI::ValidationError("--size", "must be larger than the hammered pages");
  }
}

}  // namespace

ParsedCommandLine parse_command_line(int argc, char** argv) {
  CLI::App app{
      "A workload whose memory can be adopted: it knows what every byte should be, checks it, and measures each "
      "access.\n"
      "Prints `ready pid=... address=...` once its memory is filled. SIGUSR1: interim report. SIGINT, SIGTERM: check "
      "all, report, exit.\n"
      "Exit status: 0 every byte was right, 1 a mismatch or a failure, 2 wrong usage."};
  Raw raw;
  ParsedCommandLine parsed;
  bool skip_final_check = false;
  add_memory_options(app, raw, parsed.options, skip_final_check);
  add_pattern_options(app, raw, parsed.options);
  add_run_options(app, raw, parsed.options);
  try {
    app.parse(argc, argv);
    parsed.options = convert(raw, std::move(parsed.options), skip_final_check);
    check_together(parsed.options);
  } catch (const CLI::ParseError& error) {
    parsed.exit_status = app.exit(error, std::cout, std::cerr) == 0 ? 0 : kExitUsage;
  }
  return parsed;
}

}  // namespace tidepool::load
