#include "daemon/vm/vm_name.h"

#include <cctype>
#include <optional>

#include "base/text.h"

namespace tidepool::daemon {
namespace {

std::string_view base_name(std::string_view path) {
  constexpr std::string_view kDeleted = " (deleted)";
  if (path.ends_with(kDeleted)) path.remove_suffix(kDeleted.size());
  return path.substr(path.rfind('/') + 1);
}

bool is_qemu(std::string_view program) {
  return program.starts_with("qemu-system-") || program == "qemu-kvm" || program == "kvm";
}

// The value of an option: "--id web", "--id=web"; `single_dash` also allows "-id web".
std::optional<std::string_view> option_value(std::span<const std::string> arguments, std::string_view name,
                                             bool single_dash) {
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    std::string_view argument = arguments[i];
    if (argument.starts_with("--"))
      argument.remove_prefix(2);
    else if (single_dash && argument.starts_with('-'))
      argument.remove_prefix(1);
    else
      continue;
    if (!argument.starts_with(name)) continue;
    argument.remove_prefix(name.size());
    if (argument.empty() && i + 1 < arguments.size()) return arguments[i + 1];
    if (argument.starts_with('=')) return argument.substr(1);
  }
  return std::nullopt;
}

// QEMU's option lists: "guest=web,,1,debug-threads=on"; a comma inside a value is doubled, and the first value may
// stand without its key.
std::string qemu_guest_name(std::string_view list) {
  std::string first;
  bool is_first = true;
  while (true) {
    std::string item;
    std::size_t i = 0;
    while (i < list.size()) {
      if (list[i] == ',') {
        if (i + 1 >= list.size() || list[i + 1] != ',') break;
        ++i;
      }
      item.push_back(list[i++]);
    }
    if (item.starts_with("guest=")) return item.substr(6);
    if (is_first && item.find('=') == std::string::npos) first = item;
    is_first = false;
    if (i >= list.size()) return first;
    list.remove_prefix(i + 1);
  }
}

// "path=/run/ch/web-3.sock" or "/run/ch/web-3.sock" -> "web-3".
std::string_view socket_stem(std::string_view socket) {
  if (socket.starts_with("path=")) socket = socket.substr(5, socket.find(',') - 5);
  std::string_view name = base_name(socket);
  return name.substr(0, name.rfind('.'));
}

}  // namespace

std::string sanitize_vm_name(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (out.size() == kMaxVmName) break;
    const bool letter = std::isalnum(static_cast<unsigned char>(c)) != 0 && static_cast<unsigned char>(c) < 0x80;
    const bool plain = letter || c == '.' || c == '_' || c == '-';
    if (out.empty() && !letter) continue;
    out.push_back(plain ? c : '-');
  }
  while (!out.empty() && out.back() == '-') out.pop_back();
  return out;
}

std::string vm_name(std::string_view executable, std::span<const std::string> command_line, std::string_view comm,
                    pid_t pid) {
  const std::string_view program = base_name(executable);
  std::string name;
  if (is_qemu(program)) {
    if (const auto value = option_value(command_line, "name", true)) name = qemu_guest_name(*value);
  } else if (program == "firecracker") {
    if (const auto value = option_value(command_line, "id", false)) name = *value;
  } else if (program == "cloud-hypervisor") {
    if (const auto value = option_value(command_line, "api-socket", false)) name = socket_stem(*value);
  }
  name = sanitize_vm_name(name);
  if (!name.empty()) return name;
  const std::string suffix = "-" + std::to_string(pid);
  name = sanitize_vm_name(comm);
  if (name.empty()) name = "process";
  return name.substr(0, kMaxVmName - suffix.size()) + suffix;
}

bool is_uuid(std::string_view text) {
  if (text.size() != 36) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? text[i] != '-' : std::isxdigit(static_cast<unsigned char>(text[i])) == 0) return false;
  }
  return true;
}

std::string vm_uuid(std::string_view executable, std::span<const std::string> command_line) {
  const std::string_view program = base_name(executable);
  std::string uuid;
  if (is_qemu(program)) {
    uuid = option_value(command_line, "uuid", true).value_or("");
  } else if (program == "cloud-hypervisor") {
    const std::string_view platform = option_value(command_line, "platform", false).value_or("");
    const std::size_t at = platform.find("uuid=");
    if (at != std::string_view::npos) uuid = platform.substr(at + 5, platform.find(',', at) - at - 5);
  }
  return is_uuid(uuid) ? lower_case(uuid) : "";
}

bool is_hypervisor(std::string_view executable) {
  const std::string_view program = base_name(executable);
  return is_qemu(program) || program == "firecracker" || program == "cloud-hypervisor" || program == "crosvm";
}

bool restores_when_handing_off(std::string_view executable) {
  // Its jailer insists on the word being in the file's name, and keeps the name.
  return base_name(executable).find("firecracker") != std::string_view::npos;
}

}  // namespace tidepool::daemon
