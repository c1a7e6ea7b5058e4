#include "bench/load/handoff_client.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <boost/json.hpp>
#include <span>
#include <vector>

#include "kmod-interfaces/fd_passing.h"

namespace tidepool::load {
namespace {

namespace json = boost::json;

constexpr std::size_t kLongestAnswer = 64u << 10;

Result<UniqueFd> connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return failure(std::errc::filename_too_long, "connect to", path);
  path.copy(address.sun_path, path.size());
  UniqueFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return errno_failure("connect to", path, "does the agent run, with adopt.handoff_socket set?");
  return socket;
}

Result<std::string> read_line(int socket) {
  std::string line;
  char next = 0;
  while (line.size() < kLongestAnswer) {
    const ssize_t got = ::recv(socket, &next, 1, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_failure("read", "the agent's answer");
    if (got == 0) return failure(std::errc::connection_reset, "read", "the agent's answer");
    if (next == '\n') return line;
    line += next;
  }
  return failure(std::errc::message_size, "read", "the agent's answer");
}

std::string text_in(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : "";
}

Result<std::string> vm_in(const std::string& line) {
  boost::system::error_code error;
  const json::value answer = json::parse(line, error);
  if (error || !answer.is_object()) return failure(std::errc::bad_message, "read", "the agent's answer");
  const std::string vm = text_in(answer.get_object(), "vm");
  if (!vm.empty()) return vm;
  const json::value* refusal = answer.get_object().if_contains("error");
  if (refusal == nullptr || !refusal->is_object()) return failure(std::errc::bad_message, "read", "the agent's answer");
  return failure(std::errc::operation_not_permitted, "hand off: " + text_in(refusal->get_object(), "message"), "",
                 text_in(refusal->get_object(), "remedy"));
}

}  // namespace

Result<HandedOff> hand_off(const WorkloadMemory& memory, const std::string& path) {
  HandedOff handed;
  auto userfaultfd = kernel::Userfaultfd::create_for_self();
  if (!userfaultfd) return Failure{userfaultfd.error()};
  handed.userfaultfd = std::move(*userfaultfd);
  if (auto agreed = handed.userfaultfd.handshake(UFFD_FEATURE_EVENT_REMOVE); !agreed) return Failure{agreed.error()};
  const AddressRange range = memory.range();
  if (auto done = handed.userfaultfd.register_range(range, UFFDIO_REGISTER_MODE_MISSING); !done)
    return Failure{done.error()};
  auto socket = connect_to(path);
  if (!socket) return Failure{socket.error()};
  handed.connection = std::move(*socket);
  const std::string message =
      fmt::format(R"([{{"base_host_virt_addr":{},"size":{},"offset":0,"page_size":4096,"page_size_kib":4096}}])",
                  range.start, range.size());
  std::vector<int> descriptors{handed.userfaultfd.fd()};
  if (memory.file() >= 0) descriptors.push_back(memory.file());
  if (auto sent = kernel::send_message(handed.connection.get(), std::as_bytes(std::span(message)), descriptors); !sent)
    return Failure{sent.error()};
  const auto line = read_line(handed.connection.get());
  if (!line) return Failure{line.error()};
  auto vm = vm_in(*line);
  if (!vm) return Failure{vm.error()};
  handed.vm = std::move(*vm);
  return handed;
}

}  // namespace tidepool::load
