#include <cerrno>
#include <utility>

#include "base/result.h"

namespace tidepool {

std::string Error::message() const {
  std::string text = attempted;
  if (!subject.empty()) text += (text.empty() ? "" : " ") + subject;
  if (code) text += (text.empty() ? "" : ": ") + code.message();
  if (!remedy.empty()) text += " (" + remedy + ")";
  return text;
}

Failure failure_from(int errno_value, std::string attempted, std::string subject, std::string remedy) {
  return Failure{Error{std::error_code(errno_value, std::generic_category()), std::move(attempted), std::move(subject),
                       std::move(remedy)}};
}

Failure errno_failure(std::string attempted, std::string subject, std::string remedy) {
  return failure_from(errno, std::move(attempted), std::move(subject), std::move(remedy));
}

Failure failure(std::errc code, std::string attempted, std::string subject, std::string remedy) {
  return failure_from(static_cast<int>(code), std::move(attempted), std::move(subject), std::move(remedy));
}

}  // namespace tidepool
