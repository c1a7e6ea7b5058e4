// What a program tells systemd (sd_notify). Without NOTIFY_SOCKET every call does nothing.
#pragma once

#include <chrono>
#include <optional>
#include <string_view>

namespace tidepool {

class ServiceManager {
 public:
  // True when systemd, or somebody who speaks its protocol, listens.
  static bool present();

  static void ready(std::string_view status);
  // Of a reload; ready() ends it. Carries the monotonic time that Type=notify-reload asks for.
  static void reloading();
  static void stopping(std::string_view status);
  static void status(std::string_view text);
  // The stop takes longer than planned: do not kill before this much time has passed from now.
  static void extend_timeout(std::chrono::microseconds by);
  // "I am alive", to be sent only after its loops made progress.
  static void watchdog();
  // WatchdogSec= of the unit, when it is meant for this process. Feed at half of it or more often.
  static std::optional<std::chrono::microseconds> watchdog_interval();
};

}  // namespace tidepool
