// What an operator may set of the controller's core.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "base/units.h"

namespace tidepool::pool::controller {

struct CoreConfig {
  // Of a store without records: a name that no other cluster has (the caller's to make). Else the store's counts.
  std::string cluster;
  // 2 MiB to 1 GiB, a power of two. Fixed once slices exist.
  Bytes slice_bytes{std::uint64_t{64} << 20};
  // That capacity is counted for; a VM may want another number.
  unsigned replicas = 2;
  std::chrono::milliseconds heartbeat{2000};
  std::chrono::milliseconds suspect_after{7000};  // without a heartbeat
  std::chrono::milliseconds lost_after{60'000};
  std::chrono::milliseconds sync{5000};
  std::chrono::milliseconds host_silent_after{30'000};
  std::chrono::milliseconds lease{3'600'000};
  std::chrono::milliseconds offer{60'000};     // to confirm a grant
  std::chrono::milliseconds reclaim{300'000};  // to give back
  std::chrono::milliseconds round{1000};       // between two distributions of shares
  double buffer = 0.02;                        // of the capacity, kept free ahead of grants
  unsigned copies_per_host = 4;                // replicas being made at a time
  unsigned copies_per_server = 8;              // read or written
  unsigned balance_moves = 4;                  // of all copies, those that only make stranded capacity usable
  std::uint32_t history = 10'000;              // entries
};

}  // namespace tidepool::pool::controller
