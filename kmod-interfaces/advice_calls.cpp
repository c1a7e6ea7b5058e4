#include "kmod-interfaces/advice_calls.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>

#include "kmod-interfaces/proc_text.h"
#include "kmod-interfaces/process.h"

namespace tidepool::kernel {
namespace {

std::optional<std::uint64_t> next_argument(std::string_view& rest) {
  const std::string_view word = next_word(rest);
  return word.starts_with("0x") ? parse_hex(word.substr(2)) : std::nullopt;
}

}  // namespace

std::optional<AdviceCall> parse_advice_call(std::string_view line) {
  line = trim(line);
  if (parse_decimal(next_word(line)) != static_cast<std::uint64_t>(SYS_madvise)) return std::nullopt;
  const auto start = next_argument(line);
  const auto length = next_argument(line);
  const auto advice = next_argument(line);
  constexpr std::uint64_t kTop = ~0ull - kPageSize;
  if (!start || !length || !advice || *start > kTop || *length > kTop - *start) return std::nullopt;
  const std::uint64_t whole_pages = (*length + kPageSize - 1) & ~(kPageSize - 1);
  return AdviceCall{{*start, *start + whole_pages}, static_cast<int>(*advice)};
}

bool parse_fork(std::string_view line) {
  line = trim(line);
  const auto number = parse_decimal(next_word(line));
  constexpr std::array kForks{SYS_clone, SYS_clone3, SYS_fork, SYS_vfork};
  return number && std::ranges::find(kForks, static_cast<long>(*number)) != kForks.end();
}

bool AdviceCall::removes() const {
  constexpr std::array kRemoving{MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE, MADV_REMOVE};
  return std::ranges::find(kRemoving, advice) != kRemoving.end();
}

bool AdviceCalls::has_cause() const {
  return forks || !vacates.empty() || std::ranges::any_of(calls, &AdviceCall::removes);
}

std::vector<AddressRange> parse_vacated(std::string_view line) {
  line = trim(line);
  const auto number = parse_decimal(next_word(line));
  std::array<std::uint64_t, 6> arguments{};
  for (std::uint64_t& argument : arguments) argument = next_argument(line).value_or(0);
  const auto range = [](std::uint64_t start, std::uint64_t length) {
    return AddressRange{start, start + std::min<std::uint64_t>(length, ~0ull - start)};
  };
  if (number == static_cast<std::uint64_t>(SYS_munmap)) return {range(arguments[0], arguments[1])};
  if (number == static_cast<std::uint64_t>(SYS_brk)) return {{0, ~0ull}};
  if (number == static_cast<std::uint64_t>(SYS_mmap) && (arguments[3] & MAP_FIXED) != 0)
    return {range(arguments[0], arguments[1])};
  if (number != static_cast<std::uint64_t>(SYS_mremap)) return {};
  std::vector<AddressRange> gone{range(arguments[0], arguments[1])};
  if ((arguments[3] & MREMAP_FIXED) != 0) gone.push_back(range(arguments[4], arguments[2]));
  return gone;
}

bool CallWatcher::is_worker(std::uint64_t tid) const {
  const std::string name = std::to_string(tid) + "/stat";
  const auto text = read_at(::dirfd(directory_.get()), name, name);
  const auto stat = text ? parse_process_stat(*text) : std::nullopt;
  return stat && stat->is_user_worker();
}

UniqueFd CallWatcher::open_calls(std::uint64_t tid) const {
  const std::string name = std::to_string(tid) + "/syscall";
  return UniqueFd{::openat(::dirfd(directory_.get()), name.c_str(), O_RDONLY | O_CLOEXEC)};
}

Result<> CallWatcher::list() {
  const std::string path = "/proc/" + std::to_string(pid_) + "/task";
  if (directory_ == nullptr) directory_.reset(::opendir(path.c_str()));
  if (directory_ == nullptr) return errno_failure("open", path);
  ::rewinddir(directory_.get());
  before_.clear();
  before_.swap(threads_);
  auto next = before_.begin();  // mostly they are listed as they were before
  errno = 0;
  while (const dirent* entry = ::readdir(directory_.get())) {
    const auto tid = parse_decimal(entry->d_name);
    if (!tid || threads_.size() == kMaxAdvisingThreads) continue;
    const auto same = [&](const Thread& thread) { return thread.tid == *tid && thread.inode == entry->d_ino; };
    auto known = std::find_if(next, before_.end(), same);
    if (known == before_.end()) known = std::find_if(before_.begin(), next, same);
    if (known == before_.end()) {
      threads_.push_back({*tid, entry->d_ino, is_worker(*tid), {}});
    } else {
      threads_.push_back(std::move(*known));
      next = known + 1;
    }
    errno = 0;
  }
  return errno == 0 ? Result<>{} : errno_failure("list", path);
}

Result<AdviceCalls> CallWatcher::look() {
  if (auto listed = list(); !listed) return Failure{listed.error()};
  AdviceCalls found;
  std::size_t kept = 0;
  for (Thread& thread : threads_) {
    if (thread.worker) continue;
    if (!thread.calls.valid()) thread.calls = open_calls(thread.tid);
    std::array<char, 256> text{};
    const ssize_t got = thread.calls.valid() ? ::pread(thread.calls.get(), text.data(), text.size(), 0) : -1;
    if (++kept > kKeptFiles) thread.calls.reset();
    if (got <= 0) continue;  // it has ended
    const std::string_view line(text.data(), static_cast<std::size_t>(got));
    if (const auto call = parse_advice_call(line)) found.calls.push_back(*call);
    for (const AddressRange& range : parse_vacated(line)) found.vacates.push_back(range);
    found.forks = found.forks || parse_fork(line);
  }
  return found;
}

}  // namespace tidepool::kernel
