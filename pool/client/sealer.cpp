#include "pool/client/sealer.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <cstring>
#include <utility>

#include "base/units.h"

namespace tidepool::pool {
namespace {

constexpr std::size_t kNonceBytes = 12;
constexpr std::size_t kNonceZeros = 4;
constexpr std::size_t kPlaceBytes = 8 + 4 + 8;

struct FreeContext {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_CIPHER_CTX, FreeContext>;

template <class Number>
void put_little_endian(Number number, std::uint8_t* to) {
  for (std::size_t i = 0; i < sizeof(Number); ++i) to[i] = static_cast<std::uint8_t>(number >> (8 * i));
}

struct Words {
  std::array<std::uint8_t, kNonceBytes> nonce{};
  std::array<std::uint8_t, kPlaceBytes> place{};

  explicit Words(const SealPlace& at) {
    put_little_endian(at.version, nonce.data() + kNonceZeros);
    put_little_endian(static_cast<std::uint64_t>(at.slice), place.data());
    put_little_endian(at.slot, place.data() + 8);
    put_little_endian(at.version, place.data() + 12);
  }
};

const unsigned char* bytes_of(const std::byte* memory) {
  return reinterpret_cast<const unsigned char*>(memory);
}
unsigned char* bytes_of(std::byte* memory) {
  return reinterpret_cast<unsigned char*>(memory);
}

class GcmSealer final : public Sealer {
 public:
  GcmSealer(Context sealing, Context opening) : sealing_(std::move(sealing)), opening_(std::move(opening)) {}

  bool seal(const SealPlace& place, std::span<const std::byte> plain, std::byte* sealed, protocol::Tag& tag) override {
    const Words words(place);
    EVP_CIPHER_CTX* context = sealing_.get();
    int length = 0;
    return plain.size() <= kPageSize && place.version != 0 &&
           EVP_EncryptInit_ex(context, nullptr, nullptr, nullptr, words.nonce.data()) == 1 &&
           EVP_EncryptUpdate(context, nullptr, &length, words.place.data(), kPlaceBytes) == 1 &&
           EVP_EncryptUpdate(context, bytes_of(sealed), &length, bytes_of(plain.data()),
                             static_cast<int>(plain.size())) == 1 &&
           EVP_EncryptFinal_ex(context, bytes_of(sealed) + length, &length) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, static_cast<int>(tag.size()), tag.data()) == 1;
  }

  bool open(const SealPlace& place, std::span<const std::byte> sealed, const protocol::Tag& tag,
            std::byte* plain) override {
    if (sealed.size() > kPageSize) return false;
    if (opens(place, sealed, tag, plain)) return true;
    // The cipher gives its text before it knows whether it is true.
    OPENSSL_cleanse(plain, sealed.size());
    return false;
  }

 private:
  bool opens(const SealPlace& place, std::span<const std::byte> sealed, protocol::Tag tag, std::byte* plain) {
    const Words words(place);
    EVP_CIPHER_CTX* context = opening_.get();
    int length = 0;
    return EVP_DecryptInit_ex(context, nullptr, nullptr, nullptr, words.nonce.data()) == 1 &&
           EVP_DecryptUpdate(context, nullptr, &length, words.place.data(), kPlaceBytes) == 1 &&
           EVP_DecryptUpdate(context, bytes_of(plain), &length, bytes_of(sealed.data()),
                             static_cast<int>(sealed.size())) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, static_cast<int>(tag.size()), tag.data()) == 1 &&
           EVP_DecryptFinal_ex(context, bytes_of(plain) + length, &length) == 1;
  }

  Context sealing_;
  Context opening_;
};

}  // namespace

Result<std::unique_ptr<Sealer>> make_sealer(const SealKey& key) {
  Context sealing{EVP_CIPHER_CTX_new()};
  Context opening{EVP_CIPHER_CTX_new()};
  const EVP_CIPHER* cipher = EVP_aes_256_gcm();
  if (sealing == nullptr || opening == nullptr || cipher == nullptr ||
      EVP_EncryptInit_ex(sealing.get(), cipher, nullptr, key.data(), nullptr) != 1 ||
      EVP_DecryptInit_ex(opening.get(), cipher, nullptr, key.data(), nullptr) != 1)
    return failure(std::errc::not_supported, "prepare", "AES-256-GCM", "OpenSSL's library does not offer it");
  return std::unique_ptr<Sealer>(std::make_unique<GcmSealer>(std::move(sealing), std::move(opening)));
}

}  // namespace tidepool::pool
