#include "pool/protocol/frame_guard.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <cstring>
#include <limits>

namespace tidepool::protocol {
namespace {

constexpr std::size_t kNonceBytes = 12;
constexpr std::size_t kFlagsAt = 6;  // of a header

}  // namespace

void FrameGuard::FreeContext::operator()(evp_cipher_ctx_st* context) const {
  EVP_CIPHER_CTX_free(context);
}

Result<FrameGuard> FrameGuard::make(const FrameKey& key) {
  Context context{EVP_CIPHER_CTX_new()};
  if (!context || EVP_EncryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, key.data(), nullptr) != 1)
    return failure(std::errc::not_enough_memory, "prepare", "authentication of frames", "OpenSSL refused it");
  return FrameGuard(std::move(context));
}

bool FrameGuard::begin() {
  // A nonce is used once: at the end of the numbers, which nobody reaches, nothing is sealed any more.
  if (frames_ == std::numeric_limits<std::uint64_t>::max()) return false;
  std::array<unsigned char, kNonceBytes> nonce{};
  std::memcpy(nonce.data() + kNonceBytes - sizeof frames_, &frames_, sizeof frames_);
  ++frames_;
  return EVP_EncryptInit_ex(context_.get(), nullptr, nullptr, nullptr, nonce.data()) == 1;
}

bool FrameGuard::add(Piece piece) {
  if (piece.empty()) return true;
  int written = 0;
  return EVP_EncryptUpdate(context_.get(), nullptr, &written, reinterpret_cast<const unsigned char*>(piece.data()),
                           static_cast<int>(piece.size())) == 1;
}

bool FrameGuard::end(Tag& tag) {
  int written = 0;
  std::array<unsigned char, EVP_MAX_BLOCK_LENGTH> nothing{};
  return EVP_EncryptFinal_ex(context_.get(), nothing.data(), &written) == 1 &&
         EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_GCM_GET_TAG, kTagBytes, tag.data()) == 1;
}

bool FrameGuard::seal(std::span<std::byte> head, std::span<const Piece> rest, Tag& tag) {
  if (head.size() < kHeaderBytes) return false;
  head[kFlagsAt] |= static_cast<std::byte>(kTagFlag);
  if (!begin() || !add(head)) return false;
  for (const Piece piece : rest) {
    if (!add(piece)) return false;
  }
  return end(tag);
}

bool FrameGuard::check(std::span<const Piece> pieces, std::span<const std::byte> tag) {
  if (tag.size() != kTagBytes || !begin()) return false;
  for (const Piece piece : pieces) {
    if (!add(piece)) return false;
  }
  Tag expected{};
  return end(expected) && CRYPTO_memcmp(expected.data(), tag.data(), kTagBytes) == 0;
}

}  // namespace tidepool::protocol
