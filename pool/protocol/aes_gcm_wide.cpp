// AES-256-GCM by ipsec-mb, which works on four blocks per instruction where the processor can.
#include "pool/protocol/aes_gcm.h"

#ifdef TIDEPOOL_HAS_IPSEC_MB
#include <intel-ipsec-mb.h>
#include <openssl/crypto.h>

#endif

namespace tidepool::protocol {

#ifdef TIDEPOOL_HAS_IPSEC_MB

namespace {

struct FreeManager {
  void operator()(IMB_MGR* manager) const { free_mb_mgr(manager); }
};

// The library's functions for this processor; null when it has no wide ones, or they fail their own test. What is used
// of it here keeps no state in it, so that all threads may use it.
IMB_MGR* functions() {
  static const std::unique_ptr<IMB_MGR, FreeManager> kManager = [] {
    std::unique_ptr<IMB_MGR, FreeManager> manager(alloc_mb_mgr(0));
    if (manager == nullptr) return manager;
    init_mb_mgr_auto(manager.get(), nullptr);
    constexpr std::uint64_t kWanted = IMB_FEATURE_VAES | IMB_FEATURE_VPCLMULQDQ;
    if (imb_get_errno(manager.get()) != 0 || (manager->features & kWanted) != kWanted) manager.reset();
    return manager;
  }();
  return kManager.get();
}

class WideAesGcm final : public AesGcm {
 public:
  WideAesGcm(IMB_MGR* functions, const AesKey& key) : functions_(functions) {
    IMB_AES256_GCM_PRE(functions_, key.data(), &key_);
  }
  ~WideAesGcm() override {
    OPENSSL_cleanse(&key_, sizeof key_);
    OPENSSL_cleanse(&context_, sizeof context_);
  }
  WideAesGcm(const WideAesGcm&) = delete;
  WideAesGcm& operator=(const WideAesGcm&) = delete;

  bool seal(const Nonce& nonce, Piece associated, Piece plain, std::byte* sealed, Tag& tag) override {
    IMB_AES256_GCM_ENC(functions_, &key_, &context_, bytes(sealed), bytes(plain.data()), plain.size(), nonce.data(),
                       bytes(associated.data()), associated.size(), tag.data(), tag.size());
    return true;
  }

  bool open(const Nonce& nonce, Piece associated, Piece sealed, const Tag& tag, std::byte* plain) override {
    Tag expected{};
    IMB_AES256_GCM_DEC(functions_, &key_, &context_, bytes(plain), bytes(sealed.data()), sealed.size(), nonce.data(),
                       bytes(associated.data()), associated.size(), expected.data(), expected.size());
    if (CRYPTO_memcmp(expected.data(), tag.data(), tag.size()) == 0) return true;
    OPENSSL_cleanse(plain, sealed.size());
    return false;
  }

  bool authenticate(const Nonce& nonce, std::span<const Piece> first, std::span<const Piece> rest, Tag& tag) override {
    IMB_AES256_GMAC_INIT(functions_, &key_, &context_, nonce.data(), nonce.size());
    for (const auto pieces : {first, rest}) {
      for (const Piece piece : pieces) {
        if (!piece.empty()) IMB_AES256_GMAC_UPDATE(functions_, &key_, &context_, bytes(piece.data()), piece.size());
      }
    }
    IMB_AES256_GMAC_FINALIZE(functions_, &key_, &context_, tag.data(), tag.size());
    return true;
  }

 private:
  static std::uint8_t* bytes(std::byte* memory) { return reinterpret_cast<std::uint8_t*>(memory); }
  static const std::uint8_t* bytes(const std::byte* memory) { return reinterpret_cast<const std::uint8_t*>(memory); }

  IMB_MGR* const functions_;
  gcm_key_data key_{};
  gcm_context_data context_{};
};

}  // namespace

std::unique_ptr<AesGcm> make_wide_aes_gcm(const AesKey& key) {
  IMB_MGR* const wide = functions();
  return wide == nullptr ? nullptr : std::make_unique<WideAesGcm>(wide, key);
}

#else

std::unique_ptr<AesGcm> make_wide_aes_gcm(const AesKey&) {
  return nullptr;
}

#endif

}  // namespace tidepool::protocol
