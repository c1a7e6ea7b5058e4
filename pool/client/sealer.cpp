#include "pool/client/sealer.h"

#include <utility>

#include "base/units.h"
#include "pool/protocol/aes_gcm.h"

namespace tidepool::pool {
namespace {

constexpr std::size_t kNonceZeros = 4;
constexpr std::size_t kPlaceBytes = 8 + 4 + 8;

template <class Number>
void put_little_endian(Number number, std::uint8_t* to) {
  for (std::size_t i = 0; i < sizeof(Number); ++i) to[i] = static_cast<std::uint8_t>(number >> (8 * i));
}

struct Words {
  protocol::AesGcm::Nonce nonce{};
  std::array<std::uint8_t, kPlaceBytes> place{};

  explicit Words(const SealPlace& at) {
    put_little_endian(at.version, nonce.data() + kNonceZeros);
    put_little_endian(static_cast<std::uint64_t>(at.slice), place.data());
    put_little_endian(at.slot, place.data() + 8);
    put_little_endian(at.version, place.data() + 12);
  }
};

class GcmSealer final : public Sealer {
 public:
  explicit GcmSealer(std::unique_ptr<protocol::AesGcm> cipher) : cipher_(std::move(cipher)) {}

  bool seal(const SealPlace& place, std::span<const std::byte> plain, std::byte* sealed, protocol::Tag& tag) override {
    if (plain.size() > kPageSize || place.version == 0) return false;
    const Words words(place);
    return cipher_->seal(words.nonce, std::as_bytes(std::span(words.place)), plain, sealed, tag);
  }
  bool open(const SealPlace& place, std::span<const std::byte> sealed, const protocol::Tag& tag,
            std::byte* plain) override {
    if (sealed.size() > kPageSize) return false;
    const Words words(place);
    return cipher_->open(words.nonce, std::as_bytes(std::span(words.place)), sealed, tag, plain);
  }

 private:
  const std::unique_ptr<protocol::AesGcm> cipher_;
};

}  // namespace

Result<std::unique_ptr<Sealer>> make_sealer(const SealKey& key) {
  auto cipher = protocol::make_aes_gcm(key);
  if (!cipher) return Failure{cipher.error()};
  return std::unique_ptr<Sealer>(std::make_unique<GcmSealer>(std::move(*cipher)));
}

}  // namespace tidepool::pool
