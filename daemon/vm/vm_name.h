// What to call an adopted process. The name becomes a metric's label and a part of a path, so it is bounded and plain.
#pragma once

#include <sys/types.h>

#include <span>
#include <string>
#include <string_view>

namespace tidepool::daemon {

inline constexpr std::size_t kMaxVmName = 63;

// Letters, digits, '.', '_' and '-', beginning with a letter or digit; everything else becomes '-'. Empty when nothing
// usable is left.
std::string sanitize_vm_name(std::string_view name);

// By what the process is: QEMU's -name (as people and libvirt give it), Firecracker's --id, the name of Cloud
// Hypervisor's API socket; else "comm-pid". Never empty, and always sanitized. Whether it is unique is for others to
// decide.
std::string vm_name(std::string_view executable, std::span<const std::string> command_line, std::string_view comm,
                    pid_t pid);

// The UUID that a VM was given (QEMU's -uuid, Cloud Hypervisor's --platform uuid=), in lower case; empty where there is
// none, or something else stands there.
std::string vm_uuid(std::string_view executable, std::span<const std::string> command_line);
bool is_uuid(std::string_view text);

// Programs whose memory is a guest's: their largest mappings are the guest's RAM.
bool is_hypervisor(std::string_view executable);

// Programs that hand their memory off when they restore a snapshot, and only then: its content is in the snapshot's
// memory file.
bool restores_when_handing_off(std::string_view executable);

}  // namespace tidepool::daemon
