// Capabilities by number, as in /proc/PID/status (CapEff). include/uapi/linux/capability.h
#pragma once

namespace tidepool::kernel {

inline constexpr unsigned kCapChown = 0;
inline constexpr unsigned kCapDacOverride = 1;
inline constexpr unsigned kCapDacReadSearch = 2;
inline constexpr unsigned kCapKill = 5;
inline constexpr unsigned kCapIpcLock = 14;
inline constexpr unsigned kCapSysPtrace = 19;
inline constexpr unsigned kCapSysAdmin = 21;
inline constexpr unsigned kCapSysNice = 23;
inline constexpr unsigned kCapSysResource = 24;
inline constexpr unsigned kCapPerfmon = 38;

}  // namespace tidepool::kernel
