// Reads far pages out of what the keeper holds, as docs/layout.md has it and with nothing of the agent's own code: what
// somebody who takes over, or searches for a lost page, would do.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace tidepool::tests {

class FarReader {
 public:
  using Page = std::array<std::byte, 4096>;
  struct FarPage {
    std::uint64_t address;  // in address space `space`
    std::uint64_t space;
    Page content;
  };
  // Connects to the keeper and takes a copy of every descriptor. `problem` is empty when all that is held makes sense.
  explicit FarReader(const std::string& keeper_socket);

  const std::string& problem() const { return problem_; }
  bool holds(const std::string& name) const { return held_.contains(name); }
  // Every page that is far, dropping or fetching. A page that cannot be read is a problem.
  std::vector<FarPage> far_pages(const std::string& vm);

 private:
  std::vector<std::byte> bytes_of(const std::string& name) const;
  std::optional<Page> stored(std::uint64_t location) const;
  void read_object(const std::vector<std::byte>& map, std::vector<FarPage>& found);

  std::map<std::string, UniqueFd> held_;
  std::vector<std::byte> table_;
  std::string problem_;
};

}  // namespace tidepool::tests
