#include "tests/support/process_state.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <ostream>
#include <sstream>

#include "tests/support/program.h"

namespace tidepool::tests {
namespace {

std::string folder_of(pid_t pid) {
  return "/proc/" + std::to_string(pid);
}

// The value behind "Name:" in /proc/PID/status.
std::string value_in(const std::string& status, const std::string& name) {
  const std::size_t at = status.find("\n" + name + ":");
  if (at == std::string::npos) return {};
  const std::size_t start = status.find_first_not_of(" \t", at + name.size() + 2);
  return status.substr(start, status.find('\n', start) - start);
}

std::vector<std::string> threads_of(pid_t pid) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder_of(pid) + "/task", error), end; !error && it != end;
       it.increment(error)) {
    std::string name = read_file(it->path().string() + "/comm");
    while (!name.empty() && name.back() == '\n') name.pop_back();
    if (!name.empty()) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::map<int, std::string> descriptors_of(pid_t pid) {
  std::map<int, std::string> found;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder_of(pid) + "/fd", error), end; !error && it != end;
       it.increment(error)) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(it->path(), gone);
    if (!gone) found[std::atoi(it->path().filename().c_str())] = target.string();
  }
  return found;
}

std::size_t watched_mappings_of(pid_t pid) {
  std::istringstream smaps(read_file(folder_of(pid) + "/smaps"));
  std::size_t count = 0;
  for (std::string line; std::getline(smaps, line);) {
    if (!line.starts_with("VmFlags:")) continue;
    line += ' ';
    for (const char* flag : {" um ", " uw ", " ui "}) {
      if (line.find(flag) == std::string::npos) continue;
      ++count;
      break;
    }
  }
  return count;
}

}  // namespace

ProcessState state_of_process(pid_t pid) {
  ProcessState result;
  const std::string status = read_file(folder_of(pid) + "/status");
  const std::string state = value_in(status, "State");
  result.alive = !state.empty() && state[0] != 'Z' && state[0] != 'X';
  if (!result.alive) return {};
  result.state = state[0] == 'R' || state[0] == 'D' ? 'S' : state[0];
  result.tracer = std::atoi(value_in(status, "TracerPid").c_str());
  result.signals = value_in(status, "SigBlk") + " " + value_in(status, "SigIgn");
  result.descriptors = descriptors_of(pid);
  result.threads = threads_of(pid);
  result.watched_mappings = watched_mappings_of(pid);
  return result;
}

void PrintTo(const ProcessState& state, std::ostream* out) {
  *out << (state.alive ? "alive " : "gone ") << state.state << ", tracer " << state.tracer << ", signals "
       << state.signals << ", watched mappings " << state.watched_mappings << "\n  descriptors:";
  for (const auto& [number, what] : state.descriptors) *out << " " << number << "=" << what;
  *out << "\n  threads:";
  for (const std::string& name : state.threads) *out << " " << name;
}

std::size_t open_descriptors(pid_t pid) {
  return descriptors_of(pid).size();
}

std::size_t ring_threads(pid_t pid) {
  const auto threads = threads_of(pid);
  return static_cast<std::size_t>(
      std::ranges::count_if(threads, [](const std::string& name) { return name.starts_with("iou-sqp"); }));
}

std::uint64_t status_kib(pid_t pid, const std::string& name) {
  return std::strtoull(value_in(read_file(folder_of(pid) + "/status"), name).c_str(), nullptr, 10);
}

std::uint64_t own_memory_kib(pid_t pid) {
  return status_kib(pid, "RssAnon") + status_kib(pid, "RssShmem");
}

bool is_sanitized(pid_t pid) {
  const std::string maps = read_file(folder_of(pid) + "/maps");
  return maps.find("/libasan.") != std::string::npos || maps.find("/libtsan.") != std::string::npos;
}

}  // namespace tidepool::tests
