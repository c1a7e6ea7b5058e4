#include "pool/protocol/aes_gcm.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <utility>

namespace tidepool::protocol {
namespace {

struct FreeContext {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_CIPHER_CTX, FreeContext>;

const unsigned char* bytes_of(const std::byte* memory) {
  return reinterpret_cast<const unsigned char*>(memory);
}
unsigned char* bytes_of(std::byte* memory) {
  return reinterpret_cast<unsigned char*>(memory);
}

class PlainAesGcm final : public AesGcm {
 public:
  PlainAesGcm(Context sealing, Context opening) : sealing_(std::move(sealing)), opening_(std::move(opening)) {}

  bool seal(const Nonce& nonce, Piece associated, Piece plain, std::byte* sealed, Tag& tag) override {
    int length = 0;
    return begin(nonce) && associate(associated) &&
           EVP_EncryptUpdate(sealing_.get(), bytes_of(sealed), &length, bytes_of(plain.data()),
                             static_cast<int>(plain.size())) == 1 &&
           end(tag);
  }

  bool open(const Nonce& nonce, Piece associated, Piece sealed, const Tag& tag, std::byte* plain) override {
    if (opens(nonce, associated, sealed, tag, plain)) return true;
    // The cipher gives its text before it knows whether it is true.
    OPENSSL_cleanse(plain, sealed.size());
    return false;
  }

  bool authenticate(const Nonce& nonce, std::span<const Piece> first, std::span<const Piece> rest, Tag& tag) override {
    if (!begin(nonce)) return false;
    for (const auto pieces : {first, rest}) {
      for (const Piece piece : pieces) {
        if (!associate(piece)) return false;
      }
    }
    return end(tag);
  }

 private:
  bool begin(const Nonce& nonce) {
    return EVP_EncryptInit_ex(sealing_.get(), nullptr, nullptr, nullptr, nonce.data()) == 1;
  }
  bool associate(Piece piece) {
    int length = 0;
    return piece.empty() || EVP_EncryptUpdate(sealing_.get(), nullptr, &length, bytes_of(piece.data()),
                                              static_cast<int>(piece.size())) == 1;
  }
  bool end(Tag& tag) {
    int length = 0;
    std::array<unsigned char, EVP_MAX_BLOCK_LENGTH> nothing{};
    return EVP_EncryptFinal_ex(sealing_.get(), nothing.data(), &length) == 1 &&
           EVP_CIPHER_CTX_ctrl(sealing_.get(), EVP_CTRL_AEAD_GET_TAG, kTagBytes, tag.data()) == 1;
  }
  bool opens(const Nonce& nonce, Piece associated, Piece sealed, Tag tag, std::byte* plain) {
    EVP_CIPHER_CTX* context = opening_.get();
    int length = 0;
    return EVP_DecryptInit_ex(context, nullptr, nullptr, nullptr, nonce.data()) == 1 &&
           EVP_DecryptUpdate(context, nullptr, &length, bytes_of(associated.data()),
                             static_cast<int>(associated.size())) == 1 &&
           EVP_DecryptUpdate(context, bytes_of(plain), &length, bytes_of(sealed.data()),
                             static_cast<int>(sealed.size())) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, static_cast<int>(tag.size()), tag.data()) == 1 &&
           EVP_DecryptFinal_ex(context, bytes_of(plain) + length, &length) == 1;
  }

  Context sealing_;
  Context opening_;
};

}  // namespace

Result<std::unique_ptr<AesGcm>> make_plain_aes_gcm(const AesKey& key) {
  Context sealing{EVP_CIPHER_CTX_new()};
  Context opening{EVP_CIPHER_CTX_new()};
  const EVP_CIPHER* cipher = EVP_aes_256_gcm();
  if (sealing == nullptr || opening == nullptr || cipher == nullptr ||
      EVP_EncryptInit_ex(sealing.get(), cipher, nullptr, key.data(), nullptr) != 1 ||
      EVP_DecryptInit_ex(opening.get(), cipher, nullptr, key.data(), nullptr) != 1)
    return failure(std::errc::not_supported, "prepare", "AES-256-GCM", "OpenSSL's library does not offer it");
  return std::unique_ptr<AesGcm>(std::make_unique<PlainAesGcm>(std::move(sealing), std::move(opening)));
}

Result<std::unique_ptr<AesGcm>> make_aes_gcm(const AesKey& key) {
  if (auto wide = make_wide_aes_gcm(key)) return wide;
  return make_plain_aes_gcm(key);
}

const char* aes_gcm_by() {
  static const bool wide = make_wide_aes_gcm({}) != nullptr;
  return wide ? "ipsec-mb" : "OpenSSL";
}

}  // namespace tidepool::protocol
