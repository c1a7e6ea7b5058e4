#include "kmod-interfaces/syscall_site.h"

#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include "kmod-interfaces/proc_text.h"
#include "kmod-interfaces/process_memory.h"

namespace tidepool::kernel {
namespace {

constexpr std::uint64_t kMaxCodeRead = 1u << 20;
constexpr std::uint32_t kKernelThread = 0x00200000;  // PF_KTHREAD
constexpr std::string_view kKvmRun = "0xae80";

std::optional<std::uint64_t> find_in(pid_t pid, AddressRange range) {
  std::vector<std::byte> code(std::min(range.size(), kMaxCodeRead));
  const std::int64_t length = read_process_memory(pid, range.start, code.data(), code.size());
  if (length <= 0) return std::nullopt;
  const auto offset = find_syscall_bytes(std::span(code).first(static_cast<std::size_t>(length)));
  return offset ? std::optional(range.start + *offset) : std::nullopt;
}

bool has_vcpu_name(const ThreadCandidate& candidate) {
  const std::string_view name = candidate.thread.comm;
  return (name.starts_with("CPU ") && name.find('/') != std::string_view::npos) || name.starts_with("fc_vcpu") ||
         name.starts_with("vcpu") || name.starts_with("crosvm_vcpu") || name.starts_with("kvm-vcpu");
}

// ioctl(fd, KVM_RUN, ...), whatever the thread is called.
bool runs_guest(const ThreadCandidate& candidate) {
  std::string_view rest = candidate.system_call;
  if (next_word(rest) != std::to_string(SYS_ioctl)) return false;
  next_word(rest);
  return next_word(rest) == kKvmRun;
}

// Smaller is better; nullopt: not at all.
std::optional<int> rank(const ThreadCandidate& candidate, bool names_tell) {
  const ThreadInfo& thread = candidate.thread;
  if (thread.user_worker || (thread.flags & kKernelThread) != 0 || has_vcpu_name(candidate) || runs_guest(candidate))
    return std::nullopt;
  // By name as well: kernels before 6.4 do not mark vhost's workers.
  for (const std::string_view worker : {"iou-", "vhost-", "kvm-nx-"}) {
    if (std::string_view(thread.comm).starts_with(worker)) return std::nullopt;
  }
  std::string_view rest = candidate.system_call;
  const bool on_futex = next_word(rest) == std::to_string(SYS_futex);
  switch (thread.state) {
    case 'S':
      return (on_futex == names_tell ? 0 : 2) + (candidate.leader ? 1 : 0);
    case 'T':
      return 4;
    case 'R':
      return 5;
    default:
      return std::nullopt;
  }
}

}  // namespace

std::optional<std::size_t> find_syscall_bytes(std::span<const std::byte> code) {
  constexpr std::array kInstruction{std::byte{0x0f}, std::byte{0x05}};
  const auto found = std::search(code.begin(), code.end(), kInstruction.begin(), kInstruction.end());
  return found == code.end() ? std::nullopt : std::optional(static_cast<std::size_t>(found - code.begin()));
}

Result<std::uint64_t> find_syscall_instruction(const Process& process) {
  std::vector<AddressRange> executable;
  std::optional<AddressRange> vdso;
  const auto listed = process.for_each_map([&](const MemoryMap& map) {
    if (map.path == "[vdso]") vdso = map.range;
    // The vsyscall page cannot be read, and calls from it are emulated.
    if (map.executable && map.readable && map.path != "[vsyscall]" && executable.size() < 64)
      executable.push_back(map.range);
    return true;
  });
  if (!listed) return tl::unexpected(listed.error());
  if (vdso) executable.insert(executable.begin(), *vdso);
  for (const AddressRange& range : executable) {
    if (const auto address = find_in(process.id().pid, range)) return *address;
  }
  return failure(std::errc::not_supported, "find",
                 "a syscall instruction in process " + std::to_string(process.id().pid));
}

std::vector<pid_t> rank_threads(std::span<const ThreadCandidate> candidates) {
  const bool names_tell = std::ranges::any_of(candidates, has_vcpu_name);
  std::vector<std::pair<int, pid_t>> ranked;
  for (const ThreadCandidate& candidate : candidates) {
    if (const auto position = rank(candidate, names_tell)) ranked.emplace_back(*position, candidate.thread.tid);
  }
  std::ranges::sort(ranked);
  std::vector<pid_t> threads;
  threads.reserve(ranked.size());
  for (const auto& [position, tid] : ranked) threads.push_back(tid);
  return threads;
}

Result<std::vector<pid_t>> threads_fit_to_stop(const Process& process) {
  auto threads = process.threads();
  if (!threads) return tl::unexpected(threads.error());
  std::vector<ThreadCandidate> candidates;
  for (ThreadInfo& thread : *threads) {
    ThreadCandidate candidate{.thread = std::move(thread), .system_call = {}, .leader = false};
    candidate.leader = candidate.thread.tid == process.id().pid;
    const std::string name = "task/" + std::to_string(candidate.thread.tid) + "/syscall";
    if (auto text = read_at(process.directory(), name, name)) candidate.system_call = trim(*text);
    candidates.push_back(std::move(candidate));
  }
  auto fit = rank_threads(candidates);
  if (fit.empty()) {
    return failure(std::errc::device_or_resource_busy, "choose a thread of",
                   "process " + std::to_string(process.id().pid),
                   "every thread is a vCPU, a kernel worker, ending or in an uninterruptible wait: try again");
  }
  return fit;
}

}  // namespace tidepool::kernel
