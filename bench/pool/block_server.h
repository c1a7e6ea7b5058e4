#pragma once

#include <sys/types.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

struct nbd_handle;

namespace tidepool::bench {

class BlockServer {
 public:
  // Filled when this returns. Throws when it cannot be had.
  BlockServer(bool tcp, std::size_t pages);
  ~BlockServer();
  BlockServer(const BlockServer&) = delete;
  BlockServer& operator=(const BlockServer&) = delete;

  // That many pages, in reads of `pages_each`, `depth` of them under way.
  void read(std::size_t count, unsigned depth, std::size_t pages_each);

 private:
  struct Read;

  std::size_t pages_;
  std::string folder_;
  pid_t pid_ = -1;
  nbd_handle* handle_ = nullptr;
  std::vector<std::unique_ptr<Read>> reads_;
  std::size_t under_way_ = 0;
  std::size_t next_ = 0;
};

}  // namespace tidepool::bench
