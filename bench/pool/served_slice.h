// A tidepool-memd of its own, from the folder of this program, and a link to it with one slice that is full of pages.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "pool/client/server_link.h"

namespace tidepool::bench {

class ServedSlice {
 public:
  static constexpr std::uint32_t kSlots = 4096;
  static constexpr protocol::SliceId kSlice{1};

  explicit ServedSlice(bool tcp);
  ~ServedSlice();
  ServedSlice(const ServedSlice&) = delete;
  ServedSlice& operator=(const ServedSlice&) = delete;

  pool::Link& link() { return *link_; }
  const std::string& address() const { return address_; }

 private:
  void start_server(bool tcp);
  void fill();

  std::string folder_;
  std::string address_;
  pid_t pid_ = -1;
  std::unique_ptr<pool::Link> link_;
};

}  // namespace tidepool::bench
