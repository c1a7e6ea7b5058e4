#include "service/notify.h"

#include <systemd/sd-daemon.h>

#include <cstdlib>
#include <ctime>
#include <string>

namespace tidepool {
namespace {

// A line feed would begin another assignment.
std::string one_line(std::string_view text) {
  std::string line(text);
  for (char& c : line)
    if (c == '\n' || c == '\r') c = ' ';
  return line;
}

void send(const std::string& state) {
  ::sd_notify(0, state.c_str());
}

std::string monotonic_usec() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::to_string(static_cast<std::int64_t>(now.tv_sec) * 1'000'000 + now.tv_nsec / 1000);
}

}  // namespace

bool ServiceManager::present() {
  return std::getenv("NOTIFY_SOCKET") != nullptr;
}
void ServiceManager::ready(std::string_view text) {
  send("READY=1\nSTATUS=" + one_line(text));
}
void ServiceManager::reloading() {
  send("RELOADING=1\nMONOTONIC_USEC=" + monotonic_usec());
}
void ServiceManager::stopping(std::string_view text) {
  send("STOPPING=1\nSTATUS=" + one_line(text));
}
void ServiceManager::status(std::string_view text) {
  send("STATUS=" + one_line(text));
}
void ServiceManager::watchdog() {
  send("WATCHDOG=1");
}

void ServiceManager::extend_timeout(std::chrono::microseconds by) {
  send("EXTEND_TIMEOUT_USEC=" + std::to_string(by.count()));
}

std::optional<std::chrono::microseconds> ServiceManager::watchdog_interval() {
  std::uint64_t usec = 0;
  if (::sd_watchdog_enabled(0, &usec) <= 0 || usec == 0) return std::nullopt;
  return std::chrono::microseconds(usec);
}

}  // namespace tidepool
