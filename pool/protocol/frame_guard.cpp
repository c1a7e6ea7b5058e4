#include "pool/protocol/frame_guard.h"

#include <openssl/crypto.h>

#include <cstring>
#include <limits>

namespace tidepool::protocol {
namespace {

constexpr std::size_t kFlagsAt = 6;  // of a header

}  // namespace

Result<FrameGuard> FrameGuard::make(const FrameKey& key) {
  auto cipher = make_aes_gcm(key);
  if (!cipher) return Failure{cipher.error()};
  return FrameGuard(std::move(*cipher));
}

bool FrameGuard::next_tag(std::span<const Piece> first, std::span<const Piece> rest, Tag& tag) {
  // A nonce is used once: at the end of the numbers, which nobody reaches, nothing is sealed any more.
  if (frames_ == std::numeric_limits<std::uint64_t>::max()) return false;
  AesGcm::Nonce nonce{};
  std::memcpy(nonce.data() + nonce.size() - sizeof frames_, &frames_, sizeof frames_);
  ++frames_;
  return cipher_->authenticate(nonce, first, rest, tag);
}

bool FrameGuard::seal(std::span<std::byte> head, std::span<const Piece> rest, Tag& tag) {
  if (head.size() < kHeaderBytes) return false;
  head[kFlagsAt] |= static_cast<std::byte>(kTagFlag);
  const std::array<Piece, 1> first{head};
  return next_tag(first, rest, tag);
}

bool FrameGuard::check(std::span<const Piece> pieces, std::span<const std::byte> tag) {
  Tag expected{};
  return tag.size() == kTagBytes && next_tag(pieces, {}, expected) &&
         CRYPTO_memcmp(expected.data(), tag.data(), kTagBytes) == 0;
}

}  // namespace tidepool::protocol
