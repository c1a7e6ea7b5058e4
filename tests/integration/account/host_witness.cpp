#include "tests/integration/account/host_witness.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "kmod-interfaces/pagemap.h"
#include "kmod-interfaces/process.h"

namespace tidepool::tests {
namespace {

namespace fs = std::filesystem;

bool move_to(const std::string& group, pid_t pid) {
  std::ofstream file(group + "/cgroup.procs");
  file << pid << std::flush;
  return file.good();
}

// Sum of the lines "KEY: N kB" for the given keys.
Bytes kilobytes(const std::string& path, std::initializer_list<std::string_view> keys) {
  std::ifstream file(path);
  Bytes sum;
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    if (std::ranges::find(keys, std::string_view(line).substr(0, colon)) != keys.end())
      sum += Bytes{std::stoull(line.substr(colon + 1)) << 10};
  }
  return sum;
}

}  // namespace

MemoryGroup::MemoryGroup() {
  const auto self = kernel::Process::open({}, ::getpid());
  const auto group = self ? kernel::memory_group_of({}, *self) : Result<kernel::MemoryGroup>{Failure{self.error()}};
  if (!group) {
    missing_ = group.error().message();
    return;
  }
  home_ = group->directory;
  group_ = {group->version, home_ + "/tidepool-account-" + std::to_string(::getpid())};
  std::error_code error;
  fs::create_directory(group_.directory, error);
  if (error || !kernel::read_memory_group(group_) || !move_to(group_.directory, ::getpid())) {
    missing_ = "no memory control group can be made in " + home_;
    fs::remove(group_.directory, error);
  }
}

MemoryGroup::~MemoryGroup() {
  if (!missing_.empty()) return;
  EXPECT_TRUE(move_to(home_, ::getpid()));
  // A process that has just ended may still be on its way out.
  std::error_code error;
  for (int i = 0; i < 500 && ::rmdir(group_.directory.c_str()) != 0 && errno == EBUSY; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(fs::exists(group_.directory, error)) << group_.directory << " is left behind";
}

Bytes MemoryGroup::usage() const {
  const auto usage = kernel::read_memory_group(group_);
  EXPECT_TRUE(usage);
  return usage ? usage->current : Bytes{};
}

Bytes memory_of_processes(std::span<const pid_t> pids) {
  Bytes sum;
  std::set<ino_t> seen;
  for (const pid_t pid : pids) {
    const std::string proc = "/proc/" + std::to_string(pid);
    sum += kilobytes(proc + "/smaps_rollup", {"Pss_Anon", "Pss_File"}) + kilobytes(proc + "/status", {"VmPTE"});
    for (const auto& entry : fs::directory_iterator(proc + "/fd")) {
      std::error_code error;
      if (!fs::read_symlink(entry, error).string().starts_with("/memfd:")) continue;
      struct stat status {};
      if (::stat(entry.path().c_str(), &status) != 0 || !seen.insert(status.st_ino).second) continue;
      sum += Bytes{static_cast<std::uint64_t>(status.st_blocks) * 512};
    }
  }
  return sum;
}

Bytes in_page_of_zeros(pid_t pid) {
  constexpr AddressRange kAddressSpace{kPageSize, (1ull << 47) - kPageSize};
  const auto pagemap = kernel::Pagemap::open(pid);
  EXPECT_TRUE(pagemap);
  Bytes sum;
  if (!pagemap) return sum;
  EXPECT_TRUE(pagemap->for_each(kAddressSpace, kernel::uapi::kPageIsPfnZero,
                                [&](const auto& seen) { sum += Bytes{seen.end - seen.start}; }));
  return sum;
}

Bytes free_in_lists_of_processors() {
  std::ifstream file("/proc/zoneinfo");
  EXPECT_TRUE(file.is_open()) << "/proc/zoneinfo";
  std::uint64_t pages = 0;
  for (std::string word; file >> word;) {
    std::uint64_t count = 0;
    if (word == "count:" && file >> count) pages += count;
  }
  return to_bytes(PageCount{pages});
}

}  // namespace tidepool::tests
