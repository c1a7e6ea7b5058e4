// The controller as a program has it: one thread that leads, loads, and answers requests in order, each after its
// changes are in the state store. Requests that wait together are committed together.
//
// Whenever a commit fails or leadership is lost, what is in memory is thrown away, nobody whose changes were in doubt
// is told anything but "not leading", and it leads and loads anew. Time is the monotonic clock's.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include "base/clock.h"
#include "base/latency_histogram.h"
#include "base/result.h"
#include "pool/controller/api/service.h"
#include "pool/controller/core/config.h"
#include "pool/controller/core/requests.h"
#include "pool/controller/state_store.h"

namespace tidepool::pool::controller {

struct ControllerOptions {
  CoreConfig core;
  std::chrono::milliseconds tick{250};
  std::size_t most_waiting = 1024;  // requests; more are told that it is overloaded
  // Between two attempts to lead, after one failed; doubled up to the latter.
  std::chrono::milliseconds retry{200};
  std::chrono::milliseconds retry_at_most{5000};
};

enum class ControllerPhase : std::uint8_t {
  kWaiting,  // for leadership, which another one may have
  kLoading,
  kLeading,
  kFailing,  // cannot lead: see `trouble`; it tries again
  kEnded,
};

struct ControllerState {
  ControllerPhase phase = ControllerPhase::kWaiting;
  std::string leader;   // who leads, as it named itself; empty: nobody that is known
  std::string trouble;  // why it could not lead or go on, the last time; empty while it leads
  // That error will not go away by waiting: a damaged or foreign database, records that make no sense. Only of a
  // controller that has never led.
  bool hopeless = false;
};

struct ControllerFigures {
  std::array<std::uint64_t, std::variant_size_v<Request>> requests{};  // answered or refused, by their type's place
  std::array<std::uint64_t, std::variant_size_v<Request>> refused{};
  std::uint64_t not_leading = 0;  // requests that came while it did not lead, or whose commit failed
  std::uint64_t overloaded = 0;
  std::uint64_t commits = 0;
  std::uint64_t commit_failures = 0;
  std::uint64_t records_changed = 0;
  std::uint64_t leaderships = 0;               // how often it began to lead
  std::uint64_t waiting = 0;                   // requests, now
  LatencyHistogram::Snapshot request_seconds;  // from the question to the answer
  LatencyHistogram::Snapshot commit_seconds;
  LatencyHistogram::Snapshot load_seconds;
};

// "register", "heartbeat", "grant", ...: of Request's alternatives, by their place.
std::string_view request_name(std::size_t type);

class Controller final : public ControllerService {
 public:
  // Begins to lead on a thread of its own. The clock must outlive it.
  Controller(std::unique_ptr<StateStore> store, const ControllerOptions& options, const Clock& clock);
  ~Controller() override;  // ends
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  // All of the following from any thread.

  // After an error of other codes than resource_unavailable_try_again (too many wait) it is not known whether the
  // request was carried out; the same one may be sent again.
  Result<Answer> call(const Request& request, const std::string& actor) override;
  std::string leader() override;
  // Requests wait only while the records are copied in memory, not for the disk.
  Result<BackupAnswer> backup(const std::string& file) override;
  void audit_trouble(std::string_view problem) override;

  // Loads anew with it, soon. One that contradicts the records is refused in the log, and the former stays.
  void reconfigure(const CoreConfig& config);

  // Resigns, so that another one may lead at once. Whoever waits, and whoever asks from now on, is told that this
  // controller does not lead.
  void end();

  ControllerState state() const;
  ControllerFigures figures() const;
  // Grows while its thread does what it should.
  std::uint64_t beats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tidepool::pool::controller
