#include "tests/support/limited_group.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "kmod-interfaces/process.h"

namespace tidepool::tests {

namespace fs = std::filesystem;

LimitedGroup::LimitedGroup() {
  const auto self = kernel::Process::open({}, ::getpid());
  const auto home = self ? kernel::memory_group_of({}, *self) : Result<kernel::MemoryGroup>{Failure{self.error()}};
  if (!home) {
    missing_ = "no memory control group: " + home.error().message();
    return;
  }
  group_ = {home->version, home->directory + "/tidepool-limit-" + std::to_string(::getpid())};
  std::error_code error;
  fs::create_directory(group_.directory, error);
  // Of version 2 a group has a memory controller only where its parent hands it on.
  if (error || !kernel::read_memory_group(group_)) {
    missing_ = "no memory control group can be made in " + home->directory;
    fs::remove(group_.directory, error);
  }
}

LimitedGroup::~LimitedGroup() {
  if (!missing_.empty()) return;
  // A process that has just ended may still be on its way out.
  std::error_code error;
  for (int i = 0; i < 500 && ::rmdir(group_.directory.c_str()) != 0 && errno == EBUSY; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(fs::exists(group_.directory, error)) << group_.directory << " is left behind";
}

std::vector<std::string> LimitedGroup::inside(const std::vector<std::string>& program) const {
  std::vector<std::string> words{"/bin/sh", "-c", "echo $$ > \"$0\" && exec \"$@\"",
                                 group_.directory + "/cgroup.procs"};
  words.insert(words.end(), program.begin(), program.end());
  return words;
}

Bytes LimitedGroup::usage() const {
  const auto usage = kernel::read_memory_group(group_);
  EXPECT_TRUE(usage);
  return usage ? usage->current : Bytes{};
}

void LimitedGroup::set_limit(std::optional<Bytes> limit) const {
  const bool v1 = group_.version == kernel::CgroupVersion::v1;
  std::ofstream file(group_.directory + (v1 ? "/memory.limit_in_bytes" : "/memory.max"));
  file << (limit ? std::to_string(limit->value) : v1 ? "-1" : "max") << std::flush;
  EXPECT_TRUE(file.good()) << "cannot limit " << group_.directory;
}

std::uint64_t LimitedGroup::killed() const {
  const bool v1 = group_.version == kernel::CgroupVersion::v1;
  std::ifstream file(group_.directory + (v1 ? "/memory.oom_control" : "/memory.events"));
  std::string key;
  std::uint64_t value = 0;
  while (file >> key >> value) {
    if (key == "oom_kill") return value;
  }
  ADD_FAILURE() << "nothing tells of kills in " << group_.directory;
  return 0;
}

}  // namespace tidepool::tests
