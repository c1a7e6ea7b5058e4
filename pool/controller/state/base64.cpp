#include "pool/controller/state/base64.h"

#include <openssl/evp.h>

namespace tidepool::pool::controller {
namespace {

unsigned char* unsigned_data(std::string& text) {
  return static_cast<unsigned char*>(static_cast<void*>(text.data()));
}
const unsigned char* unsigned_data(std::string_view text) {
  return static_cast<const unsigned char*>(static_cast<const void*>(text.data()));
}

}  // namespace

std::string base64_of(std::string_view bytes) {
  // EVP_EncodeBlock ends its text with a zero.
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
  const int length = ::EVP_EncodeBlock(unsigned_data(text), unsigned_data(bytes), static_cast<int>(bytes.size()));
  text.resize(static_cast<std::size_t>(length));
  return text;
}

std::optional<std::string> from_base64(std::string_view text) {
  if (text.empty()) return std::string();
  // EVP_DecodeBlock passes blanks over, at both ends.
  if (text.size() % 4 != 0 || text.find_first_of(" \t\r\n-") != std::string_view::npos) return std::nullopt;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  std::string bytes(text.size() / 4 * 3, '\0');
  if (::EVP_DecodeBlock(unsigned_data(bytes), unsigned_data(text), static_cast<int>(text.size())) < 0)
    return std::nullopt;
  bytes.resize(bytes.size() - padding);
  return bytes;
}

}  // namespace tidepool::pool::controller
