// Errors as values: what failed (an error_code), what was attempted, on what, and what the reader can do about it.
#pragma once

#include <string>
#include <system_error>
#include <tl/expected.hpp>

namespace tidepool {

struct Error {
  std::error_code code;
  std::string attempted;  // "open", "register userfaultfd"
  std::string subject;    // "/proc/71/pagemap", "vm web-3"
  std::string remedy;     // empty when there is nothing useful to say

  // "open /proc/71/pagemap: Permission denied (grant CAP_SYS_PTRACE)"
  std::string message() const;
};

template <class T = void>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using tl::expected<T, Error>::expected;
};

using Failure = tl::unexpected<Error>;

// From errno as it stands; call it before anything that may change errno.
Failure errno_failure(std::string attempted, std::string subject, std::string remedy = {});
Failure failure(std::errc code, std::string attempted, std::string subject, std::string remedy = {});
Failure failure_from(int errno_value, std::string attempted, std::string subject, std::string remedy = {});

}  // namespace tidepool
