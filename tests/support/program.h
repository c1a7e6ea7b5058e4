// One of the project's programs, run to its end by a test.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace tidepool::tests {

inline constexpr auto kPatience = std::chrono::seconds(120);

// True when `condition` became true in time.
bool await(const std::function<bool()>& condition);

// The build's bin folder: TIDEPOOL_BIN, else that of this build.
std::string bin_folder();
// Of the whole file; empty when there is none.
std::string read_file(const std::string& path);

struct Outcome {
  int code = -1;  // 128 + the signal that ended it
  std::string out;
  std::string err;
  // Both, for a failing test to show.
  std::string all() const { return out + err; }
};

using Words = std::vector<std::string>;
using Environment = std::vector<std::pair<std::string, std::string>>;

// Started with this process's environment and `more`; standard input is /dev/null, the output goes to the two files.
// It ends with the thread that started it, should that die. Of a first word without '/', the build's program is meant.
// `prepare` runs in the child before the program does: false ends it with status 126.
pid_t start_program(const Words& words, const Environment& more, const std::string& out, const std::string& err,
                    const std::function<bool()>& prepare = {});
// The exit status, or 128 + signal; killed after kPatience, which then shows as 137.
int await_exit(pid_t pid);
// Both in one.
Outcome run_program(const Words& words, const Environment& more = {});

// A folder of its own, removed with all that is in it.
class TestFolder {
 public:
  TestFolder();
  ~TestFolder();
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace tidepool::tests
