#include "pool/protocol/handshake.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <sys/random.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "pool/protocol/codec.h"

namespace tidepool::protocol {
namespace {

using Digest = std::array<std::uint8_t, 32>;

// Every use of a key says what it is for, so that no value of one use is valid in another.
constexpr std::string_view kLeaseLabel = "tidepool 1 lease";
constexpr std::string_view kAttachLabel = "tidepool 1 attach";
constexpr std::string_view kToServerLabel = "tidepool 1 frames to server";
constexpr std::string_view kToClientLabel = "tidepool 1 frames to client";

// A short message of known parts, put together on the stack.
class Message {
 public:
  template <class Bytes>
  Message& add(const Bytes& bytes) {
    if (bytes.size() > bytes_.size() - used_) std::abort();
    std::memcpy(bytes_.data() + used_, bytes.data(), bytes.size());
    used_ += bytes.size();
    return *this;
  }
  Digest hmac(std::span<const std::uint8_t> key) const {
    Digest digest{};
    unsigned int length = digest.size();
    // With a default digest in memory that the caller gave, only a broken OpenSSL fails; to go on would mean keys of
    // zeros.
    if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), bytes_.data(), used_, digest.data(), &length) ==
        nullptr)
      std::abort();
    return digest;
  }

 private:
  std::array<std::uint8_t, 256> bytes_{};
  std::size_t used_ = 0;
};

template <class Bytes>
Result<Bytes> from_kernel() {
  Bytes bytes{};
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t got = ::getrandom(bytes.data() + filled, bytes.size() - filled, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_failure("take", "random bytes of the kernel");
    filled += static_cast<std::size_t>(got);
  }
  return bytes;
}

}  // namespace

std::optional<std::uint16_t> common_version(const Hello& hello) {
  if (hello.lowest_version > kVersion || hello.highest_version < kVersion) return std::nullopt;
  return kVersion;
}

Result<Random> fresh_random() {
  return from_kernel<Random>();
}
Result<BootId> fresh_boot_id() {
  return from_kernel<BootId>();
}

LeaseSecret lease_secret(const ServerKey& key, const Claims& claims) {
  return Message().add(kLeaseLabel).add(claims_bytes(claims)).hmac(key);
}

TranscriptDigest transcript_digest(std::span<const std::byte> hello, std::span<const std::byte> welcome) {
  // Both lengths go in first: no bytes can pass from one to the other.
  const std::array<std::uint64_t, 2> lengths{hello.size(), welcome.size()};
  TranscriptDigest digest{};
  unsigned int length = digest.size();
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  if (context == nullptr || EVP_DigestInit_ex(context, EVP_sha256(), nullptr) != 1 ||
      EVP_DigestUpdate(context, lengths.data(), sizeof lengths) != 1 ||
      EVP_DigestUpdate(context, hello.data(), hello.size()) != 1 ||
      EVP_DigestUpdate(context, welcome.data(), welcome.size()) != 1 ||
      EVP_DigestFinal_ex(context, digest.data(), &length) != 1)
    std::abort();
  EVP_MD_CTX_free(context);
  return digest;
}

Proof attach_proof(const LeaseSecret& secret, const TranscriptDigest& transcript, const Claims& claims) {
  return Message().add(kAttachLabel).add(transcript).add(claims_bytes(claims)).hmac(secret);
}

bool proves(const Proof& proof, const LeaseSecret& secret, const TranscriptDigest& transcript, const Claims& claims) {
  const Proof expected = attach_proof(secret, transcript, claims);
  return CRYPTO_memcmp(expected.data(), proof.data(), proof.size()) == 0;
}

// HKDF-SHA256 (RFC 5869); each key is one block of its output.
FrameKeys frame_keys(const LeaseSecret& secret, const Random& client, const Random& server,
                     const TranscriptDigest& transcript) {
  std::array<std::uint8_t, 2 * std::tuple_size_v<Random>> salt{};
  std::ranges::copy(server, std::ranges::copy(client, salt.begin()).out);
  const Digest extracted = Message().add(secret).hmac(salt);
  const auto expand = [&](std::string_view label) {
    static constexpr std::array<std::uint8_t, 1> kFirstBlock{1};
    return Message().add(label).add(transcript).add(kFirstBlock).hmac(extracted);
  };
  return {expand(kToServerLabel), expand(kToClientLabel)};
}

}  // namespace tidepool::protocol
