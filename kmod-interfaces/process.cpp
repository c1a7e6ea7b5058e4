#include "kmod-interfaces/process.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

// A ring with long queues lists every entry of them.
constexpr std::size_t kMaxRingInfo = 8u << 20;
constexpr int kRingInfoAttempts = 5;
constexpr std::chrono::milliseconds kRingInfoPause{2};
constexpr std::size_t kMaxCommandLine = 4u << 20;
constexpr std::size_t kMaxMountTable = 16u << 20;
// A mapping has about 25 lines of figures.
constexpr std::size_t kMaxSmapsLines = kMaxMappings * 32;

bool is_gone(const Error& error) {
  return error.code == std::errc::no_such_file_or_directory || error.code == std::errc::no_such_process;
}

Failure no_such_process(const std::string& subject, std::string remedy = {}) {
  return failure(std::errc::no_such_process, "inspect", subject, std::move(remedy));
}

}  // namespace

bool are_whole_mappings(std::span<const MemoryMap> maps, AddressRange range) {
  return std::ranges::any_of(maps, [&](const MemoryMap& map) { return map.range.start == range.start; }) &&
         std::ranges::any_of(maps, [&](const MemoryMap& map) { return map.range.end == range.end; });
}

Result<Process> Process::open(const KernelRoots& roots, pid_t pid) {
  const std::string path = roots.proc + "/" + std::to_string(pid);
  if (pid <= 0) return failure(std::errc::invalid_argument, "inspect", path, "a pid is a positive number");
  auto directory = open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, path);
  if (!directory) {
    if (is_gone(directory.error())) return no_such_process(path);
    return tl::unexpected(directory.error());
  }
  Process process(std::move(*directory), path);
  auto stat = process.stat();
  if (!stat) return tl::unexpected(stat.error());
  // /proc/TID of a thread can be opened although it is not listed, and would name the wrong thing as a process.
  const auto status = process.read("status");
  if (status) {
    const std::string_view group = value_of(*status, "Tgid").value_or("");
    if (!group.empty() && group != std::to_string(pid))
      return no_such_process(path, "it is a thread of process " + printable(group));
  }
  process.id_ = ProcessId{pid, stat->start_ticks};
  return process;
}

std::string Process::name_of(std::string_view file) const {
  return path_ + "/" + std::string(file);
}

Result<std::string> Process::read(const std::string& file) const {
  return read_at(directory_.get(), file, name_of(file));
}

Result<> Process::check_alive() const {
  auto now = stat();
  if (!now) return is_gone(now.error()) ? no_such_process(path_) : tl::unexpected(now.error());
  if (now->state == 'X' || now->start_ticks != id_.start_ticks) return no_such_process(path_);
  return {};
}

Result<ProcessStat> Process::stat() const {
  auto text = read("stat");
  if (!text) return is_gone(text.error()) ? no_such_process(path_) : tl::unexpected(text.error());
  auto parsed = parse_process_stat(*text);
  if (!parsed) return failure(std::errc::bad_message, "parse", name_of("stat"));
  return std::move(*parsed);
}

Result<ProcessStatus> Process::status() const {
  auto text = read("status");
  if (!text) return tl::unexpected(text.error());
  return parse_process_status(*text);
}

Result<std::string> Process::executable() const {
  return read_link_at(directory_.get(), "exe", name_of("exe"));
}

Result<ElfClass> Process::elf_class() const {
  auto fd = open_at(directory_.get(), "exe", O_RDONLY | O_NONBLOCK, name_of("exe"));
  if (!fd) return tl::unexpected(fd.error());
  std::array<char, 5> start{};
  const ssize_t got = ::pread(fd->get(), start.data(), start.size(), 0);
  if (got < 0) return errno_failure("read", name_of("exe"));
  return parse_elf_class(std::string_view(start.data(), static_cast<std::size_t>(got)));
}

Result<std::vector<std::string>> Process::command_line() const {
  auto text = read_at(directory_.get(), "cmdline", name_of("cmdline"), kMaxCommandLine);
  if (!text) return tl::unexpected(text.error());
  return parse_command_line(*text);
}

Result<std::vector<ThreadInfo>> Process::threads() const {
  auto tids = list_numbers_at(directory_.get(), "task", name_of("task"), kMaxThreads);
  if (!tids) return tl::unexpected(tids.error());
  std::vector<ThreadInfo> threads;
  threads.reserve(tids->size());
  for (const std::uint64_t tid : *tids) {
    const std::string folder = "task/" + std::to_string(tid) + "/";
    auto text = read(folder + "stat");
    if (!text) {
      if (is_gone(text.error())) continue;
      return tl::unexpected(text.error());
    }
    const auto stat = parse_process_stat(*text);
    if (!stat) continue;
    ThreadInfo& thread = threads.emplace_back();
    thread = ThreadInfo{stat->pid, stat->comm, stat->state, stat->flags, stat->is_user_worker(), std::nullopt};
    // Needs the right to trace the thread; without it we know less, which is no failure.
    if (const auto call = read(folder + "syscall")) thread.stack_pointer = parse_stack_pointer(*call);
  }
  return threads;
}

Result<std::vector<MemoryMap>> Process::maps() const {
  std::vector<MemoryMap> maps;
  auto done = for_each_map([&](const MemoryMap& map) {
    maps.push_back(map);
    return true;
  });
  if (!done) return tl::unexpected(done.error());
  return maps;
}

Result<> Process::for_each_map(const std::function<bool(const MemoryMap&)>& visit) const {
  const std::string subject = name_of("maps");
  auto fd = open_at(directory_.get(), "maps", O_RDONLY, subject);
  if (!fd) return tl::unexpected(fd.error());
  return for_each_line(fd->get(), subject, kMaxMappings, [&](std::string_view line) {
    const auto map = parse_map_line(line);
    return !map || visit(*map);
  });
}

Result<std::vector<MappingUsage>> Process::smaps() const {
  const std::string subject = name_of("smaps");
  auto fd = open_at(directory_.get(), "smaps", O_RDONLY, subject);
  if (!fd) return tl::unexpected(fd.error());
  SmapsReader reader;
  auto done = for_each_line(fd->get(), subject, kMaxSmapsLines, [&](std::string_view line) {
    reader.add_line(line);
    return true;
  });
  if (!done) return tl::unexpected(done.error());
  return reader.take();
}

Result<MappingUsage> Process::smaps_rollup() const {
  auto text = read("smaps_rollup");
  if (!text) return tl::unexpected(text.error());
  auto mappings = parse_smaps(*text);
  // A process without memory has no line at all.
  if (mappings.empty()) return MappingUsage{};
  return std::move(mappings.front());
}

DescriptorInfo Process::describe(int number, const std::string& target, RingDetail rings) const {
  DescriptorInfo info = parse_descriptor(number, target, "");
  // Sockets, pipes and event descriptors have nothing that matters here; a large server has thousands.
  if (info.kind == DescriptorKind::other && !target.starts_with('/')) return info;
  const bool is_ring = info.kind == DescriptorKind::io_uring;
  if (is_ring && rings == RingDetail::skip) return info;
  const std::string file = "fdinfo/" + std::to_string(number);
  for (int attempt = 0; attempt < kRingInfoAttempts; ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(kRingInfoPause);
    const auto text = read_at(directory_.get(), file, name_of(file), kMaxRingInfo);
    if (text) info = parse_descriptor(number, target, *text);
    if (!is_ring || info.fixed_buffers) break;
  }
  return info;
}

Result<std::vector<DescriptorInfo>> Process::descriptors(RingDetail rings) const {
  auto numbers = list_numbers_at(directory_.get(), "fd", name_of("fd"), kMaxDescriptors);
  if (!numbers) return tl::unexpected(numbers.error());
  std::vector<DescriptorInfo> descriptors;
  descriptors.reserve(numbers->size());
  for (const std::uint64_t number : *numbers) {
    const std::string name = std::to_string(number);
    auto target = read_link_at(directory_.get(), "fd/" + name, name_of("fd/" + name));
    if (!target) {
      if (is_gone(target.error())) continue;
      return tl::unexpected(target.error());
    }
    descriptors.push_back(describe(static_cast<int>(number), *target, rings));
  }
  return descriptors;
}

Result<std::vector<Mount>> Process::mounts() const {
  auto text = read_at(directory_.get(), "mountinfo", name_of("mountinfo"), kMaxMountTable);
  if (!text) return tl::unexpected(text.error());
  return parse_mounts(*text);
}

Result<std::vector<CgroupMembership>> Process::cgroups() const {
  auto text = read("cgroup");
  if (!text) return tl::unexpected(text.error());
  return parse_cgroups(*text);
}

}  // namespace tidepool::kernel
