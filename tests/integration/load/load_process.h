// A running workload, for tests: started, spoken to by signals, read line by line.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "base/units.h"

namespace tidepool::load {

class LoadProcess {
 public:
  // Starts a program from the build's bin folder, or by its path. Fails the test (gtest) when it cannot be started.
  explicit LoadProcess(std::vector<std::string> arguments, const std::string& program = "tidepool-load");
  LoadProcess(const LoadProcess&) = delete;
  LoadProcess& operator=(const LoadProcess&) = delete;
  // Kills the process if it still runs.
  ~LoadProcess();

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  // The next line of standard output without its newline; nothing at the end, or when none comes within `limit`.
  std::optional<std::string> read_line(std::chrono::seconds limit = std::chrono::seconds(120));
  // Reads on until the `ready` line and returns the address range in it.
  AddressRange wait_until_ready();
  // The exit status, or 128 + signal number.
  int wait_for_exit();

  // The process's memory, from outside: what a faulty memory manager would do to it.
  std::vector<std::byte> peek(std::uint64_t address, std::size_t size) const;
  void poke(std::uint64_t address, const std::vector<std::byte>& bytes) const;
  // Stops all threads and returns once they stand still; SIGCONT lets them go on.
  void stop_threads() const;

 private:
  pid_t pid_ = -1;
  UniqueFd output_;
  std::string buffered_;
};

}  // namespace tidepool::load
