// AES-256-GCM with one key: pages and frames are guarded by it.
//
// By OpenSSL; by Intel's ipsec-mb where it was there at build time and the processor has VAES and VPCLMULQDQ, which
// OpenSSL 3.0 makes no use of. Both give the same bytes. A nonce must never be used twice with a key: that is the
// caller's to see to.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "pool/protocol/messages.h"

namespace tidepool::protocol {

using Piece = std::span<const std::byte>;
using AesKey = std::array<std::uint8_t, 32>;

// Not thread-safe. Calls allocate nothing. The key is wiped at the end.
class AesGcm {
 public:
  static constexpr std::size_t kNonceBytes = 12;
  using Nonce = std::array<std::uint8_t, kNonceBytes>;

  virtual ~AesGcm() = default;

  // `plain` into `sealed`, of the same length, which may be the same memory. False when the cipher failed: neither
  // `sealed` nor `tag` may be used.
  [[nodiscard]] virtual bool seal(const Nonce& nonce, Piece associated, Piece plain, std::byte* sealed, Tag& tag) = 0;
  // False when it is not what was sealed: `plain` is wiped then.
  [[nodiscard]] virtual bool open(const Nonce& nonce, Piece associated, Piece sealed, const Tag& tag,
                                  std::byte* plain) = 0;
  // The tag of `first` and then `rest` as associated data, with no text: GMAC.
  [[nodiscard]] virtual bool authenticate(const Nonce& nonce, std::span<const Piece> first, std::span<const Piece> rest,
                                          Tag& tag) = 0;
};

// Errors: the library does not offer the cipher.
Result<std::unique_ptr<AesGcm>> make_aes_gcm(const AesKey& key);
// By OpenSSL, whatever the processor has.
Result<std::unique_ptr<AesGcm>> make_plain_aes_gcm(const AesKey& key);
// By ipsec-mb; null when it is of no use here.
std::unique_ptr<AesGcm> make_wide_aes_gcm(const AesKey& key);
// Which one make_aes_gcm() takes: "OpenSSL", "ipsec-mb".
const char* aes_gcm_by();

}  // namespace tidepool::protocol
