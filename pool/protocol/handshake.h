// Who may use a slice, and the keys of a connection's frames: docs/protocol.md, "Handshake".
//
// A token's secret is computed by whoever has the server's key, and given to the holder on a way of its own; it is
// never sent. ATTACH proves that its sender knows it. The proof and the keys cover HELLO and WELCOME as both sides saw
// them: whoever changes a version or a feature on the way is noticed. All functions are thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"
#include "pool/protocol/messages.h"

namespace tidepool::protocol {

inline constexpr std::size_t kServerKeyBytes = 32;

using ServerKey = std::array<std::uint8_t, kServerKeyBytes>;
using LeaseSecret = std::array<std::uint8_t, 32>;
using TranscriptDigest = std::array<std::uint8_t, 32>;
using FrameKey = std::array<std::uint8_t, 32>;

// Both sides' versions: the highest that both speak, or nothing.
std::optional<std::uint16_t> common_version(const Hello& hello);

// From the kernel.
Result<Random> fresh_random();
Result<BootId> fresh_boot_id();

LeaseSecret lease_secret(const ServerKey& key, const Claims& claims);

// Over the frames of HELLO and WELCOME as they were sent or received: header and body.
TranscriptDigest transcript_digest(std::span<const std::byte> hello, std::span<const std::byte> welcome);

Proof attach_proof(const LeaseSecret& secret, const TranscriptDigest& transcript, const Claims& claims);
// Takes the same time whatever is wrong.
bool proves(const Proof& proof, const LeaseSecret& secret, const TranscriptDigest& transcript, const Claims& claims);

struct FrameKeys {
  FrameKey to_server{};
  FrameKey to_client{};
};
// From the secret of the ATTACH that keys the connection.
FrameKeys frame_keys(const LeaseSecret& secret, const Random& client, const Random& server,
                     const TranscriptDigest& transcript);

}  // namespace tidepool::protocol
