#include "pool/keeper/systemd_holder.h"

#include <fcntl.h>
#include <systemd/sd-daemon.h>

#include <array>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <utility>

namespace tidepool::pool {
namespace {

constexpr std::size_t kMaxName = 255;

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

struct Inherited {
  int count = 0;
  std::vector<std::string> names;
};

Result<Inherited> inherited() {
  char** names = nullptr;
  Inherited result;
  result.count = ::sd_listen_fds_with_names(0, &names);
  if (result.count < 0) return failure_from(-result.count, "read", "$LISTEN_FDS");
  for (int i = 0; i < result.count; ++i) {
    result.names.emplace_back(names[i]);
    std::free(names[i]);
  }
  std::free(names);
  return result;
}

// $FDSTORE: how many the service may store; unlimited as far as we know when it is not there.
std::uint64_t most_stored() {
  const char* text = std::getenv("FDSTORE");
  return text == nullptr ? UINT64_MAX : std::strtoull(text, nullptr, 10);
}

}  // namespace

Result<std::string> SystemdHolder::encode_name(std::string_view name) {
  static constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string encoded;
  for (const char c : name) {
    const auto value = static_cast<unsigned char>(c);
    if (value >= ' ' && value < 127 && c != ':' && c != '%') {
      encoded += c;
    } else {
      encoded += '%';
      encoded += kDigits[value >> 4];
      encoded += kDigits[value & 15];
    }
  }
  if (encoded.empty() || encoded.size() > kMaxName)
    return failure(std::errc::invalid_argument, "hold", std::string(name), "systemd's names have 1 to 255 characters");
  return encoded;
}

std::string SystemdHolder::decode_name(std::string_view name) {
  std::string decoded;
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '%' && i + 2 < name.size() && hex_digit(name[i + 1]) >= 0 && hex_digit(name[i + 2]) >= 0) {
      decoded += static_cast<char>(hex_digit(name[i + 1]) << 4 | hex_digit(name[i + 2]));
      i += 2;
    } else {
      decoded += name[i];
    }
  }
  return decoded;
}

Result<std::unique_ptr<SystemdHolder>> SystemdHolder::open(std::chrono::milliseconds patience) {
  if (std::getenv("NOTIFY_SOCKET") == nullptr)
    return failure(std::errc::no_such_file_or_directory, "use", "systemd's descriptor store",
                   "$NOTIFY_SOCKET is not set: run as a service");
  std::unique_ptr<SystemdHolder> holder(new SystemdHolder(patience));
  auto known = inherited();
  if (!known) return Failure{known.error()};
  holder->names_.insert(known->names.begin(), known->names.end());
  return holder;
}

Result<> SystemdHolder::notify(const std::string& message, int fd) {
  const int sent = fd >= 0 ? ::sd_pid_notify_with_fds(0, 0, message.c_str(), &fd, 1) : ::sd_notify(0, message.c_str());
  if (sent == -EINVAL && fd >= 0)
    return failure_from(EINVAL, "store", "descriptor",
                        "the kernel sends no io_uring descriptors over sockets since Linux 6.7");
  if (sent < 0) return failure_from(-sent, "notify", "systemd");
  if (sent == 0) return failure(std::errc::no_such_file_or_directory, "notify", "systemd", "$NOTIFY_SOCKET is not set");
  // Returns when everything sent before has been processed; systemd 246.
  const auto wait = std::chrono::duration_cast<std::chrono::microseconds>(patience_).count();
  const int processed = ::sd_notify_barrier(0, static_cast<std::uint64_t>(wait));
  if (processed < 0) return failure_from(-processed, "wait for", "systemd");
  return {};
}

Result<> SystemdHolder::store(const std::string& name, int fd) {
  const auto encoded = encode_name(name);
  if (!encoded) return Failure{encoded.error()};
  if (::fcntl(fd, F_GETFD) < 0) return errno_failure("hold", name);
  if (names_.contains(*encoded)) {
    if (auto removed = remove(name); !removed) return removed;
  } else if (names_.size() >= most_stored()) {
    return failure(std::errc::too_many_files_open, "hold", name, "raise FileDescriptorStoreMax= of the unit");
  }
  // FDPOLL=0: a userfaultfd that reports POLLERR or a ring that reports POLLHUP would be thrown out otherwise.
  if (auto stored = notify("FDSTORE=1\nFDPOLL=0\nFDNAME=" + *encoded, fd); !stored) return stored;
  names_.insert(*encoded);
  return {};
}

Result<> SystemdHolder::remove(const std::string& name) {
  const auto encoded = encode_name(name);
  if (!encoded) return Failure{encoded.error()};
  if (!names_.contains(*encoded)) return failure(std::errc::no_such_file_or_directory, "remove", name);
  if (auto removed = notify("FDSTOREREMOVE=1\nFDNAME=" + *encoded, -1); !removed) return removed;
  names_.erase(*encoded);
  return {};
}

Result<std::vector<HeldFd>> SystemdHolder::fetch_all() {
  auto known = inherited();
  if (!known) return Failure{known.error()};
  std::vector<HeldFd> all;
  for (int i = 0; i < known->count; ++i) {
    const std::string& encoded = known->names[static_cast<std::size_t>(i)];
    if (!names_.contains(encoded)) continue;  // removed since
    UniqueFd fd{::fcntl(SD_LISTEN_FDS_START + i, F_DUPFD_CLOEXEC, 0)};
    if (!fd.valid()) return errno_failure("fetch", encoded);
    all.push_back({decode_name(encoded), std::move(fd)});
  }
  return all;
}

}  // namespace tidepool::pool
