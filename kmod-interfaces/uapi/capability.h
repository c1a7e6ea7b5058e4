// Capabilities by number, as in /proc/PID/status (CapEff). include/uapi/linux/capability.h
#pragma once

namespace tidepool::kernel {

inline constexpr unsigned kCapIpcLock = 14;
inline constexpr unsigned kCapSysPtrace = 19;
inline constexpr unsigned kCapSysAdmin = 21;
inline constexpr unsigned kCapSysNice = 23;
inline constexpr unsigned kCapPerfmon = 38;

}  // namespace tidepool::kernel
