#include "pool/protocol/key_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstring>
#include <string_view>

#include "base/unique_fd.h"

namespace tidepool::protocol {
namespace {

constexpr std::size_t kBytes = kServerKeyBytes;

Failure wrong(const std::string& path, std::errc code, const std::string& why) {
  return failure(code, "use the key in", path, why);
}

}  // namespace

Result<ServerKey> read_key_file(const std::string& path) {
  // O_NONBLOCK: a FIFO given by mistake must not hang the start.
  const UniqueFd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (!fd.valid())
    return errno_failure(
        "open", path,
        "make a key: (umask 077; head -c 32 /dev/urandom > " + path + "), owned by the user that the server runs as");
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return errno_failure("inspect", path);
  if (!S_ISREG(info.st_mode)) return wrong(path, std::errc::invalid_argument, "a regular file is wanted");
  if ((info.st_mode & 077) != 0)
    return wrong(path, std::errc::operation_not_permitted,
                 "others than its owner may read or write it, so it is no secret: make a new key, with chmod 600");
  std::array<char, 2 * kBytes + 2> text{};
  const ssize_t got = ::read(fd.get(), text.data(), text.size());
  if (got < 0) return errno_failure("read", path);
  std::string_view content(text.data(), static_cast<std::size_t>(got));
  ServerKey key{};
  if (content.size() == kBytes) {
    std::memcpy(key.data(), content.data(), kBytes);
    return key;
  }
  if (content.ends_with('\n')) content.remove_suffix(1);
  if (content.size() != 2 * kBytes)
    return wrong(path, std::errc::invalid_argument, "32 bytes are wanted, or 64 hexadecimal digits");
  for (std::size_t i = 0; i < kBytes; ++i) {
    const char* digits = content.data() + 2 * i;
    const auto [end, error] = std::from_chars(digits, digits + 2, key[i], 16);
    if (error != std::errc{} || end != digits + 2)
      return wrong(path, std::errc::invalid_argument, "32 bytes are wanted, or 64 hexadecimal digits");
  }
  return key;
}

}  // namespace tidepool::protocol
