#include "service/http/audit_log.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "base/quantity_text.h"
#include "base/text.h"
#include "base/unique_fd.h"
#include "service/log.h"

namespace tidepool::http {
namespace {

namespace json = boost::json;

// A record is for reading: what matters of a request fits, and a client cannot fill the disk with one.
constexpr std::size_t kLongestExcerpt = 2048;

Result<UniqueFd> open_for_append(const std::string& path) {
  // O_NOFOLLOW: who serves is privileged and the folder may be writable by others.
  UniqueFd fd{::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640)};
  if (!fd.valid()) return errno_failure("open audit log", path, "create its folder, or set api.audit_log = \"\"");
  return fd;
}

}  // namespace

struct AuditLog::State {
  std::string path;
  std::string pid_field;
  std::mutex mutex;
  UniqueFd fd;
  std::atomic<std::uint64_t> next{1};
  std::function<void(std::string_view)> tell_trouble;
  bool failing = false;

  void write(json::object record) {
    record["at"] = rfc3339(std::chrono::system_clock::now());
    std::string line = to_valid_utf8(json::serialize(record));
    const std::lock_guard lock(mutex);
    if (path.empty()) {
      spdlog::info("audit={}", line);
      return;
    }
    line += '\n';
    // One write per line: O_APPEND keeps lines of several writers whole.
    ssize_t written = 0;
    do {
      written = ::write(fd.get(), line.data(), line.size());
    } while (written < 0 && errno == EINTR);
    const std::string problem = written < 0                                    ? std::strerror(errno)
                                : written != static_cast<ssize_t>(line.size()) ? "the disk took a part of a record"
                                                                               : "";
    if (!problem.empty()) {
      spdlog::error("event=audit_write_failed path={} error={} audit={}", in_quotes(path), in_quotes(problem),
                    std::string_view(line).substr(0, line.size() - 1));
    }
    if (tell_trouble && failing != !problem.empty()) tell_trouble(problem.empty() ? "" : path + ": " + problem);
    failing = !problem.empty();
  }
};

AuditLog::AuditLog(std::unique_ptr<State> state) : state_(std::move(state)) {}
AuditLog::~AuditLog() = default;

Result<std::unique_ptr<AuditLog>> AuditLog::open(const std::string& path, const std::string& who,
                                                 std::function<void(std::string_view)> trouble) {
  auto state = std::make_unique<State>();
  state->tell_trouble = std::move(trouble);
  state->path = path;
  state->pid_field = who + "_pid";
  if (!path.empty()) {
    Result<UniqueFd> fd = open_for_append(path);
    if (!fd) return Failure(fd.error());
    state->fd = std::move(*fd);
  }
  return std::unique_ptr<AuditLog>(new AuditLog(std::move(state)));
}

std::uint64_t AuditLog::begin(const Caller& caller, std::string_view method, std::string_view target,
                              std::string_view body) {
  const std::uint64_t number = state_->next.fetch_add(1);
  json::object record{{"phase", "begin"}, {"number", number}, {state_->pid_field, ::getpid()}};
  if (caller.tls) {
    record["name"] = caller.name;
    record["role"] = caller.role;
    record["address"] = caller.address;
  } else {
    record["uid"] = caller.uid;
    record["gid"] = caller.gid;
    record["pid"] = caller.pid;
  }
  record["method"] = method;
  record["target"] = target.substr(0, kLongestExcerpt);
  record["body"] = body.substr(0, kLongestExcerpt);
  state_->write(std::move(record));
  return number;
}

void AuditLog::end(std::uint64_t number, unsigned status, std::string_view response_body) {
  state_->write({{"phase", "end"},
                 {"number", number},
                 {state_->pid_field, ::getpid()},
                 {"status", status},
                 {"result", response_body.substr(0, kLongestExcerpt)}});
}

Result<> AuditLog::reopen() {
  if (state_->path.empty()) return {};
  Result<UniqueFd> fd = open_for_append(state_->path);
  if (!fd) return Failure(fd.error());
  const std::lock_guard lock(state_->mutex);
  state_->fd = std::move(*fd);
  return {};
}

}  // namespace tidepool::http
