// Who changed what, when, and what came of it: one JSON line when a changing request begins and one when it ended, so
// that a request that took the agent down is in the record too.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "service/http/message.h"

namespace tidepool::http {

class AuditLog {
 public:
  // Appends to `path` (0640, created when absent); with an empty path the records go to the log at level info. `who`
  // names this program in every record: its pid is there as "agent_pid". `trouble` is told when records begin to fail,
  // and why, and (empty) when they are written again; on any thread.
  static Result<std::unique_ptr<AuditLog>> open(const std::string& path, const std::string& who,
                                                std::function<void(std::string_view)> trouble = {});
  ~AuditLog();

  // Thread-safe. Return the record's number, which joins both lines. A record that cannot be written goes to the log as
  // an error, whole; the request goes on, because an operator must be able to freeze a host whose disk is full.
  std::uint64_t begin(const Caller& caller, std::string_view method, std::string_view target, std::string_view body);
  void end(std::uint64_t number, unsigned status, std::string_view response_body);
  // After the file was rotated away: continue in a new one of the same name.
  Result<> reopen();

 private:
  struct State;
  explicit AuditLog(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace tidepool::http
